"""No event is lost: the server, its notifying process and its database are killed while a subscriber's endpoint flaps.

`make test` runs a few hundred events; the ten thousand of a long siege are marked slow.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest

from tests.flow.conftest import until
from tests.flow.subscribing.client import Client
from tests.subscriber import Posted, status_of, subscriber

from .conftest import Killer
from .ward import Ward, ward_in

_AT_ONCE = 20
"""Writes in one transaction."""


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    with ward_in(tmp_path_factory.mktemp("ward")) as running:
        yield running


@pytest.fixture
def ward(standing: Ward) -> Iterator[Ward]:
    """The same server, and an endpoint of its own."""
    with subscriber() as endpoint:
        yield Ward(standing.hospital, Client(standing.ehr.http, endpoint))


@dataclass
class Burst:
    """Writes so many Tasks, each transaction again until it is answered."""

    ehr: Client
    count: int
    ids: list[str] = field(default_factory=list)
    resent: int = 0

    def run(self) -> threading.Thread:
        thread = threading.Thread(target=self._write, daemon=True)
        thread.start()
        return thread

    def _write(self) -> None:
        for first in range(0, self.count, _AT_ONCE):
            ids = [f"b{self.ehr.code[:12]}-{number}" for number in range(first, min(first + _AT_ONCE, self.count))]
            entries = [
                {"resource": self._task(each), "request": {"method": "PUT", "url": f"Task/{each}"}} for each in ids
            ]
            bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
            while not self._posted(bundle):
                self.resent += 1
                time.sleep(0.2)
            self.ids += ids

    def _posted(self, bundle: Mapping[str, Any]) -> bool:
        with suppress(httpx.TransportError):
            return self.ehr.http.post("/fhir/", json=bundle).status_code == 200
        return False

    def _task(self, task_id: str) -> dict[str, Any]:
        return {
            "resourceType": "Task",
            "id": task_id,
            "status": "requested",
            "intent": "order",
            "code": self.ehr.concept(),
        }


def _flapping(seed: int) -> Any:
    """Well for a moment, then not: it answers 503, hangs up, or takes its time and then hangs up."""
    chosen = random.Random(seed)
    lock, until_, now = threading.Lock(), [0.0], [200]

    def answer(posted: Posted) -> int:
        if posted.kind == "handshake":
            return 200
        with lock:
            if time.monotonic() > until_[0]:
                now[0] = 200 if now[0] != 200 else chosen.choice([503, 0, 1])
                until_[0] = time.monotonic() + chosen.uniform(0.1, 0.4)
            mood = now[0]
        if mood == 1:
            time.sleep(0.3)
        return 0 if mood == 1 else mood

    return answer


_LONG = ("work", "group", "postgres", "front", "postgres-restart", "work", "parent") * 3


@pytest.mark.timeout(2700)
@pytest.mark.parametrize(
    ("events", "victims", "seed"),
    [
        (400, ("work", "postgres", "postgres-restart", "group"), 1),
        pytest.param(10_000, _LONG, 1, marks=pytest.mark.slow),
        pytest.param(10_000, _LONG, 2, marks=pytest.mark.slow),
    ],
)
def test_killed_in_a_burst_every_number_arrives_in_order_at_an_endpoint_that_flaps(
    ward: Ward, events: int, victims: Sequence[str], seed: int, record_property: Any
) -> None:
    ehr, endpoint = ward.ehr, ward.ehr.subscriber
    killer, began = Killer(ward.hospital.server, random.Random(seed)), time.monotonic()
    endpoint.answers["flaps"] = _flapping(seed)
    flapping = ehr.subscribed("flaps", content="id-only", timeout=2, max_count=10)
    steady = ehr.subscribed("steady", content="empty")
    burst = Burst(ehr, events)
    thread = burst.run()
    shuffled = killer.random.sample(victims, len(victims))
    for kills, victim in enumerate(shuffled):
        # Spread over the whole burst, so that there is always something under way.
        share = events * kills // len(victims)
        until(f"{share} writes", lambda share=share: len(burst.ids) >= share, 120)
        time.sleep(killer.random.uniform(0.2, 0.8))
        killer.strike(victim)
    thread.join(300)
    assert len(burst.ids) == events
    del endpoint.answers["flaps"]
    count = int(until("the log to be matched", lambda: _matched(ward, flapping, events), 120))
    told = f"{events} writes, {count} events, kills {shuffled}, {burst.resent} transactions sent again"
    for name in ("flaps", "steady"):
        until(f"{name} to be told of {count} after {told}", lambda name=name: count in endpoint.numbers(name), 300)
        in_order = list(dict.fromkeys(endpoint.numbers(name)))
        assert in_order == list(range(1, count + 1)), f"{name} after {told}"
    doubled = {name: len(endpoint.numbers(name)) - count for name in ("flaps", "steady")}
    record_property("siege", f"{told}; taken again: {doubled}; {time.monotonic() - began:.0f} s")
    kept = _focus_by_number(_asked(ehr, flapping, count))
    assert _focus_by_number([one.bundle for one in endpoint.taken("flaps")]) == kept
    assert set(kept.values()) == set(burst.ids)
    assert ehr.status(steady)["status"] == ehr.status(flapping)["status"] == "active"


def _matched(ward: Ward, subscription_id: str, least: int) -> int:
    """How many events the subscription has, once the matcher has come to the end of the log."""
    with ward.database() as conn:
        row = conn.execute(
            """SELECT events_since_start FROM subscription_state WHERE id = %s
               AND NOT EXISTS (SELECT FROM event WHERE seq IS NULL)
               AND (SELECT max(seq) FROM event) = (SELECT seq FROM event_cursor WHERE name = 'subscriptions')""",
            (subscription_id,),
        ).fetchone()
    return int(row[0]) if row and row[0] >= least else 0


def _asked(ehr: Client, subscription_id: str, count: int) -> list[dict[str, Any]]:
    """All that `$events` has, in slices."""
    return [
        ehr.events(subscription_id, eventsSinceNumber=first, eventsUntilNumber=min(first + 499, count))
        for first in range(1, count + 1, 500)
    ]


def _focus_by_number(bundles: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Which Task each number is of; the same number is never of two."""
    found: dict[int, str] = {}
    for bundle in bundles:
        for event in status_of(bundle)["notification-event"]:
            task_id = event["focus"]["reference"].rpartition("/")[2]
            assert found.setdefault(int(event["event-number"]), task_id) == task_id
    return found


@pytest.mark.timeout(300)
def test_of_two_notifying_processes_one_is_killed_and_the_other_takes_over_within_seconds(ward: Ward) -> None:
    ehr, endpoint = ward.ehr, ward.ehr.subscriber
    names = [f"shared-{number}" for number in range(70)]

    def slow(_: Posted) -> int:
        time.sleep(0.05)
        return 200

    for name in names:
        endpoint.answers[name] = slow
        assert ehr.post(ehr.form(name, content="id-only")).status_code == 201
    until("all to be active", lambda: all(endpoint.taken(name, "handshake") for name in names), 60)
    with ward.another_notifier() as other, ward.database() as conn:
        until("two deliverers", lambda: _living(conn) == 2, 60)
        stop, written = threading.Event(), list[str]()

        def write() -> None:
            while not stop.wait(0.1):
                written.extend(ehr.write())

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        until("both to have work in hand", lambda: len(_in_hand(conn)) == 2)
        other.kill()
        killed = time.monotonic()
        until("the dead one's to be taken", lambda: _living(conn) == 1 and len(_in_hand(conn)) == 1, 10)
        took_over_s = time.monotonic() - killed
        stop.set()
        writer.join(10)
    count = len(written)
    for name in names:
        endpoint.wait_for(name, [count], 60)
        assert list(dict.fromkeys(endpoint.numbers(name))) == list(range(1, count + 1)), name
    assert took_over_s < 5


def _living(conn: psycopg.Connection) -> int:
    return len(conn.execute("SELECT FROM pg_stat_activity WHERE application_name = 'wetread-deliverer'").fetchall())


def _in_hand(conn: psycopg.Connection) -> set[int]:
    rows = conn.execute("SELECT DISTINCT worker FROM subscription_state WHERE worker IS NOT NULL").fetchall()
    return {row[0] for row in rows}
