"""The websockets of one process, and what goes out on them (Backport IG 1.1 channels.html#websockets).

One follower hears what has news, whatever the number of sockets. A subscription that has news, or a new socket, gets a
task until it has none, which reads and records for all of its sockets; each socket is told in a task of its own, in the
order of the numbers, and the next only once its peer has told that it received what was sent. So one that is slow
waits for itself alone. `delivered` moves with the first that has received; sockets that are bound later, to any
process, begin there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from wetread.api.socket_links import (
    Link,
    Lost,
    Peer,
    Received,
    Watch,
    entries,
    is_asked_again,
    is_heartbeat,
    is_silent,
    without_events,
)
from wetread.errors import Conflict, Forbidden, TooCostly, Unreachable
from wetread.record import events
from wetread.record.audit import audit
from wetread.record.subscriptions import following, notification_audit, rows
from wetread.record.subscriptions.bindings import Binding
from wetread.record.subscriptions.channel import WEBSOCKET
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
        self._watches: dict[str, Watch] = {}
        self._by_peer: dict[Peer, _Held] = {}
        self._by_principal: dict[str, set[Peer]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._ending: set[asyncio.Task[None]] = set()
        self._seen: int | None = None
        self._turn = 0

    async def bind(self, peer: Peer, binding: Binding) -> None:
        """Tells the peer of subscriptions of which the token opens too little. Raises Forbidden where it does of all of
        them or its owner has no access any more, TooCostly for too many sockets or subscriptions, and Conflict where
        none of the subscriptions is on."""
        principal = str(binding.owner["principal"])
        own, held = self._by_principal.get(principal, set()), self._by_peer.get(peer, _Held())
        if peer not in own and len(own) >= self._of_one_client:
            raise TooCostly(f"you have {len(own)} websockets open here; close some")
        if len(held.subscription_ids.union(binding.subscription_ids)) > _MOST_OF_SOCKET:
            raise TooCostly(f"a websocket is bound to at most {_MOST_OF_SOCKET} subscriptions")
        async with self._places, self._database.statements() as conn:
            reader = await self._subscriptions.owner_now(conn, binding.owner)
            if reader is None:
                raise Forbidden("the access of this token has ended; sign in again")
            states = [state for state in await following.states(conn, binding.subscription_ids) if state.status in _ON]
            if not states:
                raise Conflict("none of the subscriptions of this token is on; ask for them again")
            unseen = await following.unseen(conn, self._subscriptions, states, reader)
        narrow = Forbidden(
            f"Subscription/{', '.join(unseen)}: the token must open all that the subscription's owner may read; put the"
            " Subscription again with this token's rights, or bind it with wider ones"
        )
        if len(unseen) == len(states):
            raise narrow
        owner = json.dumps(binding.owner, sort_keys=True)
        self._by_principal.setdefault(principal, set()).add(peer)
        held = self._by_peer.setdefault(peer, _Held())
        held.principals.add(principal)
        for subscription_id in (state.id for state in states if state.id not in unseen):
            held.subscription_ids.add(subscription_id)
            watch = self._watches.setdefault(subscription_id, Watch(subscription_id))
            link = watch.links.setdefault(peer, Link(peer, owner))
            link.owner, link.greeted = owner, None
            self._wake(watch)
        if unseen:
            await peer.refuse(narrow)

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
            if any(is_silent(watch.state, link, now) for link in watch.links.values()):
                self._wake(watch)
        for subscription_id in await following.not_in(conn, ("active",), list(self._watches)):
            self._wake(self._watches.get(subscription_id))
        peers: dict[str, set[Peer]] = {}
        for watch in self._watches.values():
            for peer, link in watch.links.items():
                peers.setdefault(link.owner, set()).add(peer)
        owners = sorted(peers)
        for _ in range(min(len(owners), max(_FEW, -(-len(owners) // _ROUND_S)))):
            self._turn = (self._turn + 1) % len(owners)
            owner = owners[self._turn]
            if await self._subscriptions.owner_now(conn, json.loads(owner)) is None:
                self._shut_out(peers[owner])

    def _shut_out(self, peers: Iterable[Peer]) -> None:
        for peer in list(peers):
            self.leave(peer)
            self._aside(peer.end(POLICY, "the access of this websocket has ended"))

    def _aside(self, ending: Coroutine[Any, Any, None]) -> None:
        """Beside what goes on: a peer that does not read takes its time."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _wake(self, watch: Watch | None) -> None:
        if watch is None:
            return
        watch.is_stale = True
        if watch.task is None:
            watch.task = asyncio.create_task(self._work(watch))

    def _drop(self, watch: Watch | None, peer: Peer) -> None:
        if watch is None:
            return
        link = watch.links.pop(peer, None)
        if link is not None and link.telling not in (None, asyncio.current_task()):
            link.telling.cancel()
        if (held := self._by_peer.get(peer)) is not None:
            held.subscription_ids.discard(watch.id)
        if not watch.links and self._watches.get(watch.id) is watch:
            del self._watches[watch.id]

    async def _work(self, watch: Watch) -> None:
        """All that is to be done for a subscription, until nothing is."""
        try:
            while watch.is_stale and (watch.links or watch.received):
                watch.is_stale = False
                try:
                    await self._round(watch)
                except Unreachable:
                    watch.is_stale = True
                    await asyncio.sleep(_AGAIN_S)
        except Exception:
            logger.exception("the websockets of subscription %s cannot be served", watch.id)
            for peer in list(watch.links):
                self._drop(watch, peer)
                self._aside(peer.end(FAULT, "a fault of this server; connect again"))
        finally:
            watch.task = None

    async def _round(self, watch: Watch) -> None:
        await self._record(watch)
        async with self._places, self._database.statements() as conn:
            watch.state = state = await rows.state_of(conn, watch.id)
        if state is None or state.status not in _ON or state.channel["kind"] != WEBSOCKET:
            self._over(watch)
            return
        free = [link for link in watch.links.values() if link.telling is None]
        # One that is new, or all of them where the client has asked for the subscription again.
        ungreeted = [link for link in free if link.greeted is None or is_asked_again(state, link)]
        if ungreeted and state.status == "requested":
            # What happens from the handshake on counts for the client, so the subscription is active before.
            async with self._places, self._database.transaction() as conn:
                await self._subscriptions.activate(conn, state.id, state.start)
        for link in (each for each in ungreeted if watch.links.get(each.peer) is each):
            link.greeted, link.position = state.start, state.delivered
            self._tell(watch, state, link, without_events("handshake", state, link))
        if state.status == "requested":
            return  # whoever has a handshake lets it be looked at again
        behind: dict[tuple[int, str], list[Link]] = {}
        for link in free:
            if link.telling is None and link.position < state.events_since_start:
                behind.setdefault((link.position, link.owner), []).append(link)
            elif link.telling is None and is_silent(state, link, time.monotonic()):
                self._tell(watch, state, link, without_events("heartbeat", state, link))
        for (position, owner), links in behind.items():
            due = await self._next(state, position, json.loads(owner))
            for link in links:
                if due is None:
                    self._shut_out([link.peer])
                elif watch.links.get(link.peer) is link:
                    self._tell(watch, state, link, due)

    async def _next(self, state: State, position: int, owner: dict[str, Any]) -> Slice | None:
        """The next slice of events, as the owner of a token may see them at this moment; None where it may not."""
        async with self._places, self._database.transaction() as conn:
            if owner != state.owner:
                reader = await self._subscriptions.owner_now(conn, owner)
                if reader is None or await following.unseen(conn, self._subscriptions, [state], reader):
                    return None
            due = await self._subscriptions.next_slice(conn, replace(state, delivered=position, owner=owner))
        return None if due is None or due.is_shut_out else due

    def _tell(self, watch: Watch, state: State, link: Link, due: Slice) -> None:
        link.telling = asyncio.create_task(self._told(watch, state, link, due))

    async def _told(self, watch: Watch, state: State, link: Link, due: Slice) -> None:
        try:
            async with asyncio.timeout(state.channel["timeout_s"]):
                for delivery in due.deliveries:
                    await link.peer.tell(delivery)
                if due.deliveries:
                    await link.peer.received()
        except Lost:
            self.leave(link.peer)
        except TimeoutError:
            self.leave(link.peer)
            await link.peer.end(TRY_AGAIN, "what was sent was not read in time; connect again")
        except Exception:
            logger.exception("a websocket of subscription %s cannot be told", watch.id)
            self.leave(link.peer)
            await link.peer.end(FAULT, "a fault of this server; connect again")
        else:
            link.telling, link.sent_at, link.position = None, time.monotonic(), due.through
            watch.received.append(Received(state, link.peer.where, due))
            self._wake(watch)

    async def _record(self, watch: Watch) -> None:
        """That peers have received, of all that have by now; what was dropped on the way once, whoever comes first."""
        received = list(watch.received)
        told = [each for each in received if not is_heartbeat(each.due)]
        if told:
            dropped = {event.number: event for each in told for event in each.due.dropped}
            async with self._database.transaction() as conn:
                before = await following.settle(conn, watch.id, max(each.due.through for each in told))
                unseen = [dropped[number] for number in sorted(dropped) if number > before]
                of_dropped = notification_audit.of_slice(told[-1].state, (), unseen)
                await audit.write_many(conn, [*(entry for each in told for entry in entries(each)), *of_dropped])
        del watch.received[: len(received)]

    def _over(self, watch: Watch) -> None:
        """Its sockets are told why; one that is bound to nothing else is closed."""
        for peer in list(watch.links):
            self._drop(watch, peer)
            held = self._by_peer.get(peer)
            is_last = held is None or not held.subscription_ids
            if is_last:
                self.leave(peer)
            self._aside(_told_over(peer, watch.id, is_last=is_last))


async def _told_over(peer: Peer, subscription_id: str, *, is_last: bool) -> None:
    await peer.refuse(Conflict(f"Subscription/{subscription_id} is off or in error; ask for it again"))
    if is_last:
        await peer.end(1000, "no subscription of this websocket is on")
