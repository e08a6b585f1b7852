"""What a process remembers of clients and API keys for about a second, so that no request asks the database for them.

A client that is disabled, a key that is ended and a network that is taken away count within that time in all processes.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from wetread.access.clients import clients
from wetread.access.clients.clients import Client
from wetread.access.clients.registration import is_resource_scope
from wetread.access.rights import narrowed
from wetread.access.secrets import digest
from wetread.domain.reader import Reader, Scope
from wetread.errors import Forbidden, Unauthorized
from wetread.store.database import Connection, Database

KEY_PREFIX = "wtr_"
_KEY = re.compile(r"wtr_([0-9a-f]{32})_[A-Za-z0-9_-]{43}")
_REMEMBERED_S = 1.0
_NEWCOMER_S = 0.05
"""A key that nobody knows, or the client that a token was given to, may have been made since: asked for again, but not
more often than this, however many such come."""


@dataclass(frozen=True, slots=True)
class _ApiKey:
    client: Client
    digest: bytes
    expires_at: float
    reader: Reader


@dataclass(frozen=True, slots=True)
class _Known:
    since: float = -math.inf
    clients: Mapping[str, Client] = field(default_factory=dict)
    keys: Mapping[str, _ApiKey] = field(default_factory=dict)


class KnownClients:
    """The enabled clients and the API keys that count, read anew once a second at most, and only when asked."""

    def __init__(self, database: Database, remembered_s: float = _REMEMBERED_S) -> None:
        self._database = database
        self._remembered_s = remembered_s
        self._known = _Known()
        self._reading = asyncio.Lock()

    async def holder_of(self, key: str, host: str | None) -> Reader:
        """The client of an API key, calling from an address.

        Raises Unauthorized: no such key, expired, ended, or its client disabled. Raises Forbidden: not from there.
        """
        found = _KEY.fullmatch(key)
        known = await self._key(found.group(1)) if found else None
        if known is None or not hmac.compare_digest(known.digest, digest(key)) or time.time() >= known.expires_at:
            raise Unauthorized("the API key is not valid here or has expired; `wetread client key` makes one")
        _require_admitted(known.client, host)
        return known.reader

    async def require_open(self, client_id: str, host: str | None) -> None:
        """That a client to which a token was given is still open, and may call from this address.

        Raises Unauthorized, Forbidden.
        """
        client = (await self._now()).clients.get(client_id) or (await self._now(_NEWCOMER_S)).clients.get(client_id)
        if client is None:
            raise Unauthorized("the client of this access token is not open here")
        _require_admitted(client, host)

    async def _key(self, identity: str) -> _ApiKey | None:
        return (await self._now()).keys.get(identity) or (await self._now(_NEWCOMER_S)).keys.get(identity)

    async def _now(self, at_most_s: float | None = None) -> _Known:
        """What is known, read anew where that was longer ago than `at_most_s`, or than anything is remembered."""
        kept_s = self._remembered_s if at_most_s is None else min(at_most_s, self._remembered_s)
        if time.monotonic() >= self._known.since + kept_s:
            async with self._reading:
                if time.monotonic() >= self._known.since + kept_s:
                    self._known = await self._read()
        return self._known

    async def _read(self) -> _Known:
        # From before the question: what changes while it is answered is asked for again in time.
        since = time.monotonic()
        async with self._database.transaction() as conn:
            open_ones = {c.client_id: c for c in await clients.all_of_them(conn) if c.disabled_at is None}
            return _Known(since, open_ones, await _keys(conn, open_ones))


async def _keys(conn: Connection, open_ones: Mapping[str, Client]) -> dict[str, _ApiKey]:
    rows = await conn.execute(
        """
        SELECT id, client_id, digest, scope, roles, expires_at FROM client_secret
        WHERE kind = 'api_key' AND revoked_at IS NULL AND expires_at > clock_timestamp()
        """
    )
    found: dict[str, _ApiKey] = {}
    identity: uuid.UUID
    expires_at: datetime
    async for identity, client_id, kept, scope, roles, expires_at in rows:
        if client_id in open_ones:
            client = open_ones[client_id]
            reader = holder(client, scope, roles)
            found[identity.hex] = _ApiKey(client, kept, expires_at.timestamp(), reader)
    return found


def holder(client: Client, scope: str | None, roles: list[str] | None) -> Reader:
    """A client that acts for itself: its `system/` scopes and roles, or the part of them that its key has."""
    scopes = tuple(each for each in client.scopes if each.level == "system")
    if scope is not None:
        scopes = narrowed([Scope.parse(word) for word in scope.split() if is_resource_scope(word)], scopes)
    held = client.roles if roles is None else client.roles & set(roles)
    return Reader(client.client_id, scopes, held, client_id=client.client_id)


def _require_admitted(client: Client, host: str | None) -> None:
    if not client.admits(host):
        raise Forbidden("this client may not call from this address")
