"""What another version accepted and this one does not understand is one subscription's error, and nobody else's."""

from __future__ import annotations

from typing import Any

import pytest

from wetread.record import resources

from .conftest import Sink
from .subscribing import CLIENT, Server, form, numbers, task, until, until_status

STORED: dict[str, tuple[str, str, str]] = {
    "a filter by what is no search parameter": (
        "filters",
        '[["Task", "colour=red"]]',
        "Task has no search parameter 'colour'; see GET metadata",
    ),
    "a filter of what is no type": (
        "filters",
        '[["Tusk", "patient=Patient/p1"]]',
        "'Tusk' is no type whose resources are stored here",
    ),
    "a filter of another shape": (
        "filters",
        '[{"type": "Task"}]',
        "another version wrote it, which this cannot read",
    ),
    "criteria": (
        "criteria",
        "Task?colour=red",
        "Task has no search parameter 'colour'; see GET metadata",
    ),
    "a topic": (
        "topic",
        "https://wetread.org/fhir/SubscriptionTopic/of-before",
        "the topic is no longer served here",
    ),
    "rights of its owner": (
        "owner",
        '{"principal": "ehr", "scopes": ["everything"], "roles": []}',
        "not a SMART scope: 'everything'; expected e.g. system/Observation.rs",
    ),
}


async def _stored(server: Server, subscription_id: str, column: str, value: str) -> None:
    async with server.database.transaction() as conn:
        if column == "criteria":
            await conn.execute("UPDATE subscription_state SET topic = '' WHERE id = %s", (subscription_id,))
        await conn.execute(
            f"UPDATE subscription_state SET {column} = %s WHERE id = %s",  # type: ignore[arg-type]
            (value, subscription_id),
        )


async def _told(server: Server, subscription_id: str) -> tuple[dict[str, Any], list[str]]:
    """The status that is told, and what is on record."""
    status = await until_status(server, subscription_id, "error")
    given_up = await server.audits("delivery-failed")
    return status, [f"{one['entity'][0]['what']['reference']}: {one['outcomeDesc']}" for one in given_up]


@pytest.mark.parametrize("what", STORED)
async def test_when_the_matcher_starts(what: str, server: Server, sink: Sink) -> None:
    column, value, error = STORED[what]
    odd, even = await server.active(form(f"{sink.url}/odd")), await server.active(form(f"{sink.url}/even"))
    await _stored(server, odd, column, value)
    await server.put(task("a"), task("b"))
    async with server.running():
        status, on_record = await _told(server, odd)
        await until(lambda: numbers(sink, "/even") == ["1", "2"])
    assert status["error"] == {"text": error}
    assert on_record == [f"Subscription/{odd}: {error}"]
    assert await server.resource_status(odd) == "error"
    assert await server.resource_status(even) == "active"
    assert numbers(sink, "/odd") == []


@pytest.mark.parametrize("what", [name for name, (column, *_) in STORED.items() if column in ("filters", "owner")])
async def test_when_a_newer_version_accepts_it_while_the_matcher_runs(what: str, server: Server, sink: Sink) -> None:
    column, value, error = STORED[what]
    odd, even = await server.active(form(f"{sink.url}/odd")), await server.active(form(f"{sink.url}/even"))
    async with server.running():
        await server.put(task("a"))
        await until(lambda: numbers(sink, "/odd") == numbers(sink, "/even") == ["1"])
        await _stored(server, odd, column, value)
        await server.put(task("b"), task("c"))
        status, on_record = await _told(server, odd)
        await until(lambda: numbers(sink, "/even") == ["1", "2", "3"])
    assert status["error"] == {"text": error}
    assert on_record == [f"Subscription/{odd}: {error}"]
    assert await server.resource_status(even) == "active"
    assert numbers(sink, "/odd") == ["1"]


async def test_its_client_may_ask_for_something_else(server: Server, sink: Sink) -> None:
    odd = await server.active(form(sink.url))
    await _stored(server, odd, "filters", '[["Task", "colour=red"]]')
    async with server.running():
        await _told(server, odd)
        async with server.database.transaction() as conn:
            asked = await resources.put(conn, {**form(sink.url), "id": odd})
            await server.subscriptions.accept(conn, CLIENT, asked.resource())
        await until_status(server, odd, "active")
        await server.put(task("a"))
        await until(lambda: numbers(sink) == ["1"])
