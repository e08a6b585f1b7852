"""Wetread's FHIR face beside HAPI FHIR's JPA server, in turn: same machine, PostgreSQL, load and load generator."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fhir.export import exported
from benchmarks.fhir.load import Measured, Replay, Request
from benchmarks.fhir.population import Population
from benchmarks.fhir.report import Result, Row, export_table, table
from benchmarks.fhir.servers import Contestant, Usage, hapi, wetread

_CONNECTIONS = 8
_TYPES = "Patient,Observation"


@dataclass(frozen=True)
class Plan:
    patients: int
    observations: int
    warm_up_s: int
    measure_s: int
    warm_up_bundles: int
    bundles: int


_QUICK = Plan(patients=100, observations=800, warm_up_s=3, measure_s=4, warm_up_bundles=1, bundles=3)
_WHOLE = Plan(patients=1_000, observations=8_000, warm_up_s=6, measure_s=8, warm_up_bundles=10, bundles=30)


def run(folder: Path, *, quick: bool) -> str:
    """The table of all interactions. Raises RuntimeError where the servers do not find the same."""
    plan = _QUICK if quick else _WHOLE
    results, answers = [], []
    for starting in (wetread(folder / "wetread"), hapi(folder / "hapi", validate=False)):
        result, found = _measured(starting, plan, folder)
        results.append(result)
        answers.append(found)
    if answers[0] != answers[1]:
        raise RuntimeError("the servers do not answer the same searches with the same resources")
    with hapi(folder / "hapi-validating", validate=True) as server:
        _fill(server, Population(plan.patients, 0))
        validating = [_Bench(server, plan, folder).create()]
    note = f"{plan.patients:,} patients with {plan.observations:,} observations, {_CONNECTIONS} connections; "
    note += f"{plan.warm_up_s} s of warm-up and {plan.measure_s} s of measuring for each interaction."
    return table(results[0], results[1], validating, note)


def run_export(folder: Path, *, quick: bool) -> str:
    """The table of an export of 200,000 resources: half an hour and more, most of it to fill HAPI."""
    count = 2_000 if quick else 200_000
    rows = []
    for starting in (wetread(folder / "wetread"), hapi(folder / "hapi", validate=False)):
        with starting as server:
            filled_per_s = _fill(server, Population(1_000, count - 1_000))
            rows.append((_export(server), filled_per_s, server.memory_mb()))
    return export_table(count, rows)


def _measured(
    starting: AbstractContextManager[Contestant], plan: Plan, folder: Path
) -> tuple[Result, Sequence[Sequence[str]]]:
    population = Population(plan.patients, plan.observations)
    with starting as server:
        before = server.settled()
        time.sleep(5)
        after = server.usage()
        idle = (after.cpu_s - before.cpu_s) / (after.at_s - before.at_s)
        idle_memory_mb = server.memory_mb()
        filled_per_s = _fill(server, population)
        answers = _answers(server, population)
        bench = _Bench(server, plan, folder)
        rows = [
            bench.replayed("read", population.reads(20_000)),
            bench.replayed("search by patient and code", population.searches()),
            bench.replayed("search with chain and _include", population.chains()),
            bench.replayed("update", population.updates()),
            bench.create(),
            bench.transaction(),
        ]
        exports = _export(server)
        result = Result(server.name, [*rows, exports], idle, idle_memory_mb, server.memory_mb(), filled_per_s)
        return result, answers


class _Bench:
    """One interaction after the other, on one server."""

    def __init__(self, server: Contestant, plan: Plan, folder: Path) -> None:
        self._server = server
        self._plan = plan
        self._folder = folder
        self._population = Population(plan.patients, plan.observations)

    def create(self) -> Row:
        return self.replayed("create", self._population.creates(20_000))

    def replayed(self, what: str, requests: Iterable[Request]) -> Row:
        all_of_them = list(requests)
        self._asked(all_of_them[0])
        replay = Replay.of(all_of_them, "/fhir", self._folder / f"{self._server.name}-{what}".replace(" ", "-"))
        where = (self._server.url, self._server.token)
        replay.run(*where, connections=_CONNECTIONS, seconds=self._plan.warm_up_s)
        before = self._server.settled()
        measured = replay.run(*where, connections=_CONNECTIONS, seconds=self._plan.measure_s)
        return _row(self._server, what, measured, before, self._server.settled())

    def transaction(self) -> Row:
        """A fixed count, over two connections: one takes long, and a replay would break off those in flight."""
        bundles = list(self._population.transactions(self._plan.warm_up_bundles + self._plan.bundles))
        with ThreadPoolExecutor(2) as connections:
            list(connections.map(self._post, bundles[: self._plan.warm_up_bundles]))
            before, started = self._server.settled(), time.monotonic()
            times_ms = sorted(connections.map(self._post, bundles[self._plan.warm_up_bundles :]))
        duration_s = time.monotonic() - started
        count = len(times_ms)
        measured = Measured(count, duration_s, times_ms[count // 2], times_ms[int(count * 0.95)], 0)
        return _row(self._server, "transaction of 100", measured, before, self._server.settled())

    def _post(self, bundle: Request) -> float:
        """Milliseconds."""
        started = time.monotonic()
        self._asked(bundle)
        return (time.monotonic() - started) * 1000

    def _asked(self, request: Request) -> None:
        status, _, content = self._server.ask(*request)
        if status >= 300:
            raise RuntimeError(f"{self._server.name}: {request.path} was answered {status}: {content[:1000]!r}")


def _row(server: Contestant, what: str, measured: Measured, before: Usage, after: Usage) -> Row:
    if not measured.requests:
        raise RuntimeError(f"{server.name}: no {what} was answered in time")
    thousands = measured.requests / 1000
    row = Row(
        server.name,
        what,
        measured.per_s,
        measured.p50_ms,
        measured.p95_ms,
        (after.server_cpu_s - before.server_cpu_s) / thousands,
        (after.database_cpu_s - before.database_cpu_s) / thousands,
    )
    print(f"{server.name}, {what}: {row.per_s:.0f}/s, {row.cpu_s:.2f} CPU s for 1,000", flush=True)
    return row


def _fill(server: Contestant, population: Population) -> float:
    """Resources a second, in transactions of 100 over two connections; the patients first."""

    def post(bundle: Request) -> None:
        status, _, content = server.ask("POST", "", bundle.body)
        if status != 200:
            raise RuntimeError(f"{server.name}: a transaction was answered {status}: {content[:1000]!r}")

    started = time.monotonic()
    with ThreadPoolExecutor(2) as connections:
        for bundles in (population.of_patients(), population.of_observations()):
            list(connections.map(post, bundles))
    return (population.patients + population.observations) / (time.monotonic() - started)


def _answers(server: Contestant, population: Population) -> list[list[str]]:
    """What some searches find, by type and id: proof that the servers do the same work."""
    found = []
    for searches in (population.searches(), population.chains()):
        for request in list(searches)[: population.patients : population.patients // 20]:
            path = request.path.replace("_count=20", "_count=500")
            status, _, content = server.ask(request.method, path)
            entries = json.loads(content).get("entry", []) if status == 200 else []
            if not entries:
                raise RuntimeError(f"{server.name}: {path} was answered {status}: {content[:500]!r}")
            found.append(sorted("{resourceType}/{id}".format(**entry["resource"]) for entry in entries))
    return found


def _export(server: Contestant) -> Row:
    before = server.settled()
    count, seconds = exported(server, _TYPES)
    took_ms = seconds * 1000
    return _row(server, "$export", Measured(count, seconds, took_ms, took_ms, 0), before, server.settled())
