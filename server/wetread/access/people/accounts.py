"""People who may sign in: those of the site itself, and those whom an identity provider vouches for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row

from wetread.access import rights
from wetread.access.names import require_free
from wetread.access.revocation import revoke
from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, NotFound
from wetread.store.database import Connection

# No ":" and no "#": neither `operator:...` nor a person of an identity provider is named so.
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_FHIR_USER = re.compile(r"(Practitioner|PractitionerRole|Patient|RelatedPerson|Person)/[A-Za-z0-9.-]{1,64}")
_MOST_CHARACTERS = 200

_COLUMNS: LiteralString = """
    name, display_name, roles, fhir_user, issuer, subject, password_hash IS NOT NULL AS has_password,
    totp_sealed IS NOT NULL AS has_totp, failures, locked_until, disabled_at, created_at
"""


@dataclass(frozen=True, slots=True)
class Account:
    """`issuer` is the identity provider that vouches for the person, `subject` their id there; empty for local ones."""

    name: str
    display_name: str
    roles: frozenset[str]
    fhir_user: str
    issuer: str
    subject: str
    has_password: bool
    has_totp: bool
    failures: int
    locked_until: datetime | None
    disabled_at: datetime | None
    created_at: datetime

    def reader(self) -> Reader:
        """The person with all their rights: what a session opens."""
        return Reader(self.name, rights.of_roles(sorted(self.roles)), self.roles)


async def by_name(conn: Connection, name: str, *, held: bool = False) -> Account | None:
    """Disabled ones too: look at `disabled_at`. `held`: nobody changes it until the transaction ends."""
    if not name.isprintable():
        return None
    found = await _many(conn, "WHERE name = %s FOR SHARE" if held else "WHERE name = %s", (name,))
    return found[0] if found else None


async def by_subject(conn: Connection, issuer: str, subject: str) -> Account | None:
    """The person whom this identity provider knows by `subject`; disabled ones too."""
    if not issuer.isprintable() or not subject.isprintable():
        return None
    found = await _many(conn, "WHERE issuer = %s AND subject = %s AND issuer <> ''", (issuer, subject))
    return found[0] if found else None


async def named(conn: Connection, name: str) -> Account:
    """Raises NotFound."""
    account = await by_name(conn, name)
    if account is None:
        raise NotFound("no account has this name")
    return account


async def all_of_them(conn: Connection) -> list[Account]:
    """By name, the disabled ones too."""
    return await _many(conn, "ORDER BY name", ())


async def add(conn: Connection, name: str, display_name: str, roles: Iterable[str], *, fhir_user: str = "") -> Account:
    """A local person, who cannot sign in before a password is set.

    Raises InvalidInput on a name that is none, Misconfigured on a role that there is not, Conflict where the name is
    taken.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput("a person's name to sign in with is of a-z 0-9 . _ @ -, at most 64 characters")
    await require_free(conn, name)
    await conn.execute(
        "INSERT INTO account (name, display_name, roles, fhir_user) VALUES (%s, %s, %s, %s)",
        (name, _display(display_name or name), sorted(rights.checked(roles)), _fhir_user(fhir_user)),
    )
    return await named(conn, name)


async def vouched(
    conn: Connection, issuer: str, subject: str, display_name: str, roles: Iterable[str], fhir_user: str
) -> Account:
    """The person whom an identity provider vouches for, made on the first visit, with name and roles as it tells them
    now; tokens that were given out count no more where a role is gone. The name is `issuer#subject` (OpenID Connect
    Core 5.7: only both together name a person), so that no provider can speak for a local person or another's. Look at
    `disabled_at` before letting them in.

    Raises Misconfigured on a role that there is not, InvalidInput on an issuer or subject that is empty or unprintable.
    """
    if not issuer or not subject or not issuer.isprintable() or not subject.isprintable():
        raise InvalidInput("an identity provider names its issuer and a subject")
    wanted, before = rights.checked(roles), await by_subject(conn, issuer, subject)
    if before is not None and before.roles - wanted:
        await revoke(conn, "account", before.name)
    await conn.execute(
        """
        INSERT INTO account (name, display_name, roles, fhir_user, issuer, subject, signed_in_at)
        VALUES (%s, %s, %s, %s, %s, %s, clock_timestamp())
        ON CONFLICT (issuer, subject) WHERE issuer <> ''
        DO UPDATE SET display_name = excluded.display_name, roles = excluded.roles, fhir_user = excluded.fhir_user,
            signed_in_at = excluded.signed_in_at
        """,
        (
            f"{issuer}#{subject}",
            _display(display_name or subject),
            sorted(wanted),
            _fhir_user(fhir_user),
            issuer,
            subject,
        ),
    )
    return await named(conn, f"{issuer}#{subject}")


async def set_roles(conn: Connection, name: str, roles: Iterable[str]) -> None:
    """Open sessions have them from their next request on; tokens that were given out count no more, since they say
    what the roles were. Raises NotFound, Misconfigured."""
    await named(conn, name)
    # First the row: who gives out a token at this moment holds it, so the revocation comes after that token.
    await conn.execute("UPDATE account SET roles = %s WHERE name = %s", (sorted(rights.checked(roles)), name))
    await revoke(conn, "account", name)


async def disable(conn: Connection, name: str) -> None:
    """Nothing is given to the person from now on, and tokens that were count no more; the caller also ends their
    sessions. Raises NotFound."""
    await named(conn, name)
    await conn.execute(
        "UPDATE account SET disabled_at = coalesce(disabled_at, clock_timestamp()) WHERE name = %s", (name,)
    )
    await revoke(conn, "account", name)


async def enable(conn: Connection, name: str) -> None:
    """Raises NotFound."""
    await named(conn, name)
    await conn.execute("UPDATE account SET disabled_at = NULL WHERE name = %s", (name,))


def _display(name: str) -> str:
    """As it can stand in a page and in an audit record: one line, not without end."""
    return "".join(char for char in name if char.isprintable())[:_MOST_CHARACTERS]


def _fhir_user(reference: str) -> str:
    if reference and not _FHIR_USER.fullmatch(reference):
        raise InvalidInput("fhirUser is a reference like Practitioner/123 (SMART App Launch 2.2)")
    return reference


async def _many(conn: Connection, tail: LiteralString, values: tuple[object, ...]) -> list[Account]:
    rows = conn.cursor(row_factory=dict_row)
    await rows.execute(f"SELECT {_COLUMNS} FROM account {tail}", values)
    return [_account(row) async for row in rows]


def _account(row: dict[str, Any]) -> Account:
    return Account(**{**row, "roles": frozenset(row["roles"])})
