"""Registered clients: apps that people use, and machines that come for themselves (RFC 6749 2)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from wetread.access.clients.registration import Network, Registration, is_resource_scope
from wetread.access.names import require_free
from wetread.access.revocation import revoke
from wetread.domain.reader import Scope
from wetread.errors import NotFound
from wetread.store.database import Connection

_COLUMNS: LiteralString = """
    client_id, name, kind, redirect_uris, launch_uri, grant_types, scope, roles, jwks, jwks_uri, networks,
    disabled_at, created_at
"""


@dataclass(frozen=True, slots=True)
class Client:
    """`scopes` and `words` are the most that it may be given: what opens resources, and the rest (`openid`,
    `launch/patient`, `offline_access`). `roles` are of tokens that it gets for itself."""

    client_id: str
    name: str
    kind: str
    redirect_uris: tuple[str, ...]
    launch_uri: str
    grant_types: frozenset[str]
    scopes: tuple[Scope, ...]
    words: frozenset[str]
    roles: frozenset[str]
    jwks: Mapping[str, Any] | None
    jwks_uri: str
    networks: tuple[Network, ...]
    disabled_at: datetime | None
    created_at: datetime

    def admits(self, host: str | None) -> bool:
        """Whether it may call from this address."""
        return admits(self.networks, host)


def admits(networks: Iterable[Network], host: str | None) -> bool:
    """Whether a peer at this address is in one of the networks; any is where none are named.

    An IPv4-mapped IPv6 address is the IPv4 address (RFC 4291 2.5.5.2).
    """
    allowed = tuple(networks)
    if not allowed:
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in allowed)


async def by_id(conn: Connection, client_id: str, *, disabled_too: bool = False, held: bool = False) -> Client | None:
    """The client; None where there is none, or where it is disabled. `held`: nobody changes it until the transaction
    ends."""
    if not client_id.isprintable():
        return None
    of = "WHERE client_id = %s FOR SHARE" if held else "WHERE client_id = %s"
    found = await _many(conn, of, (client_id,))
    return found[0] if found and (disabled_too or found[0].disabled_at is None) else None


async def all_of_them(conn: Connection) -> list[Client]:
    """The disabled ones too, by id."""
    return await _many(conn, "ORDER BY client_id", ())


async def add(conn: Connection, client_id: str, wanted: Registration) -> Client:
    """Raises Conflict where the id is taken."""
    await require_free(conn, client_id)
    await conn.execute(
        """
        INSERT INTO client (name, kind, redirect_uris, launch_uri, grant_types, scope, roles, jwks, jwks_uri, networks,
                            client_id)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::cidr[], %s)
        """,
        (*_row(wanted), client_id),
    )
    return await named(conn, client_id)


async def change(conn: Connection, client_id: str, wanted: Registration) -> None:
    """Registers it anew. Tokens that it has count no more, since they say what it was given before. Raises NotFound."""
    await named(conn, client_id)
    # First the row: who gives out a token at this moment holds it, so the revocation comes after that token.
    await conn.execute(
        """
        UPDATE client SET (name, kind, redirect_uris, launch_uri, grant_types, scope, roles, jwks, jwks_uri, networks)
            = (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::cidr[])
        WHERE client_id = %s
        """,
        (*_row(wanted), client_id),
    )
    await revoke(conn, "client", client_id)


def _row(wanted: Registration) -> tuple[object, ...]:
    return (
        wanted.name,
        wanted.kind,
        list(wanted.redirect_uris),
        wanted.launch_uri,
        sorted(wanted.grant_types),
        wanted.scope,
        sorted(wanted.roles),
        Jsonb(wanted.jwks) if wanted.jwks is not None else None,
        wanted.jwks_uri,
        [str(network) for network in wanted.networks],
    )


async def named(conn: Connection, client_id: str) -> Client:
    """Disabled or not. Raises NotFound."""
    client = await by_id(conn, client_id, disabled_too=True)
    if client is None:
        raise NotFound(f"no client is registered as {client_id!r}")
    return client


async def disable(conn: Connection, client_id: str) -> None:
    """Nothing is given to it from now on, and tokens that were count no more. Raises NotFound."""
    await named(conn, client_id)
    await conn.execute(
        "UPDATE client SET disabled_at = coalesce(disabled_at, clock_timestamp()) WHERE client_id = %s", (client_id,)
    )
    await revoke(conn, "client", client_id)


async def enable(conn: Connection, client_id: str) -> None:
    """What was revoked stays so. Raises NotFound."""
    await named(conn, client_id)
    await conn.execute("UPDATE client SET disabled_at = NULL WHERE client_id = %s", (client_id,))


async def _many(conn: Connection, tail: LiteralString, values: tuple[object, ...]) -> list[Client]:
    rows = conn.cursor(row_factory=dict_row)
    await rows.execute(f"SELECT {_COLUMNS} FROM client {tail}", values)
    return [_client(row) async for row in rows]


def _client(row: dict[str, Any]) -> Client:
    words = row.pop("scope").split()
    return Client(
        **{
            **row,
            "redirect_uris": tuple(row["redirect_uris"]),
            "grant_types": frozenset(row["grant_types"]),
            "scopes": tuple(Scope.parse(word) for word in words if is_resource_scope(word)),
            "words": frozenset(word for word in words if not is_resource_scope(word)),
            "roles": frozenset(row["roles"]),
            "networks": tuple(row["networks"]),
        }
    )
