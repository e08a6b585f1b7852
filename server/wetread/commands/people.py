"""user: people who sign in with a password, which is never taken from the command line. Every change is audited."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from wetread.access import rights
from wetread.access.people import accounts, attempts, passwords, sessions, totp
from wetread.access.people.passwords import Passwords
from wetread.commands.options import Config, DataDir, noted, settings_of, within
from wetread.commands.printing import table
from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.store.database import Connection

user = typer.Typer(help="People who sign in with a password.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The name that the person signs in with.", show_default=False)]
Roles = Annotated[
    list[str] | None,
    typer.Option("--role", help=f"Of {', '.join(rights.ROLES)}; may be given again.", show_default=False),
]


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
        await _changed(conn, reader, name, "account made", roles=" ".join(sorted(made.roles)))

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
    """Give a person these roles in place of those before. Their sessions end, and what apps hold for them."""

    async def change(conn: Connection, reader: Reader) -> None:
        await accounts.set_roles(conn, name, role or ())
        # A new role may need a second factor, which is asked for at the door.
        await sessions.end_all(conn, name)
        await _changed(conn, reader, name, "roles", roles=" ".join(role or ()))

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
        await attempts.opened(conn, name)
        await sessions.end_all(conn, name)
        await _changed(conn, reader, name, "password")

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
    within(config, data_dir, _changing_account(name, attempts.opened, "opened after failed logins"))


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


def _changing_account(
    name: str, change: Callable[[Connection, str], Awaitable[None]], what: str
) -> Callable[[Connection, Reader], Awaitable[None]]:
    async def changing(conn: Connection, reader: Reader) -> None:
        await accounts.named(conn, name)
        await change(conn, name)
        await _changed(conn, reader, name, what)

    return changing


async def _changed(conn: Connection, reader: Reader, name: str, what: str, **told: str) -> None:
    await noted(conn, reader, "account-changed", name, {"what": what, **told})
