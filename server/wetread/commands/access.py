"""client, user: who may come in. Every change is audited; no password is taken from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wetread.access import accounts, attempts, clients, passwords, registration, rights, secrets, sessions, totp
from wetread.access.clients import Client
from wetread.access.known_clients import holder
from wetread.access.passwords import Passwords
from wetread.commands.options import Config, DataDir, duration, settings_of, within
from wetread.commands.printing import table
from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record.audit import audit
from wetread.store.database import Connection

client = typer.Typer(help="Apps and machines that may come in, their secrets and API keys.", no_args_is_help=True)
user = typer.Typer(help="People who sign in with a password.", no_args_is_help=True)

ClientId = Annotated[str, typer.Argument(help="The client's id: a-z 0-9 . _ -", show_default=False)]
Name = Annotated[str, typer.Argument(help="The name that the person signs in with.", show_default=False)]
Roles = Annotated[
    list[str] | None,
    typer.Option("--role", help=f"Of {', '.join(rights.ROLES)}; may be given again.", show_default=False),
]
Expires = Annotated[str, typer.Option(help="How long the secret is valid: 1h, 90d.")]


def _several(help: str) -> Any:
    return typer.Option(help=f"{help}; may be given again.", show_default=False)


@client.command("add")
def add_client(
    client_id: ClientId,
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(registration.KINDS)}.")],
    scope: Annotated[str, typer.Option(help='The most that it may be given, e.g. "launch openid patient/*.rs".')],
    name: Annotated[str, typer.Option(help="As people are told it when they are asked for consent.")] = "",
    redirect_uri: Annotated[list[str] | None, _several("Where people are sent back to")] = None,
    launch_uri: Annotated[str, typer.Option(help="Where the app is launched.")] = "",
    grant: Annotated[list[str] | None, _several(f"Of {', '.join(registration.GRANTS)}")] = None,
    jwks: Annotated[Path | None, typer.Option(help="A file with its public keys.", exists=True)] = None,
    jwks_uri: Annotated[str, typer.Option(help="Where its public keys are.")] = "",
    network: Annotated[list[str] | None, _several("A network (CIDR) that it may call from")] = None,
    role: Roles = None,
    expires: Expires = "365d",
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Register a client. The secret of a symmetric one is shown now, and never again."""
    wanted = registration.checked(
        name=name or client_id,
        kind=kind,
        scope=scope,
        redirect_uris=redirect_uri or (),
        launch_uri=launch_uri,
        grant_types=grant or _usual_grants(kind, bool(redirect_uri)),
        roles=role or (),
        jwks=_json(jwks) if jwks else None,
        jwks_uri=jwks_uri,
        networks=network or (),
    )
    registration.check_client_id(client_id)
    lifetime = duration(expires)

    async def add(conn: Connection, reader: Reader) -> secrets.Made | None:
        await clients.add(conn, client_id, wanted)
        await _client_changed(conn, reader, client_id, "registered", kind=kind, scope=wanted.scope)
        return await secrets.make(conn, client_id, lifetime) if kind == "symmetric" else None

    made = within(config, data_dir, add)
    typer.echo(f"the client {client_id} is registered", err=True)
    if made is not None:
        _show_once(made)


def _usual_grants(kind: str, has_redirect: bool) -> tuple[str, ...]:
    if has_redirect:
        return ("authorization_code", "refresh_token")
    return ("client_credentials",) if kind == "asymmetric" else ()


@client.command("list")
def list_clients(config: Config = None, data_dir: DataDir = None) -> None:
    """Every client, and whether it is open."""
    found = within(config, data_dir, lambda conn, reader: clients.all_of_them(conn))
    table(
        ("client", "name", "kind", "scope", "roles", "registered", "disabled"),
        [
            (c.client_id, c.name, c.kind, _scope(c), ", ".join(sorted(c.roles)), c.created_at, c.disabled_at)
            for c in found
        ],
    )


@client.command("show")
def show_client(client_id: ClientId, config: Config = None, data_dir: DataDir = None) -> None:
    """A client as it is registered, and what was given out to it, without the secrets."""

    async def show(conn: Connection, reader: Reader) -> tuple[Client, list[secrets.Secret]]:
        return await clients.named(conn, client_id), await secrets.of_client(conn, client_id)

    found, given = within(config, data_dir, show)
    keys = "in the database" if found.jwks else found.jwks_uri
    table(
        ("", ""),
        [
            ("client", found.client_id),
            ("name", found.name),
            ("kind", found.kind),
            ("redirect URIs", " ".join(found.redirect_uris)),
            ("launch URI", found.launch_uri),
            ("grants", " ".join(sorted(found.grant_types))),
            ("scope", _scope(found)),
            ("roles", " ".join(sorted(found.roles))),
            ("public keys", keys),
            ("networks", " ".join(map(str, found.networks)) or "any"),
            ("registered", found.created_at),
            ("disabled", found.disabled_at),
        ],
    )
    table(
        ("id", "kind", "scope", "roles", "made", "expires", "ended"),
        [
            (
                one.id,
                one.kind.replace("_", " "),
                one.scope,
                None if one.roles is None else " ".join(one.roles),
                one.created_at,
                one.expires_at,
                one.revoked_at,
            )
            for one in given
        ],
    )


@client.command("rotate")
def rotate_secret(
    client_id: ClientId,
    expires: Expires = "365d",
    overlap: Annotated[str, typer.Option(help="How long the secrets before it stay valid.")] = "7d",
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """A new secret, shown once. Those before it stay valid for the overlap, so that the client never stands outside."""

    async def rotate(conn: Connection, reader: Reader) -> secrets.Made:
        if (await clients.named(conn, client_id)).kind != "symmetric":
            raise InvalidInput("only a symmetric client has a secret; others change their own keys, or get an API key")
        made = await secrets.rotate(conn, client_id, duration(expires), duration(overlap))
        await _client_changed(conn, reader, client_id, "secret rotated", secret=made.id, overlap=overlap)
        return made

    _show_once(within(config, data_dir, rotate))


@client.command("key")
def make_key(
    client_id: ClientId,
    expires: Annotated[str, typer.Option(help="How long the key is valid: 1h, 90d.")],
    scope: Annotated[
        str | None, typer.Option(help="The part of the client's system scopes; all where left out.")
    ] = None,
    role: Roles = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """A new API key, shown once: `Authorization: Bearer wtr_...` opens what the client may for itself, or a part."""

    async def make(conn: Connection, reader: Reader) -> secrets.Made:
        found = await clients.named(conn, client_id)
        if missing := sorted(rights.checked(role or ()) - found.roles):
            raise InvalidInput(f"the client does not have the role {', '.join(missing)}")
        for word in (scope or "").split():
            if not holder(found, word, None).scopes:
                raise InvalidInput(f"the client does not have {word} to give away")
        made = await secrets.make_api_key(conn, client_id, duration(expires), scope=scope, roles=role)
        told = {"key": made.id, "scope": "all of the client's" if scope is None else scope}
        await _client_changed(conn, reader, client_id, "API key made", **told)
        return made

    _show_once(within(config, data_dir, make))


@client.command("revoke")
def revoke_secret(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Of a secret or key, as `client show` tells it.")],
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """End one secret or API key at once."""

    async def revoke(conn: Connection, reader: Reader) -> None:
        client_id = await secrets.revoke(conn, identity)
        await _client_changed(conn, reader, client_id, "secret or key ended", id=identity)

    within(config, data_dir, revoke)


@client.command("disable")
def disable_client(client_id: ClientId, config: Config = None, data_dir: DataDir = None) -> None:
    """Shut a client out: its secrets, keys and tokens count no more, in all processes within about a second."""
    within(config, data_dir, _changing_client(client_id, clients.disable, "disabled"))


@client.command("enable")
def enable_client(client_id: ClientId, config: Config = None, data_dir: DataDir = None) -> None:
    """Let a client in again. The tokens that it had before stay ended."""
    within(config, data_dir, _changing_client(client_id, clients.enable, "enabled"))


@user.command("add")
def add_user(
    name: Name,
    display_name: Annotated[str, typer.Option(help="As pages and results show the person.")] = "",
    role: Roles = None,
    fhir_user: Annotated[str, typer.Option(help="The person in the record, e.g. Practitioner/123.")] = "",
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Make a person's account. The password is asked for, or read from the first line of standard input."""
    rules = Passwords(settings_of(config, data_dir).access.password_length)
    password = _new_password(rules, name)

    async def add(conn: Connection, reader: Reader) -> None:
        made = await accounts.add(conn, name, display_name, role or (), fhir_user=fhir_user)
        await passwords.keep(conn, name, await rules.hashed(password))
        await _account_changed(conn, reader, name, "account made", roles=" ".join(sorted(made.roles)))

    within(config, data_dir, add)


@user.command("list")
def list_users(config: Config = None, data_dir: DataDir = None) -> None:
    """Every person, those of identity providers too."""
    found = within(config, data_dir, lambda conn, reader: accounts.all_of_them(conn))
    table(
        ("name", "person", "roles", "second factor", "closed until", "made", "disabled"),
        [
            (
                person.name,
                person.display_name,
                " ".join(sorted(person.roles)),
                "yes" if person.has_totp else "the provider's" if person.issuer else "no",
                person.locked_until,
                person.created_at,
                person.disabled_at,
            )
            for person in found
        ],
    )


@user.command("roles")
def set_roles(
    name: Name,
    role: Annotated[list[str] | None, typer.Argument(help="All that the person has from now on.")] = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Give a person these roles in place of those before. Tokens that apps hold for the person end."""

    async def change(conn: Connection, reader: Reader) -> None:
        await accounts.set_roles(conn, name, role or ())
        await _account_changed(conn, reader, name, "roles", roles=" ".join(role or ()))

    within(config, data_dir, change)


@user.command("password")
def set_password(name: Name, config: Config = None, data_dir: DataDir = None) -> None:
    """Set a person's password, asked for or read from the first line of standard input. Their sessions end."""
    rules = Passwords(settings_of(config, data_dir).access.password_length)
    password = _new_password(rules, name)

    async def change(conn: Connection, reader: Reader) -> None:
        if (await accounts.named(conn, name)).issuer:
            raise InvalidInput("this person signs in at an identity provider and has no password here")
        await passwords.keep(conn, name, await rules.hashed(password))
        await attempts.succeeded(conn, name)
        await sessions.end_all(conn, name)
        await _account_changed(conn, reader, name, "password")

    within(config, data_dir, change)


@user.command("disable")
def disable_user(name: Name, config: Config = None, data_dir: DataDir = None) -> None:
    """Shut a person out: their sessions, and what apps hold for them, end within about a second."""

    async def disable(conn: Connection, name: str) -> None:
        await accounts.disable(conn, name)
        await sessions.end_all(conn, name)

    within(config, data_dir, _changing_account(name, disable, "disabled"))


@user.command("enable")
def enable_user(name: Name, config: Config = None, data_dir: DataDir = None) -> None:
    """Let a person in again."""
    within(config, data_dir, _changing_account(name, accounts.enable, "enabled"))


@user.command("unlock")
def unlock_user(name: Name, config: Config = None, data_dir: DataDir = None) -> None:
    """Open a name that is closed after failed logins."""
    within(config, data_dir, _changing_account(name, attempts.succeeded, "opened after failed logins"))


@user.command("totp-reset")
def reset_totp(name: Name, config: Config = None, data_dir: DataDir = None) -> None:
    """Forget a person's second factor, such as after a lost phone. Their sessions end."""

    async def reset(conn: Connection, name: str) -> None:
        await totp.remove(conn, name)
        await sessions.end_all(conn, name)

    within(config, data_dir, _changing_account(name, reset, "second factor forgotten"))


def _new_password(rules: Passwords, name: str) -> str:
    """From the terminal, twice; else the first line of standard input. Raises InvalidInput."""
    if sys.stdin.isatty():
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    rules.require_good(name, password)
    return password


def _json(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise InvalidInput(f"{file} is not JSON") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{file} holds no JWKS")
    return content


def _scope(found: Client) -> str:
    return " ".join((*sorted(found.words), *map(str, found.scopes)))


def _show_once(made: secrets.Made) -> None:
    """The secret alone on standard output; what belongs to it beside."""
    typer.echo(made.text)
    typer.echo(f"id {made.id}, valid until {made.expires_at:%Y-%m-%d %H:%M} UTC; it is not shown again", err=True)


def _changing_client(
    client_id: str, change: Callable[[Connection, str], Awaitable[None]], what: str
) -> Callable[[Connection, Reader], Awaitable[None]]:
    async def changing(conn: Connection, reader: Reader) -> None:
        await change(conn, client_id)
        await _client_changed(conn, reader, client_id, what)

    return changing


def _changing_account(
    name: str, change: Callable[[Connection, str], Awaitable[None]], what: str
) -> Callable[[Connection, Reader], Awaitable[None]]:
    async def changing(conn: Connection, reader: Reader) -> None:
        await accounts.named(conn, name)
        await change(conn, name)
        await _account_changed(conn, reader, name, what)

    return changing


async def _client_changed(conn: Connection, reader: Reader, client_id: str, what: str, **told: str) -> None:
    await _changed(conn, reader, "client-changed", client_id, {"what": what, **told})


async def _account_changed(conn: Connection, reader: Reader, name: str, what: str, **told: str) -> None:
    await _changed(conn, reader, "account-changed", name, {"what": what, **told})


async def _changed(conn: Connection, reader: Reader, kind: str, name: str, detail: Mapping[str, str]) -> None:
    entities = (audit.Entity(identifier=name, type_code="1" if kind == "account-changed" else "2", role_code="11"),)
    entry = audit.AuditEntry(
        kind=kind, action="U", outcome="0", principal=reader.principal, entities=entities, detail=detail
    )
    await audit.write(conn, entry)
