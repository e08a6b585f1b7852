"""The deliverer of the notify role: sends what is due to subscriptions, each in order, many beside each other.

Any number of processes may run one. A subscription is in the hands of one of them at a time (`claims`), and there in a
task of its own. Those whose last attempt failed have places of their own, and one whose peer is silent for a second
gives its place up to another: endpoints that hang never starve the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from wetread.errors import PeerUnavailable, Refused, StoreUnavailable, Unreachable, WetreadError
from wetread.outbound.http import PeerGone
from wetread.outbound.sender import Sender
from wetread.outbound.settling import Settler
from wetread.outbound.tenure import Tenure
from wetread.record.audit import audit
from wetread.record.subscriptions import claims, notification_audit
from wetread.record.subscriptions.claims import Done, Failure, Patience
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.due import Slice
from wetread.record.subscriptions.keeping import BATCH, remove_old
from wetread.record.subscriptions.rows import State
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.store.database import Connection, Database, own_errors

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_UPKEEP_S = 10.0
_SILENT_S = 1.0
_SETTLE_S = 1.0
"""What was sent for so long is recorded before more is sent."""
_TURN_S = 5.0
"""After so long a subscription goes to the end of the queue."""
_MOST_TURNS = 8
"""For each place, those that wait for silent peers among them."""
_GRACE_S = 5.0


@dataclass(slots=True)
class _Turn:
    """A subscription in hand. `asked_at`: when the peer was asked that has not answered yet; 0 while none is."""

    state: State
    asked_at: float = 0.0
    task: asyncio.Task[None] | None = None

    @property
    def is_held_up(self) -> bool:
        return self.state.failures > 0 or (self.asked_at > 0 and time.monotonic() - self.asked_at > _SILENT_S)


@dataclass(slots=True)
class Deliverer:
    """`senders` by the kind of channel. `places`: how many subscriptions are served at once with which nothing is
    wrong, and as many of the others."""

    database: Database
    subscriptions: Subscriptions
    senders: Mapping[str, Sender]
    patience: Patience = field(default_factory=Patience)
    places: int = 32
    keep: timedelta = timedelta(days=30)
    _turns: dict[str, _Turn] = field(default_factory=dict)
    _dropped: set[str] = field(default_factory=set)
    """Still in hand in the database, and in no task any more."""
    _settlers: dict[int, Settler] = field(default_factory=dict)
    """By the number under which this deliverer works now."""
    _tenure: Tenure | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _is_full: bool = False
    _is_leaving: bool = False

    async def run(self, stop: asyncio.Event) -> None:
        """Delivers until `stop`; outlives the loss of the database."""
        while not stop.is_set():
            try:
                async with claims.enlisted(self.database) as (conn, worker):
                    await self._serve(conn, worker, stop)
            except Unreachable:
                logger.warning("the deliverer lost the database and will be back")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.5)

    async def _serve(self, conn: Connection, worker: int, stop: asyncio.Event) -> None:
        self._is_leaving = False
        self._settlers = {worker: Settler(self.database, worker)}
        self._tenure = Tenure(conn, self._wake.set)
        keeping = asyncio.create_task(self._tenure.keep())
        keeping.add_done_callback(lambda _: self._stop_sending())
        stopping = asyncio.create_task(self._wake_at(stop))
        upkeep = asyncio.create_task(self._keep_up())
        try:
            while not stop.is_set():
                if keeping.done():
                    keeping.result()
                self._wake.clear()
                await self._claim(worker)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _POLL_S)
            await self._finish()
        finally:
            stopping.cancel()
            upkeep.cancel()
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError, Unreachable):
                await keeping
            await self._leave(worker)

    def _stop_sending(self) -> None:
        for turn in self._turns.values():
            if turn.task is not None:
                turn.task.cancel()
        self._wake.set()

    async def _keep_up(self) -> None:
        """Ends what is over, and removes what is old. Harmless when others do so too."""
        pause_s = 0.0
        while True:
            await asyncio.sleep(pause_s)
            pause_s = _UPKEEP_S
            over: list[str] = []
            with _tried_again():
                async with self.database.statements() as conn:
                    over = await self.subscriptions.over(conn)
            for subscription_id in over:
                with _tried_again():
                    async with self.database.transaction() as conn:
                        await self.subscriptions.end(conn, subscription_id)
            with _tried_again():
                async with self.database.transaction() as conn:
                    if await remove_old(conn, self.keep) == BATCH:
                        pause_s = _POLL_S

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _claim(self, worker: int) -> None:
        """Begins a turn for as many as there are places for."""
        held_up = sum(turn.is_held_up for turn in self._turns.values())
        room = self.places * _MOST_TURNS - len(self._turns)
        well = max(0, min(room, self.places - (len(self._turns) - held_up)))
        in_trouble = max(
            0, min(room - well, self.places - sum(turn.state.failures > 0 for turn in self._turns.values()))
        )
        async with self.database.statements() as conn:
            if dropped := list(self._dropped):
                await claims.release(conn, worker, dropped)
                self._dropped.difference_update(dropped)  # others may have come to it meanwhile
            claimed = await claims.claim(conn, worker, well, in_trouble)
            first = await self._first_slices(conn, claimed)
        troubled = sum(state.failures > 0 for state in claimed)
        self._is_full = len(claimed) - troubled == well or troubled == in_trouble
        for state in claimed:
            turn = self._turns[state.id] = _Turn(state)
            turn.task = asyncio.create_task(self._take_turn(turn, worker, first.get(state.id)))

    async def _first_slices(self, conn: Connection, claimed: Sequence[State]) -> dict[str, Slice]:
        try:
            with own_errors():
                return await self.subscriptions.next_slices(conn, claimed)
        except BaseException as error:
            if isinstance(error, StoreUnavailable) or not isinstance(error, Exception):
                self._dropped.update(state.id for state in claimed)
                raise
            logger.exception("slices are read one by one")
            return {}

    async def _take_turn(self, turn: _Turn, worker: int, due: Slice | None) -> None:
        subscription_id, until = turn.state.id, time.monotonic() + _TURN_S
        try:
            while True:
                if due is None:
                    async with self.database.statements() as conn:
                        due = await self.subscriptions.next_slice(conn, turn.state)
                        if due is None:
                            await claims.release(conn, worker, [subscription_id])
                            return
                state = await self._deliver(turn, due, worker, until)
                if state is None or state.worker != worker:
                    if state is not None and state.delivered < state.events_since_start:
                        self._wake.set()
                    return
                turn.state, due = state, None
        except asyncio.CancelledError:
            self._drop(turn)
            raise
        except Unreachable:
            self._drop(turn)
        except Exception as error:
            logger.exception("subscription %s cannot be served", subscription_id)
            await self._put_off_for_a_fault_of_ours(turn, worker, error)
        finally:
            if self._turns.get(subscription_id) is turn:  # released, it may have been claimed again meanwhile
                del self._turns[subscription_id]
            if self._is_full:
                self._wake.set()

    async def _deliver(self, turn: _Turn, due: Slice, worker: int, until: float) -> State | None:
        """Sends a slice and records what came of it; the state then, None where it is no longer in our hands."""
        state = turn.state
        if due.is_shut_out:
            # Nothing is sent or dropped until the owner has some rights again, and asks again.
            await self._give_up(state, worker, "the owner of the subscription has no access any more")
            return None
        sent: list[Delivery] = []
        failure = None
        settle_at = time.monotonic() + _SETTLE_S
        for delivery in due.deliveries:
            try:
                failure = await self._send(turn, delivery)
            except Unreachable:
                raise
            except Exception as error:
                if not sent:
                    raise
                # What went out before it is done with, and on record, lest it go out again at every attempt.
                logger.exception("subscription %s cannot be served", state.id)
                failure = _fault_of_ours(error)
            if failure is not None:
                break
            sent.append(delivery)
            if self._is_leaving or time.monotonic() >= settle_at:
                break
        if state.status == "requested":
            await self._shaken(state, due.deliveries[0], failure, worker)
            return None
        through = due.through_before(len(sent))
        told = notification_audit.of_slice(state, sent, [e for e in due.dropped if e.number <= through])
        if failure is None:
            keeps = time.monotonic() < until and not self._is_leaving
            return await self._settlers[worker].settle(Done(state.id, through, bool(sent), keeps), told)
        async with self.database.transaction() as conn:
            is_lost = await claims.put_off(conn, worker, state, through, failure, self.patience)
            await audit.write_many(conn, told)
        if is_lost:
            await self._give_up(state, worker, failure.error)
        return None

    async def _send(self, turn: _Turn, delivery: Delivery) -> Failure | None:
        """What went wrong, if anything. Raises StoreUnavailable where another may send by now."""
        if self._tenure is None or self._tenure.is_over:
            raise StoreUnavailable("the database has not answered for too long")
        turn.asked_at = time.monotonic()
        try:
            sender = self.senders.get(delivery.channel.kind)
            if sender is None:
                return Failure(f"this server sends nothing by {delivery.channel.kind}", is_refusal=True, is_final=True)
            await sender.send(delivery)
        except PeerUnavailable as error:
            return Failure(error.message, is_refusal=False)
        except Refused as error:
            return Failure(error.message, is_refusal=True, is_final=isinstance(error, PeerGone))
        finally:
            turn.asked_at = 0.0
        return None

    async def _shaken(self, state: State, handshake: Delivery, failure: Failure | None, worker: int) -> None:
        """After a handshake. Any failure puts the subscription in error (Backport IG 1.1, workflow): no retry."""
        if failure is not None:
            await self._give_up(state, worker, failure.error)
            return
        async with self.database.transaction() as conn:
            if await self.subscriptions.activate(conn, state.id, state.start):
                await audit.write_many(conn, notification_audit.of_slice(state, [handshake], ()))
        async with self.database.statements() as conn:
            await claims.release(conn, worker, [state.id])

    async def _give_up(self, state: State, worker: int, error: str) -> None:
        """Lets go of it, too. Nothing else where it is in another's hands, who may have come through."""
        async with self.database.transaction() as conn:
            if await self.subscriptions.fail(conn, state.id, error, start=state.start, worker=worker):
                await audit.write(conn, notification_audit.given_up(state, error))
        async with self.database.statements() as conn:
            await claims.release(conn, worker, [state.id])

    async def _put_off_for_a_fault_of_ours(self, turn: _Turn, worker: int, error: Exception) -> None:
        state, failure = turn.state, _fault_of_ours(error)
        try:
            async with self.database.transaction() as conn:
                is_lost = await claims.put_off(conn, worker, state, state.delivered, failure, self.patience)
            if is_lost:
                await self._give_up(state, worker, failure.error)
        except Exception as another:
            if not isinstance(another, Unreachable):
                logger.exception("subscription %s cannot be put off", state.id)
            self._drop(turn)

    def _drop(self, turn: _Turn) -> None:
        if self._turns.get(turn.state.id) is turn:  # else it was released and is in the next one's hands
            self._dropped.add(turn.state.id)

    async def _finish(self) -> None:
        """Lets what is being sent come to its end, for a while."""
        self._is_leaving = True
        tasks = [turn.task for turn in self._turns.values() if turn.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_GRACE_S)

    async def _leave(self, worker: int) -> None:
        tasks = [turn.task for turn in self._turns.values() if turn.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._dropped:
            with contextlib.suppress(Unreachable):
                async with self.database.statements() as conn:
                    await claims.release(conn, worker, list(self._dropped))
            self._dropped.clear()


@contextlib.contextmanager
def _tried_again() -> Iterator[None]:
    try:
        yield
    except Unreachable:
        logger.warning("the upkeep of subscriptions will be tried again")
    except Exception:
        logger.exception("the upkeep of subscriptions will be tried again")


def _fault_of_ours(error: Exception) -> Failure:
    message = error.message if isinstance(error, WetreadError) else "the server could not make the notification"
    return Failure(message, is_refusal=False)
