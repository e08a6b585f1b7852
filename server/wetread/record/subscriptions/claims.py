"""Who delivers what: each subscription that is due is in the hands of one deliverer at a time.

A deliverer has a number, and holds an advisory lock on it on a connection of its own for as long as it lives. What a
number has in hand whose lock is gone is anybody's again, a second later: by then its deliverer has heard of that and
stopped. No clock takes part in that.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import LiteralString

import psycopg
from psycopg.rows import class_row

from wetread.record.subscriptions.matching import DUE
from wetread.record.subscriptions.rows import COLUMNS, State
from wetread.store.database import Connection, Database, own_errors

_LOCK = 0x57455357
_SOON_KNOWN_DEAD = """
    SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = 5000
"""
"""The database lets go of the lock of a machine from which it has heard nothing for five seconds, and not before."""
_LONGEST_PAUSE_S = 600.0
_MANY = 20
_NEXT: LiteralString = """
    CASE
        WHEN channel ->> 'kind' = 'websocket' THEN NULL
        WHEN status = 'requested' THEN now()
        WHEN status = 'active' AND events_since_start > greatest(delivered, done.through) THEN now()
        WHEN status = 'active' AND (channel ->> 'heartbeat_s')::int > 0
            THEN least(now() + interval '10 minutes', make_interval(secs => (channel ->> 'heartbeat_s')::int)
                + CASE WHEN done.is_sent THEN now() ELSE coalesce(last_sent_at, now()) END)
    END
"""
"""When a subscription is due that nothing is wrong with. A heartbeat is looked for every ten minutes at least, since
what is due much later than any pause lasts is taken for the work of a clock that has jumped."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a round ended. `is_refusal`: the peer answered, and would so again. `is_final`: it need not be asked."""

    error: str
    is_refusal: bool
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an endpoint is tried that does not answer, and one that refuses. Neither runs out before there were as
    many attempts as the pauses of half that time make: a clock that jumps, or a server that was away, is not the
    endpoint's fault."""

    no_answer: timedelta = timedelta(hours=24)
    refusal: timedelta = timedelta(minutes=10)


@contextlib.asynccontextmanager
async def enlisted(database: Database) -> AsyncIterator[tuple[Connection, int]]:
    """A number of one's own, for as long as the connection lives, which listens on DUE. Raises StoreUnavailable."""
    with own_errors():
        conn = await database.alone("wetread-deliverer")
        async with conn:
            await conn.execute(_SOON_KNOWN_DEAD)
            worker = 0
            while not worker:
                worker = await _numbered(conn)
            await conn.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(DUE)))
            yield conn, worker


async def _numbered(conn: Connection) -> int:
    """A number that nobody has; 0 where the next one is still in use."""
    row = await (await conn.execute("SELECT nextval('subscription_worker')::int")).fetchone()
    assert row is not None  # noqa: S101
    got = await (await conn.execute("SELECT pg_try_advisory_lock(%s, %s)", (_LOCK, row[0]))).fetchone()
    return int(row[0]) if got and got[0] else 0


async def claim(conn: Connection, worker: int, well: int, in_trouble: int) -> list[State]:
    """Takes what is due into the hands of `worker`: up to `well` of those that nothing is wrong with, and up to
    `in_trouble` of the others. What is due far in the future was put off by a clock that was wrong: it is due now."""
    found = conn.cursor(row_factory=class_row(State))
    await found.execute(
        """
        WITH well AS (
            SELECT id FROM subscription_state
            WHERE worker IS NULL AND due_at IS NOT NULL AND failures = 0
                AND (due_at <= now() OR due_at > now() + interval '15 minutes')
            ORDER BY due_at LIMIT %(well)s FOR UPDATE SKIP LOCKED),
        in_trouble AS (
            SELECT id FROM subscription_state
            WHERE worker IS NULL AND due_at IS NOT NULL AND failures > 0
                AND (due_at <= now() OR due_at > now() + interval '15 minutes')
            ORDER BY due_at LIMIT %(in_trouble)s FOR UPDATE SKIP LOCKED)
        UPDATE subscription_state s SET worker = %(worker)s
        FROM (SELECT id FROM well UNION ALL SELECT id FROM in_trouble) AS due WHERE s.id = due.id
        RETURNING """
        + COLUMNS,
        {"worker": worker, "well": well, "in_trouble": in_trouble},
    )
    return await found.fetchall()


async def dead(conn: Connection) -> frozenset[int]:
    """The numbers of deliverers that are gone and have something in hand."""
    found = await conn.execute(
        """
        SELECT DISTINCT worker FROM subscription_state
        WHERE worker IS NOT NULL AND worker <> ALL (ARRAY(
            SELECT objid::int FROM pg_locks
            WHERE locktype = 'advisory' AND classid = %s AND objsubid = 2 AND granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())))
        """,
        (_LOCK,),
    )
    return frozenset(row[0] for row in await found.fetchall())


async def take_from(conn: Connection, workers: Collection[int]) -> int:
    """Frees what these deliverers have in hand, who are gone; how many subscriptions that is."""
    freed = await conn.execute(
        """
        WITH left_over AS (
            SELECT id FROM subscription_state WHERE worker = ANY (%s) FOR UPDATE SKIP LOCKED)
        UPDATE subscription_state s SET worker = NULL,
            due_at = CASE WHEN channel ->> 'kind' <> 'websocket' THEN coalesce(due_at, now()) END
        FROM left_over WHERE s.id = left_over.id
        """,
        (list(workers),),
    )
    return freed.rowcount


@dataclass(frozen=True, slots=True)
class Done:
    """All events of a subscription up to the number `through` are done with; `is_sent`: something went out and was
    taken; `keeps`: it stays in hand where many more are due; few are read together with those of others."""

    subscription_id: str
    through: int
    is_sent: bool
    keeps: bool


async def settle(conn: Connection, worker: int, done: Sequence[Done]) -> dict[str, State]:
    """Records what is done, in one statement. By id the states then, whose `worker` says whether they are still in
    hand; not those that `worker` had in hand no longer."""
    found = conn.cursor(row_factory=class_row(State))
    await found.execute(
        """
        WITH done AS (
            SELECT * FROM unnest(%(ids)s::text[], %(throughs)s::bigint[], %(sent)s::boolean[], %(keeps)s::boolean[])
                AS done (id, through, is_sent, keeps)),
        held AS MATERIALIZED (
            SELECT id FROM subscription_state WHERE id = ANY(%(ids)s) AND worker = %(worker)s
            ORDER BY id FOR NO KEY UPDATE)
        UPDATE subscription_state s SET delivered = greatest(delivered, done.through),
            failures = 0, failing_since = NULL, refused_since = NULL,
            error = CASE WHEN status = 'active' THEN '' ELSE error END,
            last_sent_at = CASE WHEN done.is_sent THEN now() ELSE last_sent_at END,
            worker = CASE
                WHEN done.keeps AND status = 'active'
                    AND events_since_start >= greatest(delivered, done.through) + %(many)s
                THEN worker END,
            due_at = """
        + _NEXT
        + "FROM held JOIN done USING (id) WHERE s.id = held.id RETURNING "
        + COLUMNS,
        {
            "ids": [each.subscription_id for each in done],
            "throughs": [each.through for each in done],
            "sent": [each.is_sent for each in done],
            "keeps": [each.keeps for each in done],
            "many": _MANY,
            "worker": worker,
        },
    )
    return {state.id: state for state in await found.fetchall()}


async def release(conn: Connection, worker: int, subscription_ids: Sequence[str]) -> None:
    """Lets go of what is in the hands of `worker`, to be taken again when something is due. Where nothing ever is,
    nothing is wrong with it any more: what failed was removed for its age, say."""
    await conn.execute(
        """
        WITH done AS MATERIALIZED (
            SELECT id, 0 AS through, false AS is_sent FROM subscription_state
            WHERE id = ANY(%s) AND worker = %s ORDER BY id FOR NO KEY UPDATE)
        UPDATE subscription_state s SET worker = NULL, due_at = """
        + _NEXT
        + ", failures = CASE WHEN status = 'active' AND ("
        + _NEXT
        + ") IS NULL THEN 0 ELSE failures END FROM done WHERE s.id = done.id",
        (list(subscription_ids), worker),
    )


async def put_off(
    conn: Connection, worker: int, state: State, through: int, failure: Failure, patience: Patience
) -> bool | None:
    """Lets go after a failure, with all events up to `through` done with: due again after a pause, each twice as long
    as the one before, up to ten minutes, give or take a fifth.

    Whether it is to be given up, for which it stays in hand: the failure is final, or patience has run out. None where
    `worker` has it no longer in hand.
    """
    failures = 1 if through > state.delivered else state.failures + 1
    tried = timedelta(seconds=sum(_pause_s(n) for n in range(1, failures)))
    runs_out = [2 * tried >= most for most in (patience.no_answer, patience.refusal)]
    found = await conn.execute(
        """
        UPDATE subscription_state SET delivered = greatest(delivered, %(through)s), failures = %(failures)s,
            failing_since = CASE WHEN %(failures)s > 1 THEN least(failing_since, now()) ELSE now() END,
            refused_since = CASE WHEN NOT %(is_refusal)s THEN NULL
                WHEN %(failures)s > 1 THEN least(refused_since, now()) ELSE now() END,
            error = CASE WHEN status IN ('active', 'requested') THEN %(error)s ELSE error END,
            worker = CASE WHEN %(is_final)s
                OR %(failures)s > 1 AND %(no_answer_runs_out)s AND failing_since < now() - %(no_answer)s
                OR %(failures)s > 1 AND %(refusal_runs_out)s AND refused_since < now() - %(refusal)s
                THEN worker END,
            due_at = CASE WHEN status IN ('active', 'requested') AND channel ->> 'kind' <> 'websocket'
                THEN CASE WHEN start = %(start)s THEN now() + %(pause)s ELSE now() END END
        WHERE id = %(id)s AND worker = %(worker)s
        RETURNING worker IS NOT NULL
        """,
        {
            "id": state.id,
            "worker": worker,
            "start": state.start,
            "through": through,
            "failures": failures,
            "is_refusal": failure.is_refusal,
            "is_final": failure.is_final,
            "error": failure.error,
            "pause": timedelta(seconds=_pause_s(failures) * random.uniform(0.8, 1.2)),  # noqa: S311
            "no_answer": patience.no_answer,
            "no_answer_runs_out": runs_out[0],
            "refusal": patience.refusal,
            "refusal_runs_out": failure.is_refusal and runs_out[1],
        },
    )
    row = await found.fetchone()
    return bool(row[0]) if row else None


def _pause_s(failures: int) -> float:
    """After so many, but for what chance adds."""
    return float(min(0.5 * 2 ** min(failures - 1, 20), _LONGEST_PAUSE_S))
