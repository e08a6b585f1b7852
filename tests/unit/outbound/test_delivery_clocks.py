"""Whose clock says what: the database's, when something is due; and no clock alone, that patience has run out."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest

from wetread.record.subscriptions import claims, due, keeping, subscriptions
from wetread.record.subscriptions.claims import Failure, Patience
from wetread.record.subscriptions.keeping import remove_old
from wetread.record.subscriptions.rows import state_of

from .conftest import Sink
from .subscribing import B, Server, form, numbers, task, told_by, until, until_cursors, until_status


def _with_heartbeat(endpoint: str) -> dict[str, Any]:
    asked = form(endpoint)
    asked["channel"]["extension"].append({"url": f"{B}heartbeat-period", "valueUnsignedInt": 10})
    return asked


async def _set(server: Server, assignments: str, *args: object) -> None:
    async with server.database.transaction() as conn:
        await conn.execute(f"UPDATE subscription_state SET {assignments}".encode(), args)


async def _one(server: Server, columns: str) -> tuple[Any, ...]:
    async with server.database.transaction() as conn:
        row = await (await conn.execute(f"SELECT {columns} FROM subscription_state".encode())).fetchone()
    assert row is not None
    return row


def _skewed(by: timedelta) -> type[datetime]:
    class Skewed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + by

    return Skewed


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_heartbeat_is_due_by_the_clock_that_wrote_when_the_last_went_out(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    monkeypatch.setattr(due, "datetime", _skewed(timedelta(hours=hours)))
    await server.active(_with_heartbeat(sink.url))
    async with server.delivering():
        await _set(server, "last_sent_at = now() - interval '7 seconds', due_at = now()")
        await asyncio.sleep(0.5)
        assert sink.received == [], "it was not silent for long enough"
        await until(lambda: len(sink.received) == 1)
        await asyncio.sleep(0.5)
    assert [told_by(received)["type"] for received in sink.received] == ["heartbeat"]


async def test_a_heartbeat_goes_out_though_the_last_was_sent_in_the_future(server: Server, sink: Sink) -> None:
    await server.active(_with_heartbeat(sink.url))
    await _set(server, "last_sent_at = now() + interval '3 years', due_at = now()")
    async with server.delivering():
        await until(lambda: len(sink.received) == 1)
    assert await _one(server, "last_sent_at <= now()") == (True,)


@pytest.mark.parametrize("hours", [-1, 1])
async def test_an_end_is_past_by_the_clock_that_ends_it(
    server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=-30 if hours < 0 else 30)
    monkeypatch.setattr(subscriptions, "datetime", _skewed(timedelta(hours=hours)), raising=False)
    await server.subscribe({**form(sink.url), "end": soon.isoformat(timespec="seconds")})
    assert await _one(server, "ends_at IS NULL") == (hours < 0,)


class TestPatience:
    """A clock that jumps, or a server that was away, does not end it: nobody has tried meanwhile."""

    @pytest.mark.parametrize("is_refusal", [False, True])
    async def test_a_clock_that_jumps_does_not_end_it(self, server: Server, sink: Sink, is_refusal: bool) -> None:
        subscription_id = await server.active(form(sink.url))
        sink.answer = lambda received: 404 if is_refusal else 503
        await server.happen(task("a"))
        async with server.delivering():
            await until(lambda: len(sink.received) == 1)
            await asyncio.sleep(0.2)
            await _set(server, "failing_since = now() - interval '2 days', refused_since = now() - interval '2 days'")
            await until(lambda: len(sink.received) == 2)
            await asyncio.sleep(0.2)
            assert (await server.status(subscription_id))["status"] == "active"
            sink.answer = lambda received: 200
            await until_cursors(server, (1, 1))

    @pytest.mark.parametrize(
        ("failures", "since", "is_refusal", "is_over"),
        [
            (200, timedelta(hours=25), False, True),
            (90, timedelta(hours=25), False, True),
            (70, timedelta(hours=25), False, False),
            (200, timedelta(hours=23), False, False),
            (12, timedelta(minutes=11), True, True),
            (9, timedelta(minutes=11), True, False),
            (12, timedelta(minutes=9), True, False),
            (12, timedelta(minutes=11), False, False),
        ],
    )
    async def test_needs_the_time_and_the_attempts_that_fill_half_of_it(
        self, server: Server, failures: int, since: timedelta, is_refusal: bool, is_over: bool
    ) -> None:
        subscription_id = await server.active(form("http://127.0.0.1:9/"))
        await _set(
            server,
            "failures = %s, failing_since = now() - %s, refused_since = now() - %s, worker = 7",
            failures,
            since,
            since,
        )
        async with server.database.transaction() as conn:
            state = await state_of(conn, subscription_id)
            assert state is not None
            assert await claims.put_off(conn, 7, state, 0, Failure("no", is_refusal=is_refusal), Patience()) is is_over

    async def test_is_not_prolonged_by_a_failure_in_the_future(self, server: Server) -> None:
        subscription_id = await server.active(form("http://127.0.0.1:9/"))
        await _set(server, "failures = 9, failing_since = now() + interval '3 years', refused_since = failing_since")
        await _set(server, "refused_since = failing_since, worker = 7")
        async with server.database.transaction() as conn:
            state = await state_of(conn, subscription_id)
            assert state is not None
            await claims.put_off(conn, 7, state, 0, Failure("no", is_refusal=True), Patience())
        assert await _one(server, "failing_since <= now(), refused_since <= now()") == (True, True)

    async def test_runs_out(self, server: Server, sink: Sink) -> None:
        subscription_id = await server.active(form(sink.url))
        sink.answer = lambda received: 503
        await server.happen(task("a"))
        patience = Patience(no_answer=timedelta(seconds=1))
        async with server.delivering(patience=patience):
            await until_status(server, subscription_id, "error")
        assert len(sink.received) >= 3


class TestKeeping:
    async def test_events_are_old_by_the_clock_that_dated_them(
        self, server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keeping, "datetime", _skewed(timedelta(days=40)), raising=False)
        await server.active(form(sink.url))
        await server.happen(task("a"))
        async with server.database.transaction() as conn:
            assert await remove_old(conn, timedelta(days=30)) == 0

    async def test_one_that_a_wrong_clock_dated_stays_as_long_as_those_before_it(
        self, server: Server, sink: Sink
    ) -> None:
        await server.active(form(sink.url))
        await server.happen(task("a"), task("b"), task("c"))
        async with server.database.transaction() as conn:
            await conn.execute("UPDATE subscription_event SET at = 'epoch' WHERE number = 2")
            assert await remove_old(conn, timedelta(days=30)) == 0
        async with server.delivering():
            await until_cursors(server, (3, 3))
        assert numbers(sink) == ["1", "2", "3"]

    async def test_who_failed_until_nothing_was_left_hears_of_what_comes_then(self, server: Server, sink: Sink) -> None:
        subscription_id = await server.active(form(sink.url))
        sink.answer = lambda received: 503
        await server.happen(task("a"))
        async with server.delivering():
            await until(lambda: len(sink.received) == 1)
            async with server.database.transaction() as conn:
                await conn.execute("UPDATE subscription_event SET at = now() - interval '31 days'")
                assert await remove_old(conn, timedelta(days=30)) == 1
            await asyncio.sleep(0.8)
            sink.answer = lambda received: 200
            await server.happen(task("b"))
            await until_cursors(server, (2, 2))
        assert numbers(sink)[-1] == "2"
        assert (await server.status(subscription_id))["status"] == "active"
