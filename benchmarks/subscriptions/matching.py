"""What matching costs for each write: with ten, a thousand and ten thousand subscriptions, and with more that match.

The matcher's transaction is run as the notify role runs it, a tenth of a second's writes at a time, and its processor
time is read: that of this process, which does nothing else meanwhile, and that of its connection's PostgreSQL backend.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg.types.json import Jsonb

from benchmarks.fhir.population import observation
from benchmarks.subscriptions.writer import LABEL
from wetread.domain.reader import Reader, Scope
from wetread.record import events, resources
from wetread.record.subscriptions import form, keys, matching, rows, topics
from wetread.settings import share_dir
from wetread.store import embedded, migrate
from wetread.store.database import Connection, Database

_TOPIC = "https://wetread.org/fhir/SubscriptionTopic/ai-observation"
_BASE = "http://wetread.example/fhir"
_CURSOR = "subscriptions"
_MOST_BYTES = 16 * 1024 * 1024
_PER_S = 200
_BATCH = _PER_S // 10
_OWNER = Reader("benchmark", (Scope.parse("system/*.rs"),))


@dataclass(frozen=True)
class Case:
    subscriptions: int
    unfiltered: int
    """Of them; each matches every write. Of the others, three match one: by patient, by code and by device."""


@dataclass(frozen=True)
class Matched:
    case: Case
    writes: int
    matches: int
    server_us: float
    """For each write."""
    database_us: float
    write_us: float
    """Processor time of the write itself, both together."""


CASES = (Case(10, 2), Case(1_000, 2), Case(10_000, 2), Case(10_000, 20), Case(10_000, 100))


def run(folder: Path, *, quick: bool) -> list[Matched]:
    return asyncio.run(_run(folder, 200 if quick else 4_000))


async def _run(folder: Path, writes: int) -> list[Matched]:
    made = []
    with embedded.owned(folder / "matching") as url:
        migrate.upgrade(url)
        database = Database(url)
        await database.open()
        try:
            for number, case in enumerate(CASES):
                async with database.transaction() as conn:
                    await _subscribe(conn, case)
                made.append(await _measure(database, case, writes, first=number * (writes + _PER_S)))
        finally:
            await database.close()
    return made


async def _subscribe(conn: Connection, case: Case) -> None:
    """In place of those that there are. They are in the state that a refused notification leaves behind, so that
    nobody delivers what they are given."""
    await conn.execute("TRUNCATE subscription_key, subscription_event, subscription_state")
    written = {f"s{number}": filters for number, filters in enumerate(_filters(case))}
    served = topics.load(share_dir() / "conformance" / "topics")
    async with conn.cursor() as cursor:
        await cursor.executemany(
            """INSERT INTO subscription_state (id, status, topic, filters, channel, owner, started_seq)
               VALUES (%s, 'error', %s, %s, '{"kind": "rest-hook", "content": "id-only"}', %s, 0)""",
            [(id_, _TOPIC, Jsonb(filters), Jsonb(rows.owner_row(_OWNER))) for id_, filters in written.items()],
        )
    of_each = {
        id_: keys.keys_of(_TOPIC, served[_TOPIC].resource_types, form.tests(filters, (_BASE,)))
        for id_, filters in written.items()
    }
    await keys.write(conn, of_each)


def _filters(case: Case) -> Iterator[list[tuple[str, str]]]:
    """Half of them on a patient, a fifth each on a code and a device, a tenth on a patient and a code."""
    for _ in range(case.unfiltered):
        yield []
    for number in range(case.subscriptions - case.unfiltered):
        one, tenth = number // 10, number % 10
        if tenth < 5:
            yield [("Observation", f"patient=Patient/p-{one * 5 + tenth}")]
        elif tenth < 7:
            yield [("Observation", f"code=urn:code|c{one * 2 + tenth - 5}")]
        elif tenth < 9:
            yield [("Observation", f"device=Device/d{one * 2 + tenth - 7}")]
        else:
            yield [("Observation", f"patient=Patient/p-{one}"), ("Observation", "code=urn:code|c1")]


def _written(case: Case, number: int) -> dict[str, object]:
    """Of a patient, a code and a device that somebody asked for."""
    tens = max(1, (case.subscriptions - case.unfiltered) // 10)
    made = observation(number, number % (tens * 5), id=f"write-{number:08}") | {"meta": {"security": [LABEL]}}
    coding = {"system": "urn:code", "code": f"c{number % (tens * 2)}"}
    return made | {"code": {"coding": [coding]}, "device": {"reference": f"Device/d{number % (tens * 2)}"}}


async def _measure(database: Database, case: Case, writes: int, first: int) -> Matched:
    server_s = database_s = write_s = 0.0
    matches = 0
    served = topics.load(share_dir() / "conformance" / "topics")
    for start in range(first, first + writes + _PER_S, _BATCH):
        spent = [await _write(database, _written(case, number)) for number in range(start, start + _BATCH)]
        async with database.transaction() as conn:
            await events.sequence(conn)
        async with _timed(database) as (conn, times):
            waiting = await events.after(conn, await events.cursor(conn, _CURSOR), 500)
            found = waiting[: await rows.first_of(conn, waiting, _MOST_BYTES)]
            made = await matching.match(conn, served, _BASE, found)
            await events.advance(conn, _CURSOR, found[-1].seq)
        if start >= first + _PER_S:  # a second's writes warm up
            write_s += sum(spent)
            server_s, database_s, matches = server_s + times[0], database_s + times[1], matches + made
    return Matched(case, writes, matches, *(s / writes * 1e6 for s in (server_s, database_s, write_s)))


async def _write(database: Database, resource: dict[str, object]) -> float:
    async with _timed(database) as (conn, times):
        await resources.put(conn, resource)
    return sum(times)


@asynccontextmanager
async def _timed(database: Database) -> AsyncIterator[tuple[Connection, list[float]]]:
    """A transaction; after it the list has the processor seconds of this process and of the backend."""
    times: list[float] = []
    async with database.statements() as conn:
        backend = conn.info.backend_pid
        before = time.process_time(), _on_cpu_s(backend)
        async with conn.transaction():
            yield conn, times
        times += [time.process_time() - before[0], _on_cpu_s(backend) - before[1]]


def _on_cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
