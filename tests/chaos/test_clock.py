"""The clock jumps while events flow and endpoints are in trouble, by libfaketime: that of the whole machine, database
and all, or that of the notifying process alone, as of a second host."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from tests.flow.conftest import until
from tests.subscriber import Posted

from .clock import Clock
from .ward import OTHERS, Ward, ward_in

_HEARTBEAT_S = 10
_SOON_S = 40
"""Within which all is told that waits, beside whatever else the machine does."""


@pytest.fixture
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    clock = Clock(tmp_path_factory.mktemp("clock") / "ahead")
    clock.set(0)
    return clock


@pytest.fixture(params=["machine", pytest.param("notifier", marks=pytest.mark.slow)])
def ward(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("ward")
    if request.param == "machine":
        with ward_in(folder, environment=clock.environment) as running:
            yield running
    else:
        with (
            ward_in(folder, roles=OTHERS) as running,
            running.another_notifier(clock.environment),
        ):
            yield running


@pytest.mark.timeout(300)
def test_a_clock_that_jumps_loses_nothing_ends_nothing_and_puts_nothing_off(ward: Ward, clock: Clock) -> None:
    ehr, endpoint = ward.ehr, ward.ehr.subscriber
    in_trouble = threading.Event()

    def troubled(posted: Posted, answer: int) -> int:
        return answer if in_trouble.is_set() and posted.kind == "event-notification" else 200

    endpoint.answers["down"] = lambda posted: troubled(posted, 503)
    endpoint.answers["refuses"] = lambda posted: troubled(posted, 403)
    subscribed = {name: ehr.subscribed(name) for name in ("well", "down", "refuses")}
    ehr.subscribed("quiet", filters=("Task?code=urn:test|nobody",), heartbeat_period=_HEARTBEAT_S)
    began, ahead_h, written = time.monotonic(), 0, 0
    for jump_h in (2, 30, -34):
        in_trouble.set()
        ehr.write(5)
        for name in ("down", "refuses"):
            until(f"{name} to fail", lambda name=name: ehr.status(subscribed[name])["error"], _SOON_S)
        before = {name: len(endpoint.posted[name]) for name in ("down", "refuses")}
        ahead_h += jump_h
        clock.set(ahead_h)
        ehr.write(5)
        written += 10
        endpoint.wait_for("well", [written], _SOON_S)
        for name, posted in before.items():
            # The first may have been on its way when the clock was set.
            until(f"{name} to be tried again", lambda n=name, p=posted: len(endpoint.posted[n]) > p + 1, _SOON_S)
            assert ehr.status(subscribed[name])["status"] == "active", f"{name} after {jump_h} h"
        in_trouble.clear()
        for name in ("down", "refuses"):
            endpoint.wait_for(name, [written], _SOON_S)
        until(
            "a heartbeat by this clock",
            lambda by=ahead_h: any(_is_by(by, beat) for beat in endpoint.taken("quiet", "heartbeat")),
            _SOON_S,
        )
    for name in subscribed:
        assert list(dict.fromkeys(endpoint.numbers(name))) == list(range(1, written + 1)), name
    elapsed_s = time.monotonic() - began
    assert len(endpoint.taken("quiet", "heartbeat")) <= elapsed_s / _HEARTBEAT_S + 4
    with ward.database() as conn:
        assert _rewritten_while_quiet(conn) < 3 * 10


def _is_by(clock_h: int, posted: Posted) -> bool:
    """Whether this was made by a clock that is so many hours ahead."""
    made = datetime.fromisoformat(posted.bundle["timestamp"])
    return round((made - datetime.now(UTC)).total_seconds() / 3600) == clock_h


def _rewritten_while_quiet(conn: psycopg.Connection) -> int:
    """How often a subscription's state is written in three seconds without an event."""

    def written() -> int:
        row = conn.execute("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'subscription_state'").fetchone()
        assert row is not None
        return int(row[0])

    time.sleep(2)  # until what was written before is counted
    before = written()
    time.sleep(3)
    return written() - before
