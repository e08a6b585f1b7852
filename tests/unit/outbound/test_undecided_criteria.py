"""A topic whose FHIRPath criterion fails on a change is no event, and those who look after it are told."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from wetread.domain.reader import SYSTEM, Reader
from wetread.errors import Forbidden
from wetread.record.subscriptions import undecided
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.record.subscriptions.topics import topic_of
from wetread.store.database import Database

from .subscribing import ALLOWED, BASE, TOPIC, TOPICS, Server, form, task

URL = "https://hospital.example/topics/task-with-output"


@pytest.fixture
def server(database: Database) -> Server:
    """With a site's topic that did not think of a Task with two outputs."""
    rule = {"resource": "Task", "fhirPathCriteria": "%current.output.type.text.startsWith('volume')"}
    also = {"resource": "Task", "queryCriteria": {"current": "status=failed"}}
    body = {"resourceType": "SubscriptionTopic", "url": URL, "status": "active", "resourceTrigger": [rule, also]}
    server = Server(database)
    server.subscriptions = Subscriptions({**TOPICS, URL: topic_of(body)}, ALLOWED, BASE)
    return server


def with_outputs(task_id: str, *texts: str, status: str = "completed") -> dict[str, Any]:
    return {**task(task_id, status), "output": [{"type": {"text": text}, "valueString": "x"} for text in texts]}


async def kept(server: Server) -> list[undecided.FailedCriterion]:
    async with server.database.transaction() as conn:
        return await undecided.for_operators(conn, SYSTEM)


async def test_it_is_counted_with_its_reason_and_other_topics_and_triggers_go_on(server: Server) -> None:
    await server.active({**form("http://127.0.0.1:1/own"), "criteria": URL})
    await server.active({**form("http://127.0.0.1:1/other"), "criteria": TOPIC})
    assert await server.happen(with_outputs("a", "volume"), with_outputs("b", "text")) == 3
    assert await kept(server) == []
    assert await server.happen(with_outputs("c", "volume", "text"), with_outputs("d", "Doe^Jane", "Doe^John")) == 2
    [one] = await kept(server)
    assert (one.topic, one.changes, one.reason) == (URL, 2, "one item was expected")
    assert (one.resource_type, one.resource_id, one.version_id) == ("Task", "d", 1)
    assert await server.happen(with_outputs("e", "volume", "text", status="failed")) == 2
    assert await server.happen(with_outputs("c", "text", "volume")) == 0
    assert [(each.changes, each.resource_id, each.version_id) for each in await kept(server)] == [(3, "c", 2)]
    assert sorted(await server.cursors()) == [(2, 0), (5, 0)]


async def test_it_is_forgotten_with_its_topic_when_the_matcher_starts(server: Server) -> None:
    await server.active({**form("http://127.0.0.1:1/own"), "criteria": URL})
    await server.happen(with_outputs("a", "volume", "text"))
    async with server.running():
        assert [each.topic for each in await kept(server)] == [URL]
    server.subscriptions = Subscriptions(TOPICS, ALLOWED, BASE)
    async with server.running(), asyncio.timeout(20):
        while await kept(server):  # noqa: ASYNC110  (the database is what is waited for)
            await asyncio.sleep(0.05)


async def test_a_topic_that_nobody_subscribed_to_is_not_asked(server: Server) -> None:
    await server.active(form("http://127.0.0.1:1/other"))
    assert await server.happen(with_outputs("a", "volume", "text")) == 1
    assert await kept(server) == []


async def test_the_log_names_the_topic_once_a_minute_and_no_value(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await server.active({**form("http://127.0.0.1:1/own"), "criteria": URL})
    with caplog.at_level(logging.WARNING):
        await server.happen(with_outputs("a", "Doe^Jane", "Doe^John"))
        await server.happen(with_outputs("b", "Doe^Jane", "Doe^John"))
        async with server.database.transaction() as conn:
            await conn.execute("UPDATE topic_undecided SET told_at = told_at - interval '61 seconds'")
        await server.happen(with_outputs("c", "Doe^Jane", "Doe^John"))
    said = [record.getMessage() for record in caplog.records if record.name == undecided.__name__]
    assert said == [
        f"the criterion of {URL} could not be decided (one item was expected); {changes} changes so far"
        for changes in (1, 3)
    ]


async def test_it_is_for_operators(server: Server) -> None:
    with pytest.raises(Forbidden):
        async with server.database.transaction() as conn:
            await undecided.for_operators(conn, Reader("eve", (), frozenset({"radiologist"})))
