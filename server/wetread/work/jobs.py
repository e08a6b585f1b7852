"""Steps, and how they are enqueued, retried, given up and recovered.

A step is enqueued on the caller's connection, so it exists exactly when the caller's transaction commits. It runs at
least once; doing it twice must write the same thing.

What we add to Procrastinate: idempotency keys (its `queueing_lock` can wedge a retry, procrastinate#1543, and is not
used), a sweep that returns the jobs of a worker whose heartbeat stopped (procrastinate#1518) and those whose outcome
could not be written, a worker that comes back after the database was away (Procrastinate's ends, without a word when
its heartbeat fails), a retry policy that tells passing faults from permanent ones, and a callback for work that is
given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import procrastinate
from procrastinate import exceptions as job_exceptions
from procrastinate.jobs import Job
from procrastinate.jobs import Status as JobStatus
from procrastinate.retry import BaseRetryStrategy, RetryDecision

from wetread.errors import Refused, Unreachable
from wetread.store.database import Connection, Database

logger = logging.getLogger(__name__)

Payload: TypeAlias = Mapping[str, Any]
Handler: TypeAlias = Callable[[Payload], Awaitable[datetime | None]]
"""Does the step. Returns None when done, or the moment at which to be asked again."""
OnDead: TypeAlias = Callable[[str, Payload, BaseException], Awaitable[None]]
"""Told of a step that is given up, once, before the engine marks it failed."""

_HEARTBEAT_S = 2.0
_STALLED_AFTER_S = 10.0
_POLL_S = 0.1
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """A kind of work. `queue` says which role runs it.

    A passing fault (Unreachable) is tried again for ever, ever more slowly; a Refused is given up at once; anything
    else, a fault of our own, is tried `unexpected_tries` times. A step that was begun `most_tries` times when its
    process dies with it in hand is given up, since it may be what kills the process; None: never.
    """

    name: str
    queue: str
    unexpected_tries: int = 4
    longest_wait_s: float = 300.0
    most_tries: int | None = None


class _Again(BaseRetryStrategy):
    def __init__(self, step: Step) -> None:
        self.step = step

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, job_exceptions.JobRetry):
            return exception.retry_decision
        if self.gives_up(exception, job.attempts):
            return None
        wait_s = min(0.5 * 2 ** min(job.attempts, 20), self.step.longest_wait_s) * random.uniform(0.8, 1.2)  # noqa: S311
        return RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=wait_s))

    def gives_up(self, exception: BaseException, attempts: int) -> bool:
        if isinstance(exception, Unreachable | asyncio.CancelledError):
            return False
        return isinstance(exception, Refused) or attempts + 1 >= self.step.unexpected_tries


class Work:
    """The port. One per process; `bind` every step, then `run` the queues that the process's roles name."""

    def __init__(self, database: Database, on_dead: OnDead) -> None:
        self._database = database
        self._on_dead = on_dead
        self._engine = procrastinate.App(connector=procrastinate.PsycopgConnector())
        self._bound: dict[str, Step] = {}
        self._left: dict[int, Job] = {}
        """Jobs whose handler has ended, since the last sweep: their outcome should be written by the next."""

    async def open(self) -> None:
        """Opens the engine on the database's own pool."""
        await self._engine.connector.open_async(self._database.pool)

    def bind(self, step: Step, handler: Handler) -> None:
        again = _Again(step)

        async def task(context: procrastinate.JobContext, /, **payload: Any) -> None:
            number = context.job.id or 0
            self._left.pop(number, None)
            try:
                ask_again_at = await handler(payload)
            except BaseException as error:
                if again.gives_up(error, context.job.attempts):
                    await self._on_dead(step.name, payload, error)
                raise
            finally:
                self._left[number] = context.job
            if ask_again_at is not None:
                raise job_exceptions.JobRetry(RetryDecision(retry_at=ask_again_at))

        self._engine.task(name=step.name, queue=step.queue, pass_context=True, retry=again)(task)
        self._bound[step.name] = step

    async def enqueue(
        self,
        conn: Connection,
        step: Step,
        payload: Payload,
        *,
        key: str | None = None,
        lane: str | None = None,
        priority: int = 0,
        at: datetime | None = None,
    ) -> bool:
        """Adds a step to the caller's transaction; false when `key` was enqueued before, ever.

        Steps of one `lane` run one at a time in the order of their enqueueing; a head that waits for its retry holds
        its lane. Higher `priority` goes first. `payload` is JSON and holds ids only, never patient data.
        """
        if key is not None:
            added = await conn.execute("INSERT INTO job_key (key) VALUES (%s) ON CONFLICT DO NOTHING", (key,))
            if added.rowcount == 0:
                return False
        deferrer = self._engine.configure_task(
            step.name, queue=step.queue, lock=lane, priority=priority, schedule_at=at, connection=conn
        )
        await deferrer.defer_async(**payload)
        return True

    async def run(self, queues: Sequence[str], *, concurrency: int, alone: bool, stop: asyncio.Event) -> None:
        """Works the queues until `stop`; outlives the loss of the database.

        `alone`: no other process works them, so what is in hand when we begin is a dead one's.
        """
        sweeper = asyncio.create_task(self._sweep(queues))
        try:
            while not stop.is_set():
                try:
                    if alone:
                        await self._return_stalled(queues, 0.0)
                    await self._run_worker(queues, concurrency, stop)
                except (job_exceptions.ConnectorException, Unreachable) as error:
                    logger.warning("work on %s waits for the database: %s", ", ".join(queues), type(error).__name__)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _PAUSE_S)
        finally:
            sweeper.cancel()

    async def _run_worker(self, queues: Sequence[str], concurrency: int, stop: asyncio.Event) -> None:
        worker = asyncio.create_task(
            self._engine.run_worker_async(
                queues=list(queues),
                concurrency=concurrency,
                fetch_job_polling_interval=_POLL_S,
                abort_job_polling_interval=60.0,
                install_signal_handlers=False,
                delete_jobs="successful",
                update_heartbeat_interval=_HEARTBEAT_S,
                stalled_worker_timeout=_STALLED_AFTER_S,
                shutdown_graceful_timeout=20.0,
            )
        )
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({worker, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            worker.cancel()
            stopped.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker

    async def _sweep(self, queues: Sequence[str]) -> None:
        overdue: dict[int, Job] = {}
        while True:
            await asyncio.sleep(_STALLED_AFTER_S / 2)
            overdue = {number: job for number, job in overdue.items() if self._left.get(number) is job}
            try:
                await self._return_stalled(queues, _STALLED_AFTER_S)
                await self._return_unsettled(overdue)
            except Exception as error:
                logger.warning("the sweep for stalled work failed and will be tried again: %s", type(error).__name__)
                continue
            for number in overdue:
                self._left.pop(number, None)
            overdue = dict(self._left)

    async def _return_stalled(self, queues: Sequence[str], heartbeat_older_than_s: float) -> None:
        for queue in queues:
            stalled = await self._engine.job_manager.get_stalled_jobs(
                queue=queue, seconds_since_heartbeat=heartbeat_older_than_s
            )
            for job in stalled:
                await self._return(job)

    async def _return_unsettled(self, numbers: Iterable[int]) -> None:
        """Jobs that this process has done with, but whose outcome the database did not take: they are done anew."""
        for number in numbers:
            for job in await self._engine.job_manager.list_jobs_async(id=number, status="doing"):
                logger.warning("the outcome of a %s was not written; it is done again", job.task_name)
                await self._return(job)

    async def _return(self, job: Job) -> None:
        step = self._bound.get(job.task_name)
        if step is not None and step.most_tries is not None and job.attempts + 1 >= step.most_tries:
            reason = f"the process ended with this step in hand, begun {job.attempts + 1} times; see its log and memory"
            await self._on_dead(step.name, job.task_kwargs, Refused(reason))
            await self._engine.job_manager.finish_job(job, JobStatus.FAILED, delete_job=False)
            return
        with contextlib.suppress(job_exceptions.ConnectorException):
            await self._engine.job_manager.retry_job(job, retry_at=datetime.now(UTC))
