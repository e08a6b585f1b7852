"""The websockets of one process, and what goes out on them (Backport IG 1.1 channels.html#websockets).

One follower hears what has news, whatever the number of sockets. A subscription that has news, or a new socket, gets a
task until it has none; all that goes out for it comes from that task, in the order of its numbers. What no socket has
received yet goes to the first that is bound, from any process: `delivered` moves only when a peer has told that it
received what was sent. Sockets that are bound later begin where the others stand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from wetread.errors import Conflict, Forbidden, Refused, TooCostly, Unreachable
from wetread.record import events
from wetread.record.audit import audit
from wetread.record.subscriptions import following, notification_audit, rows
from wetread.record.subscriptions.bindings import Binding
from wetread.record.subscriptions.channel import WEBSOCKET
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.due import Slice
from wetread.record.subscriptions.matching import DUE
from wetread.record.subscriptions.rows import State
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.store.database import Connection, Database

logger = logging.getLogger(__name__)

GOING_AWAY, POLICY, FAULT, TRY_AGAIN = 1001, 1008, 1011, 1013
"""Codes of the closing (RFC 6455 7.4.1, and 1013 of its registry)."""

_POLL_S = 0.1
_LOOK_S = 1.0
_ROUND_S = 60
"""In so many looks the rights of every owner were asked again, of few owners in one."""
_FEW = 10
_AT_ONCE = 4
"""Subscriptions that read from the database at the same time."""
_MOST_OF_SOCKET = 1000
_AGAIN_S = 1.0
_ON = ("requested", "active")


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


@dataclass(slots=True)
class _Watch:
    """A subscription with at least one socket. `position` is the number of the last event that its sockets have;
    `joining` wait for their handshake. By peer: the owner of the token that bound it."""

    id: str
    position: int = -1
    bound: dict[Peer, str] = field(default_factory=dict)
    joining: dict[Peer, str] = field(default_factory=dict)
    state: State | None = None
    task: asyncio.Task[None] | None = None
    is_stale: bool = False
    sent_at: float = 0.0

    def owners(self) -> Iterable[tuple[Peer, str]]:
        return [*self.bound.items(), *self.joining.items()]


@dataclass(slots=True)
class _Held:
    """What a peer is bound to, and by tokens of whom."""

    subscription_ids: set[str] = field(default_factory=set)
    principals: set[str] = field(default_factory=set)


class Hub:
    """`of_one_client` is how many sockets one principal may have here. Let `run` run beside it."""

    def __init__(self, database: Database, subscriptions: Subscriptions, *, of_one_client: int = 1000) -> None:
        self._database = database
        self._subscriptions = subscriptions
        self._of_one_client = of_one_client
        self._watches: dict[str, _Watch] = {}
        self._by_peer: dict[Peer, _Held] = {}
        self._by_principal: dict[str, set[Peer]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._ending: set[asyncio.Task[None]] = set()
        self._seen: int | None = None
        self._turn = 0

    async def bind(self, peer: Peer, binding: Binding) -> None:
        """Raises Forbidden where the owner of the token has no access any more, TooCostly for too many sockets or
        subscriptions, and Conflict where none of the subscriptions is on."""
        principal = str(binding.owner["principal"])
        own, held = self._by_principal.get(principal, set()), self._by_peer.get(peer, _Held())
        if peer not in own and len(own) >= self._of_one_client:
            raise TooCostly(f"you have {len(own)} websockets open here; close some")
        if len(held.subscription_ids.union(binding.subscription_ids)) > _MOST_OF_SOCKET:
            raise TooCostly(f"a websocket is bound to at most {_MOST_OF_SOCKET} subscriptions")
        async with self._places, self._database.statements() as conn:
            if await self._subscriptions.owner_now(conn, binding.owner) is None:
                raise Forbidden("the access of this token has ended; sign in again")
            over = await following.not_in(conn, _ON, binding.subscription_ids)
        on = [each for each in binding.subscription_ids if each not in over]
        if not on:
            raise Conflict("none of the subscriptions of this token is on; ask for them again")
        owner = json.dumps(binding.owner, sort_keys=True)
        self._by_principal.setdefault(principal, set()).add(peer)
        held = self._by_peer.setdefault(peer, _Held())
        held.subscription_ids.update(on)
        held.principals.add(principal)
        for subscription_id in on:
            watch = self._watches.setdefault(subscription_id, _Watch(subscription_id))
            watch.bound.pop(peer, None)
            watch.joining[peer] = owner
            self._wake(watch)

    def unbind(self, peer: Peer, subscription_ids: Iterable[str]) -> None:
        for subscription_id in subscription_ids:
            self._drop(self._watches.get(subscription_id), peer)

    def leave(self, peer: Peer) -> None:
        """What a peer that is gone must be followed by."""
        held = self._by_peer.pop(peer, _Held())
        self.unbind(peer, list(held.subscription_ids))
        for principal in held.principals:
            peers = self._by_principal[principal]
            peers.discard(peer)
            if not peers:
                del self._by_principal[principal]

    async def run(self, stop: asyncio.Event) -> None:
        """Follows the log until `stop`; outlives the loss of the database."""
        looked_at = 0.0
        while not stop.is_set():
            try:
                async with events.listening(self._database, DUE) as (conn, hint):
                    while not stop.is_set():
                        if self._watches:
                            await self._follow(conn)
                        if time.monotonic() - looked_at >= _LOOK_S:
                            looked_at = time.monotonic()
                            await self._look(conn)
                        await hint(_POLL_S)
            except Unreachable:
                logger.warning("the websockets' follower lost the database and will be back")
                self._seen = None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _AGAIN_S)
        await asyncio.gather(*(peer.end(GOING_AWAY, "the server stops") for peer in list(self._by_peer)))

    async def _follow(self, conn: Connection) -> None:
        position = await following.position(conn)
        if self._seen is None:  # whatever happened in the meantime
            for watch in self._watches.values():
                self._wake(watch)
        elif position > self._seen:
            for subscription_id in await following.news(conn, self._seen, position):
                self._wake(self._watches.get(subscription_id))
        self._seen = position

    async def _look(self, conn: Connection) -> None:
        """What no event tells: heartbeats that are due, subscriptions that are over, rights that have ended."""
        if not self._watches:
            self._seen = None
            return
        now = time.monotonic()
        for watch in self._watches.values():
            if _is_silent(watch, now):
                self._wake(watch)
        for subscription_id in await following.not_in(conn, ("active",), list(self._watches)):
            self._wake(self._watches.get(subscription_id))
        peers: dict[str, set[Peer]] = {}
        for watch in self._watches.values():
            for peer, owner in watch.owners():
                peers.setdefault(owner, set()).add(peer)
        owners = sorted(peers)
        for _ in range(min(len(owners), max(_FEW, -(-len(owners) // _ROUND_S)))):
            self._turn = (self._turn + 1) % len(owners)
            owner = owners[self._turn]
            if await self._subscriptions.owner_now(conn, json.loads(owner)) is None:
                self._shut_out(peers[owner])

    def _shut_out(self, peers: Iterable[Peer]) -> None:
        for peer in list(peers):
            self.leave(peer)
            # Beside what goes on: one that does not read takes its time.
            ending = asyncio.create_task(peer.end(POLICY, "the access of this websocket has ended"))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def _wake(self, watch: _Watch | None) -> None:
        if watch is None:
            return
        watch.is_stale = True
        if watch.task is None:
            watch.task = asyncio.create_task(self._work(watch))

    def _drop(self, watch: _Watch | None, peer: Peer) -> None:
        if watch is None:
            return
        watch.bound.pop(peer, None)
        watch.joining.pop(peer, None)
        if (held := self._by_peer.get(peer)) is not None:
            held.subscription_ids.discard(watch.id)
        if not watch.bound and not watch.joining and self._watches.get(watch.id) is watch:
            del self._watches[watch.id]

    async def _work(self, watch: _Watch) -> None:
        """All that is to be done for a subscription, until nothing is."""
        try:
            while watch.is_stale and (watch.bound or watch.joining):
                watch.is_stale = False
                try:
                    await self._round(watch)
                except Unreachable:
                    watch.is_stale = True
                    await asyncio.sleep(_AGAIN_S)
        except Exception:
            logger.exception("the websockets of subscription %s cannot be served", watch.id)
            for peer, _ in watch.owners():
                self._drop(watch, peer)
                await peer.end(FAULT, "a fault of this server; connect again")
        finally:
            watch.task = None

    async def _round(self, watch: _Watch) -> None:
        async with self._places, self._database.statements() as conn:
            state = await rows.state_of(conn, watch.id)
        if state is None or state.status not in _ON or state.channel["kind"] != WEBSOCKET:
            await self._over(watch)
            return
        watch.state = state
        if state.status == "requested":  # new, or asked for again: every socket gets a handshake
            watch.joining = {**watch.bound, **watch.joining}
            watch.bound.clear()
        if watch.position < 0 or not watch.bound:
            watch.position = state.delivered
        for peer, owner in list(watch.joining.items()):
            del watch.joining[peer]
            watch.bound[peer] = owner
            await self._greet(watch, state, peer, json.loads(owner))
        if not watch.bound:
            return
        if state.status == "requested":
            watch.is_stale = True  # by now it is active, or asked for once more
        elif state.events_since_start > watch.position:
            await self._send(watch, state)
        elif _is_silent(watch, time.monotonic()):
            principal = str(state.owner["principal"])
            await self._tell(watch, state, list(watch.bound), [_without_events("heartbeat", watch, state, principal)])

    async def _greet(self, watch: _Watch, state: State, peer: Peer, owner: Mapping[str, Any]) -> None:
        """A handshake. What happens from then on counts for the client, so the subscription is active before."""
        if state.status == "requested":
            async with self._places, self._database.transaction() as conn:
                await self._subscriptions.activate(conn, state.id, state.start)
        handshake = _without_events("handshake", watch, state, str(owner["principal"]))
        if await self._tell(watch, state, [peer], [handshake]):
            async with self._places, self._database.transaction() as conn:
                await audit.write_many(conn, notification_audit.of_slice(state, [_to(handshake, peer)], ()))

    async def _send(self, watch: _Watch, state: State) -> None:
        """The next slice of events, to each socket what its owner may see at this moment."""
        groups: dict[str, list[Peer]] = {}
        for peer, owner in watch.bound.items():
            groups.setdefault(owner, []).append(peer)
        slices: dict[str, Slice] = {}
        async with self._places, self._database.transaction() as conn:
            if len(groups) > 1:  # all see the same events
                await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            is_owned = await self._subscriptions.owner_now(conn, state.owner) is not None
            for owner in groups if is_owned else ():
                asked = replace(state, delivered=watch.position, owner=json.loads(owner))
                due = await self._subscriptions.next_slice(conn, asked)
                if due is not None and not due.is_shut_out:
                    slices[owner] = due
        for owner in groups.keys() - slices.keys():
            self._shut_out(groups[owner])
        if not slices:
            return
        through = min(due.through for due in slices.values())
        sent = await asyncio.gather(
            *(self._tell(watch, state, groups[owner], due.deliveries) for owner, due in slices.items())
        )
        received = [(peer, due) for peers, due in zip(sent, slices.values(), strict=True) for peer in peers]
        if not received:
            return
        told = [entry for peer, due in received for entry in _told(state, peer, due)]
        nobody_saw = set.intersection(*({event.number for event in due.dropped} for due in slices.values()))
        dropped = [event for event in next(iter(slices.values())).dropped if event.number in nobody_saw]
        async with self._database.transaction() as conn:
            await following.settle(conn, state.id, through)
            await audit.write_many(conn, [*told, *notification_audit.of_slice(state, (), dropped)])
        watch.position = through
        watch.is_stale = True  # to look for more

    async def _tell(self, watch: _Watch, state: State, peers: list[Peer], deliveries: Iterable[Delivery]) -> list[Peer]:
        """Those of the peers that have received all of it; the others are dropped."""
        due = list(deliveries)
        done = await asyncio.gather(*(self._told_one(watch, state, peer, due) for peer in peers))
        watch.sent_at = time.monotonic()
        return [peer for peer, is_done in zip(peers, done, strict=True) if is_done]

    async def _told_one(self, watch: _Watch, state: State, peer: Peer, due: list[Delivery]) -> bool:
        try:
            async with asyncio.timeout(state.channel["timeout_s"]):
                for delivery in due:
                    await peer.tell(delivery)
                if due:
                    await peer.received()
        except Lost:
            self.leave(peer)
            return False
        except TimeoutError:
            self.leave(peer)
            await peer.end(TRY_AGAIN, "what was sent was not read in time; connect again")
            return False
        return peer in watch.bound

    async def _over(self, watch: _Watch) -> None:
        """Its sockets are told why; one that is bound to nothing else is closed."""
        for peer, _ in watch.owners():
            self._drop(watch, peer)
            await peer.refuse(Conflict(f"Subscription/{watch.id} is off or in error; ask for it again"))
            held = self._by_peer.get(peer)
            if held is None or not held.subscription_ids:
                self.leave(peer)
                await peer.end(1000, "no subscription of this websocket is on")


def _is_silent(watch: _Watch, now: float) -> bool:
    period = watch.state.channel.get("heartbeat_s", 0) if watch.state is not None else 0
    return bool(period and watch.bound and now - watch.sent_at >= period)


def _without_events(kind: str, watch: _Watch, state: State, principal: str) -> Delivery:
    """Its count is what the sockets have: the next event has the number after it."""
    said = state.told(status=state.status, count=watch.position)
    return Delivery(state.id, kind, state.out(), said, datetime.now(UTC), principal)


def _to(delivery: Delivery, peer: Peer) -> Delivery:
    """The same, with the address that the audit record is to name."""
    return replace(delivery, channel=replace(delivery.channel, endpoint=peer.where))


def _told(state: State, peer: Peer, due: Slice) -> list[audit.AuditEntry]:
    return notification_audit.of_slice(state, [_to(each, peer) for each in due.deliveries], ())
