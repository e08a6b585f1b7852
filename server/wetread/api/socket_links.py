"""The sockets of one subscription: what each has, and what it is told."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from wetread.errors import Refused
from wetread.record.audit.audit import AuditEntry
from wetread.record.subscriptions import notification_audit
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.due import Slice
from wetread.record.subscriptions.rows import State


class Lost(Exception):
    """The peer is gone, or does not read."""


class Peer(Protocol):
    """One websocket."""

    @property
    def where(self) -> str:
        """Its address."""

    async def tell(self, delivery: Delivery) -> None:
        """Raises Lost."""

    async def received(self) -> None:
        """Returns when the peer has all that it was told. Raises Lost."""

    async def refuse(self, error: Refused) -> None:
        """Tells of what cannot be done, and stays open."""

    async def end(self, code: int, why: str) -> None: ...


@dataclass(slots=True, eq=False)
class Link:
    """A socket of a subscription, bound by a token of `owner`. `position` is the number of the last event that it has,
    `greeted` the start of the subscription at its handshake. `telling` runs while its peer is told something."""

    peer: Peer
    owner: str
    greeted: int | None = None
    position: int = 0
    sent_at: float = 0.0
    telling: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """What a peer has told that it received."""

    state: State
    where: str
    due: Slice


@dataclass(slots=True)
class Watch:
    """A subscription with at least one socket. What was `received` is still to be recorded."""

    id: str
    links: dict[Peer, Link] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    state: State | None = None
    task: asyncio.Task[None] | None = None
    is_stale: bool = False


def is_asked_again(state: State, link: Link) -> bool:
    return state.status == "requested" and link.greeted != state.start


def is_silent(state: State | None, link: Link, now: float) -> bool:
    period = state.channel.get("heartbeat_s", 0) if state is not None else 0
    return bool(period and link.greeted is not None and now - link.sent_at >= period)


def is_heartbeat(due: Slice) -> bool:
    return any(delivery.kind == "heartbeat" for delivery in due.deliveries)


def without_events(kind: str, state: State, link: Link) -> Slice:
    """Its count is what the socket has: the next event has the number after it."""
    said = state.told(status=state.status, count=link.position)
    principal = str(json.loads(link.owner)["principal"])
    return Slice((Delivery(state.id, kind, state.out(), said, datetime.now(UTC), principal),), link.position)


def entries(received: Received) -> list[AuditEntry]:
    """With the address that the audit record is to name."""
    sent = [replace(each, channel=replace(each.channel, endpoint=received.where)) for each in received.due.deliveries]
    return notification_audit.of_slice(received.state, sent, ())
