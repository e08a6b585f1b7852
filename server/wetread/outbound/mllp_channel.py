"""The MLLP channel: each event as one HL7 v2 message, made by the maps of `mappings/messages/`, to an engine that
acknowledges it: a custom channel (Backport IG 1.1 channels.html#custom-channels) for integration engines.

HL7 v2 knows neither handshake nor heartbeat: for both the connection is opened, TLS included, and nothing is sent.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.reader import Reader
from wetread.errors import Forbidden, Gone, NotFound, Unsupported
from wetread.mapping.messages import write
from wetread.mapping.messages.datatypes import Names
from wetread.mapping.messages.model import MessageMap
from wetread.outbound.endpoints import Endpoints
from wetread.outbound.mllp import MllpConnection, Streams
from wetread.record import lossless, resources
from wetread.record.subscriptions import rows
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.notifications import NotifiedEvent
from wetread.record.subscriptions.rows import OwnerNow
from wetread.store.database import Connection, Database
from wetread.wire.dial import dial
from wetread.wire.fetch import Resolver, resolved
from wetread.wire.tls import Contexts

_IDLE_S = 300.0
_MOST_READ_ALONG = 100
"""Of one kind: the results of a report, say."""


class CannotTell(Unsupported):
    """There is an event that no HL7 v2 message can tell."""


@dataclass(frozen=True)
class Messages:
    """How resources become messages: the maps by resource type, what URIs are called, and what MSH says of us."""

    forms: Mapping[str, MessageMap]
    names: Names
    sending: tuple[str, str]
    """Application and facility: MSH-3 and MSH-4."""
    processing_id: str
    base_url: str


@dataclass
class _Kept:
    connection: MllpConnection
    used_at: float = field(default_factory=time.monotonic)


class MllpChannel:
    """Keeps one connection for each endpoint. Close it when done."""

    def __init__(
        self,
        database: Database,
        owner_now: OwnerNow,
        messages: Messages,
        allowed: AllowedEndpoints,
        tls: Contexts,
        endpoints: Endpoints,
        resolve: Resolver = resolved,
    ) -> None:
        """`tls` is for `mllps:` endpoints for which the operator has set nothing else."""
        self._database = database
        self._owner_now = owner_now
        self._messages = messages
        self._allowed = allowed
        self._tls = tls
        self._endpoints = endpoints
        self._resolve = resolve
        self._kept: dict[str, _Kept] = {}

    async def send(self, delivery: Delivery) -> None:
        """Raises PeerUnavailable, RefusedByPeer (AE, AR, CE, CR), CannotTell and Unsupported (the endpoint is no longer
        allowed)."""
        connection = await self._connection(delivery.channel.endpoint)
        if not delivery.events:
            await connection.open(timeout_s=delivery.channel.timeout_s)
        for event in delivery.events:
            message = await self._message(delivery, event)
            await connection.exchange(message, timeout_s=delivery.channel.timeout_s)

    async def close(self) -> None:
        kept, self._kept = self._kept, {}
        await asyncio.gather(*(each.connection.close() for each in kept.values()))

    async def _connection(self, endpoint: str) -> MllpConnection:
        now = time.monotonic()
        idle = [url for url, kept in self._kept.items() if now - kept.used_at > _IDLE_S and url != endpoint]
        # All at once, since others come by here while one is closed.
        for kept in [self._kept.pop(url) for url in idle]:
            await kept.connection.close()
        if endpoint not in self._kept:
            self._kept[endpoint] = _Kept(self._to(endpoint))
        self._kept[endpoint].used_at = now
        return self._kept[endpoint].connection

    def _to(self, endpoint: str) -> MllpConnection:
        url = urlsplit(endpoint)
        host, port = url.hostname or "", url.port or 0

        async def connect() -> Streams:
            tls = None
            if url.scheme == "mllps":
                known = self._endpoints.of(endpoint)
                tls = (known.tls if known is not None and known.tls is not None else self._tls)()
            return await dial(self._allowed, host, port, tls=tls, resolve=self._resolve)

        return MllpConnection(host, port, dial=connect)

    async def _message(self, delivery: Delivery, event: NotifiedEvent) -> bytes:
        form = self._messages.forms.get(event.resource_type)
        if form is None or not event.body:
            what = event.resource_type if form is None else f"a deleted {event.resource_type}"
            raise CannotTell(f"no HL7v2 message is made of {what}; a rest-hook can tell of it")
        change = "create" if event.kind == "create" else "update"
        related: dict[str, Sequence[Mapping[str, Any]]] = {}
        told = write.Told(event.at, lossless.parse(event.body), related, change, event.number, self._messages.base_url)
        async with self._database.transaction() as conn:
            state = await rows.state_of(conn, delivery.subscription_id)
            reader = await self._owner_now(conn, state.owner) if state is not None else None
            if reader is not None:
                for each in form.related:
                    wanted = write.references(each.references, told)
                    related[each.name] = await _read_along(conn, reader, each.resource_type, wanted)
        receiving = dict(delivery.channel.headers)
        envelope = write.Envelope(
            control_id(delivery.subscription_id, event.number),
            self._messages.sending,
            (receiving.get("MSH-5", ""), receiving.get("MSH-6", "")),
            self._messages.processing_id,
        )
        return write.message(form, told, envelope, self._messages.names)


def control_id(subscription_id: str, number: int) -> str:
    """MSH-10, at most 20 characters (v2.5.1 2.14.9.10): the same for the same event, however often it is sent."""
    short = base64.b32encode(sha256(subscription_id.encode()).digest())[:8].decode()
    return f"{short}-{number}"


async def _read_along(
    conn: Connection, reader: Reader, resource_type: str, references: Sequence[str]
) -> list[Mapping[str, Any]]:
    """As they are now; without those that the reader may not see, that are gone, or that are of another type."""
    found: list[Mapping[str, Any]] = []
    for reference in references[:_MOST_READ_ALONG]:
        wanted, _, resource_id = reference.partition("/")
        if wanted != resource_type:
            continue
        try:
            version = await resources.read(conn, reader, resource_type, resource_id.split("/")[0])
        except (Forbidden, NotFound, Gone):
            continue
        found.append(version.resource())
    return found
