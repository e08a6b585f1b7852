"""client: apps and machines that may come in. Every change is audited; a secret is shown once."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wetread.access import rights, secrets
from wetread.access.clients import clients, registration
from wetread.access.clients.clients import Client
from wetread.access.clients.known import holder
from wetread.commands.options import Config, DataDir, duration, noted, within
from wetread.commands.printing import table
from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.store.database import Connection

client = typer.Typer(help="Apps and machines that may come in, their secrets and API keys.", no_args_is_help=True)

ClientId = Annotated[str, typer.Argument(help="The client's id: a-z 0-9 . _ -", show_default=False)]
Expires = Annotated[str, typer.Option(help="How long the secret is valid: 1h, 90d.")]
Roles = Annotated[
    list[str] | None,
    typer.Option("--role", help=f"Of {', '.join(rights.ROLES)}; may be given again.", show_default=False),
]


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
        await _changed(conn, reader, client_id, "registered", kind=kind, scope=wanted.scope)
        return await secrets.make(conn, client_id, lifetime) if kind == "symmetric" else None

    made = within(config, data_dir, add)
    typer.echo(f"the client {client_id} is registered", err=True)
    if made is not None:
        _show_once(made)


def _usual_grants(kind: str, has_redirect: bool) -> tuple[str, ...]:
    if has_redirect:
        return ("authorization_code", "refresh_token")
    return ("client_credentials",) if kind == "asymmetric" else ()


@client.command("change")
def change_client(
    client_id: ClientId,
    name: Annotated[str | None, typer.Option(help="As people are told it when they are asked for consent.")] = None,
    scope: Annotated[str | None, typer.Option(help="The most that it may be given.")] = None,
    redirect_uri: Annotated[list[str] | None, _several("Where people are sent back to")] = None,
    launch_uri: Annotated[str | None, typer.Option(help="Where the app is launched.")] = None,
    grant: Annotated[list[str] | None, _several(f"Of {', '.join(registration.GRANTS)}")] = None,
    jwks: Annotated[Path | None, typer.Option(help="A file with its public keys.", exists=True)] = None,
    jwks_uri: Annotated[str | None, typer.Option(help="Where its public keys are.")] = None,
    network: Annotated[list[str] | None, _several("A network (CIDR) that it may call from")] = None,
    role: Roles = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Register a client anew: what is given takes the place of what was, the rest stays. Tokens that it has end."""
    given: dict[str, Any] = {
        "name": name,
        "scope": scope,
        "redirect_uris": redirect_uri,
        "launch_uri": launch_uri,
        "grant_types": grant,
        "jwks": _json(jwks) if jwks else None,
        "jwks_uri": jwks_uri,
        "networks": network,
        "roles": role,
    }
    changed = {key: value for key, value in given.items() if value is not None}
    if "jwks" in changed or "jwks_uri" in changed:
        changed = {"jwks": None, "jwks_uri": "", **changed}

    async def change(conn: Connection, reader: Reader) -> None:
        wanted = registration.checked(**{**_registered(await clients.named(conn, client_id)), **changed})
        await clients.change(conn, client_id, wanted)
        await _changed(
            conn, reader, client_id, "registered anew", changed=" ".join(sorted(changed)), scope=wanted.scope
        )

    within(config, data_dir, change)


def _registered(found: Client) -> dict[str, Any]:
    """What `registration.checked` would have been given for it."""
    return {
        "name": found.name,
        "kind": found.kind,
        "scope": _scope(found),
        "redirect_uris": found.redirect_uris,
        "launch_uri": found.launch_uri,
        "grant_types": found.grant_types,
        "jwks": found.jwks,
        "jwks_uri": found.jwks_uri,
        "networks": [str(network) for network in found.networks],
        "roles": found.roles,
    }


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
        await _changed(conn, reader, client_id, "secret rotated", secret=made.id, overlap=overlap)
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
        await _changed(conn, reader, client_id, "API key made", **told)
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
        await _changed(conn, reader, client_id, "secret or key ended", id=identity)

    within(config, data_dir, revoke)


@client.command("disable")
def disable_client(client_id: ClientId, config: Config = None, data_dir: DataDir = None) -> None:
    """Shut a client out: its secrets, keys and tokens count no more, in all processes within about a second."""
    within(config, data_dir, _changing_client(client_id, clients.disable, "disabled"))


@client.command("enable")
def enable_client(client_id: ClientId, config: Config = None, data_dir: DataDir = None) -> None:
    """Let a client in again. The tokens that it had before stay ended."""
    within(config, data_dir, _changing_client(client_id, clients.enable, "enabled"))


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
        await _changed(conn, reader, client_id, what)

    return changing


async def _changed(conn: Connection, reader: Reader, client_id: str, what: str, **told: str) -> None:
    await noted(conn, reader, "client-changed", client_id, {"what": what, **told})
