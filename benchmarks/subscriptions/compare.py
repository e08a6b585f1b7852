"""Delivery, Wetread beside HAPI FHIR's JPA server, in turn: same machine, PostgreSQL, load and sink; Wetread also by
topic, whose notifications are numbered Bundles; and one subscriber's backlog beside another's latency."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.fhir.servers import Contestant, hapi, wetread
from benchmarks.subscriptions.delivery import Bench, Delivered
from benchmarks.subscriptions.sink import Sink, sink
from benchmarks.subscriptions.subscribing import by_criteria, by_topic, status_of, subscribe


@dataclass(frozen=True)
class Plan:
    endpoints: int
    """Each of which hears of every write."""
    warm_up: int
    writes: int
    writes_alone: int
    """With one endpoint."""
    at_ease: int
    """Writes at half of the asked rate."""
    at_ease_per_s: float
    """Notifications."""
    backlog: int
    backlog_writes: int
    backlog_per_s: float


QUICK = Plan(20, 20, 100, 200, 150, 500.0, 20_000, 300, 50.0)
WHOLE = Plan(20, 100, 1_500, 3_000, 1_500, 500.0, 1_000_000, 3_000, 50.0)


@dataclass(frozen=True)
class Row:
    server: str
    what: str
    made: Delivered


def run(folder: Path, plan: Plan) -> list[Row]:
    """Of each server: as fast as it goes, with one endpoint and with many; then at a steady rate."""
    rows = []
    for name, starting, form in _contestants(folder):
        with sink() as receiver, starting as server:
            rows += _measured(name, Bench(server, receiver, folder), receiver, form, plan)
    return rows


def _contestants(
    folder: Path,
) -> list[tuple[str, AbstractContextManager[Contestant], Callable[[str], dict[str, Any]]]]:
    return [
        ("Wetread, by topic", wetread(folder / "wetread"), by_topic),
        ("Wetread, R4 criteria", wetread(folder / "wetread-criteria"), by_criteria),
        ("HAPI, R4 criteria", hapi(folder / "hapi", validate=False, subscriptions=True), by_criteria),
    ]


def _measured(name: str, bench: Bench, receiver: Sink, form: Callable[[str], dict[str, Any]], plan: Plan) -> list[Row]:
    bench.fill()
    paths = [f"/fast/{number}" for number in range(plan.endpoints)]
    subscribe(bench.server, form(receiver.endpoint(paths[0])))
    bench.delivered(plan.warm_up, paths[:1])
    rows = [Row(name, "1 endpoint", bench.delivered(plan.writes_alone, paths[:1]))]
    for path in paths[1:]:
        subscribe(bench.server, form(receiver.endpoint(path)))
    bench.delivered(plan.warm_up, paths)
    rows.append(Row(name, f"{len(paths)} endpoints", bench.delivered(plan.writes, paths)))
    per_s = plan.at_ease_per_s / len(paths)
    made = bench.delivered(plan.at_ease, paths, per_s=per_s)
    return [*rows, Row(name, f"{len(paths)} endpoints, {plan.at_ease_per_s:.0f}/s", made)]


def run_backlog(folder: Path, plan: Plan) -> list[Row]:
    """The latency of one subscriber: alone with one whose endpoint is down; when that one has a backlog; when its
    endpoint takes the backlog again, 20 ms for each answer; and fast."""
    rows = []
    with sink() as receiver, wetread(folder / "backlog") as server:
        bench = Bench(server, receiver, folder)
        bench.fill()
        behind = subscribe(server, by_topic(receiver.endpoint("/fast/behind")))
        subscribe(server, by_topic(receiver.endpoint("/fast/live")))
        bench.delivered(20, ["/fast/behind", "/fast/live"])

        def measure(what: str) -> None:
            made = bench.delivered(plan.backlog_writes, ["/fast/live"], per_s=plan.backlog_per_s)
            rows.append(Row("Wetread", what, made))

        _move(server, behind, receiver.endpoint("/down/behind"))
        measure("another endpoint is down")
        _pile_up(server, behind, plan.backlog)
        measure(f"it is down with {plan.backlog:,} undelivered")
        for path, what in (("/slow/20/behind", "and takes them, 20 ms each"), ("/fast/behind", "and takes them, fast")):
            _move(server, behind, receiver.endpoint(path))
            measure(what)
        if status_of(server, behind) != "active":
            raise RuntimeError("the subscriber with the backlog was given up")
    return rows


def _move(server: Contestant, subscription_id: str, endpoint: str) -> None:
    """Lets a subscription's channel end elsewhere, without the handshake that would be refused there."""
    with psycopg.connect(server.database.url) as conn:
        conn.execute(
            """UPDATE subscription_state
               SET channel = jsonb_set(channel, '{endpoint}', %s::jsonb), failures = 0, failing_since = NULL,
                   due_at = '-infinity'
               WHERE id = %s""",
            (json.dumps(endpoint), subscription_id),
        )


def _pile_up(server: Contestant, subscription_id: str, many: int) -> None:
    """Undelivered events, all of the version that its last event is of, with numbers that go on from there."""
    with psycopg.connect(server.database.url) as conn:
        conn.execute("SELECT FROM subscription_state WHERE id = %s FOR UPDATE", (subscription_id,))
        conn.execute(
            """
            INSERT INTO subscription_event
                (subscription_id, number, seq, resource_type, resource_id, version_id, kind, at, patient_ids)
            SELECT e.subscription_id, e.number + n, -n, e.resource_type, e.resource_id, e.version_id, e.kind, e.at,
                e.patient_ids
            FROM generate_series(1, %(many)s) n, subscription_event e
            WHERE e.subscription_id = %(id)s
                AND e.number = (SELECT max(number) FROM subscription_event WHERE subscription_id = %(id)s)
            """,
            {"many": many, "id": subscription_id},
        )
        conn.execute(
            "UPDATE subscription_state SET events_since_start = events_since_start + %s WHERE id = %s",
            (many, subscription_id),
        )
    with psycopg.connect(server.database.url, autocommit=True) as conn:
        conn.execute("VACUUM ANALYZE subscription_event")
