"""A subscription tells what its owner may read now: through the HTTP listener, with tokens as clients get them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from wetread import app as composition
from wetread.access import secrets
from wetread.access.clients import clients, registration
from wetread.domain.reader import Reader
from wetread.record.events import Sequencer
from wetread.record.subscriptions import switching
from wetread.settings import load
from wetread.store.database import Database

from .conftest import HANG, Sink
from .subscribing import form, numbers, task, told_by, until

SCOPE = "system/Subscription.cruds system/Task.rs"
HERE = "http://127.0.0.1:8080"


@dataclass
class Listener:
    """The server behind its HTTP listener; `own` are the headers of a client, `operator` of who may do all."""

    database: Database
    http: httpx.AsyncClient
    own: dict[str, str]
    operator: dict[str, str]

    async def registered(self, scope: str) -> None:
        async with self.database.transaction() as conn:
            await clients.change(conn, "ehr", wanted(scope))

    async def task(self, task_id: str, patient: str = "p1") -> None:
        answer = await self.http.put(
            f"/fhir/Task/{task_id}", json=task(task_id, patient=patient), headers=self.operator
        )
        assert answer.status_code == 201, answer.text

    async def status(self, subscription_id: str) -> str:
        answer = await self.http.get(f"/fhir/Subscription/{subscription_id}", headers=self.operator)
        return str(answer.json()["status"])


def wanted(scope: str) -> registration.Registration:
    return registration.checked(name="EHR", kind="symmetric", scope=scope, grant_types=["client_credentials"])


@pytest.fixture
async def listener(database: Database, tmp_path: Path) -> AsyncIterator[Listener]:
    settings = load(None, {"data_dir": tmp_path})
    async with database.transaction() as conn:
        await clients.add(conn, "ehr", wanted(SCOPE))
        made = await secrets.make(conn, "ehr", timedelta(days=1))
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as opened:
        built = await opened.enter_async_context(composition.house(settings, database.url, ["http", "notify"]))
        transport: Any = httpx.ASGITransport(composition.front(built).app)
        http = await opened.enter_async_context(httpx.AsyncClient(transport=transport, base_url=HERE))
        operator = composition.tokens(settings).issue("operator:test", "system/*.cruds", [], timedelta(hours=1)).token
        form_sent = {"grant_type": "client_credentials", "scope": SCOPE}
        given = await http.post("/oauth/token", data=form_sent, auth=("ehr", made.text))
        assert given.status_code == 200, given.text
        working = [asyncio.create_task(each) for each in (Sequencer(database).run(stop), built.notifying.run(stop))]
        own, of_operator = ({"Authorization": f"Bearer {t}"} for t in (given.json()["access_token"], operator))
        yield Listener(database, http, own, of_operator)
        stop.set()
        await asyncio.gather(*working)


async def active(listener: Listener, sink: Sink) -> str:
    made = await listener.http.post("/fhir/Subscription", json=form(sink.url, timeout_s=1), headers=listener.own)
    assert made.status_code == 201, made.text
    await until_status(listener, made.json()["id"], "active")
    return str(made.json()["id"])


async def until_status(listener: Listener, subscription_id: str, status: str) -> None:
    async with asyncio.timeout(20):
        while await listener.status(subscription_id) != status:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def heard(sink: Sink) -> list[str]:
    events = [event for each in sink.received for event in told_by(each).get("notification-event", ())]
    return [event["focus"]["reference"].rpartition("/")[2] for event in events]


async def done(listener: Listener, count: int) -> None:
    """So many events are done with: sent, or dropped on record."""
    async with asyncio.timeout(20):
        while True:
            async with listener.database.transaction() as conn:
                rows = await conn.execute("SELECT delivered FROM subscription_state")
                if [row[0] for row in await rows.fetchall()] == [count]:
                    return
            await asyncio.sleep(0.05)


async def test_a_client_whose_scopes_are_narrowed_is_told_no_more_than_they_open(
    listener: Listener, sink: Sink
) -> None:
    await active(listener, sink)
    await listener.task("first")
    await until(lambda: heard(sink) == ["first"])

    await listener.registered("system/Subscription.cruds system/Task.rs?patient=Patient/p1")
    await listener.task("anothers", patient="p2")
    await done(listener, 2)
    await listener.task("own")
    await until(lambda: heard(sink) == ["first", "own"])

    await listener.registered("system/Subscription.cruds system/Observation.rs")
    await listener.task("third")
    await done(listener, 4)

    await listener.registered(SCOPE)
    await listener.task("fourth")
    await until(lambda: heard(sink) == ["first", "own", "fourth"])
    assert numbers(sink) == ["1", "3", "5"]
    async with listener.database.transaction() as conn:
        rows = await conn.execute(
            "SELECT count(*) FROM audit_event WHERE kind = 'access-denied' AND principal = 'ehr' AND outcome = '4'"
        )
        assert await rows.fetchall() == [(2,)]


async def test_a_client_that_is_disabled_is_told_nothing_until_it_is_enabled_and_asks_again(
    listener: Listener, sink: Sink
) -> None:
    subscription_id = await active(listener, sink)
    async with listener.database.transaction() as conn:
        await clients.disable(conn, "ehr")
    await listener.task("while-disabled")
    await until_status(listener, subscription_id, "error")
    await listener.task("in-error")
    async with listener.database.transaction() as conn:
        await clients.enable(conn, "ehr")
    await listener.task("enabled")
    await done(listener, 0)
    assert heard(sink) == []

    again = await listener.http.put(
        f"/fhir/Subscription/{subscription_id}", json={**form(sink.url), "id": subscription_id}, headers=listener.own
    )
    assert again.status_code == 200, again.text
    await until(lambda: len(heard(sink)) == 3)
    assert numbers(sink) == ["1", "2", "3"]


async def test_a_client_that_is_disabled_while_it_is_told_hears_nothing_after_that(
    listener: Listener, sink: Sink
) -> None:
    subscription_id = await active(listener, sink)
    before = len(sink.received)
    sink.answer = lambda received: HANG
    await listener.task("on-its-way")
    await until(lambda: len(sink.received) == before + 1)
    for n in range(3):
        await listener.task(f"waits-{n}")
    async with listener.database.transaction() as conn:
        await clients.disable(conn, "ehr")
    sink.answer = lambda received: 200
    await until_status(listener, subscription_id, "error")
    assert len(sink.received) == before + 1
    await done(listener, 0)


async def test_a_client_that_is_disabled_amid_a_backlog_hears_for_a_second_at_most(
    listener: Listener, sink: Sink
) -> None:
    subscription_id = await active(listener, sink)
    sink.answer = lambda received: 503
    for n in range(19):
        await listener.task(f"waits-{n}")
    before = len(sink.received)
    sink.answer, sink.pause_s = lambda received: 200, 0.2
    await until(lambda: len(sink.received) > before + 1)
    async with listener.database.transaction() as conn:
        await clients.disable(conn, "ehr")
    told = len(sink.received)
    await until_status(listener, subscription_id, "error")
    assert len(sink.received) <= told + 6


async def test_who_is_enabled_with_fewer_rights_is_told_of_what_waited_what_they_open(
    listener: Listener, sink: Sink
) -> None:
    subscription_id = await active(listener, sink)
    async with listener.database.transaction() as conn:
        await clients.disable(conn, "ehr")
    await listener.task("anothers", patient="p2")
    await listener.task("own")
    await until_status(listener, subscription_id, "error")
    await listener.registered("system/Subscription.cruds system/Task.rs?patient=Patient/p1")
    async with listener.database.transaction() as conn:
        await clients.enable(conn, "ehr")
        await switching.ask_again(conn, Reader("operator:ann", roles=frozenset({"engineer"})), subscription_id)
    await done(listener, 2)
    assert heard(sink) == ["own"]
    assert numbers(sink) == ["2"]
