"""What goes along with an event: as its topic's shape says, and what the subscriber may read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.record import resources
from wetread.record.subscriptions import shapes, topics
from wetread.record.subscriptions.notifications import NotifiedEvent
from wetread.record.subscriptions.shapes import with_context
from wetread.store.database import Connection, Database

AT = datetime(2026, 11, 22, tzinfo=UTC)
TOPIC = topics.topic_of(
    {
        "resourceType": "SubscriptionTopic",
        "url": "https://site.example/t",
        "status": "active",
        "resourceTrigger": [{"resource": "Observation"}, {"resource": "Device"}],
        "notificationShape": [
            {
                "resource": "Observation",
                "include": ["Observation:patient", "Observation:device:Device"],
                "revInclude": ["DiagnosticReport:result"],
            }
        ],
    }
)


def _to(reference: str) -> dict[str, str]:
    return {"reference": reference}


STORED: tuple[dict[str, Any], ...] = (
    {"resourceType": "Patient", "id": "p1"},
    {"resourceType": "Patient", "id": "p2"},
    {"resourceType": "Device", "id": "d1"},
    {"resourceType": "Observation", "id": "o1", "subject": _to("Patient/p1"), "device": _to("Device/d1")},
    {"resourceType": "Observation", "id": "o2", "subject": _to("Patient/p2"), "device": _to("Device/gone")},
    {"resourceType": "DiagnosticReport", "id": "r1", "subject": _to("Patient/p1"), "result": [_to("Observation/o1")]},
)


@pytest.fixture
async def conn(database: Database) -> Any:
    async with database.transaction() as conn:
        for each in STORED:
            await resources.put(conn, each)
        yield conn


def _event(number: int, reference: str, kind: str = "create", body: str = "{}", **more: Any) -> NotifiedEvent:
    resource_type, _, resource_id = reference.partition("/")
    return NotifiedEvent(number, AT, resource_type, resource_id, kind, body, 1, **more)


async def _along(conn: Connection, events: Sequence[NotifiedEvent], reader: Reader = SYSTEM) -> list[set[str]]:
    shaped = await with_context(conn, reader, TOPIC, events)
    assert [event.number for event in shaped] == [event.number for event in events]
    return [{each.reference for each in event.context} for event in shaped]


async def test_each_event_has_what_its_own_resource_is_linked_with(conn: Connection) -> None:
    assert await _along(conn, [_event(1, "Observation/o1"), _event(2, "Observation/o2")]) == [
        {"Patient/p1", "Device/d1", "DiagnosticReport/r1"},
        {"Patient/p2"},
    ]


async def test_two_events_of_one_resource_have_the_same_along(conn: Connection) -> None:
    first, second = await _along(conn, [_event(1, "Observation/o1"), _event(2, "Observation/o1", "update")])
    assert first == second == {"Patient/p1", "Device/d1", "DiagnosticReport/r1"}


async def test_the_focus_of_another_event_goes_along_too(conn: Connection) -> None:
    along = await _along(conn, [_event(1, "Device/d1"), _event(2, "Observation/o1")])
    assert along == [set(), {"Patient/p1", "Device/d1", "DiagnosticReport/r1"}]


async def test_in_full_with_its_text_and_else_by_reference(conn: Connection) -> None:
    full, by_reference = await with_context(
        conn, SYSTEM, TOPIC, [_event(1, "Observation/o1"), _event(2, "Observation/o2", body="")]
    )
    assert all(f'"id":"{each.reference.partition("/")[2]}"' in each.body.replace(" ", "") for each in full.context)
    assert [each.body for each in by_reference.context] == [""]


async def test_it_says_of_whom_it_tells(conn: Connection) -> None:
    [event] = await with_context(conn, SYSTEM, TOPIC, [_event(1, "Observation/o1")])
    assert {each.reference: each.patient_ids for each in event.context} == {
        "Patient/p1": ("p1",),
        "Device/d1": (),
        "DiagnosticReport/r1": ("p1",),
    }


@pytest.mark.parametrize(
    ("scopes", "along"),
    [
        (("system/Observation.rs", "system/Device.r"), {"Device/d1"}),
        (("system/Observation.rs", "system/DiagnosticReport.r"), set()),
        (("system/Observation.rs", "system/DiagnosticReport.rs"), {"DiagnosticReport/r1"}),
        (("system/Observation.rs",), set()),
    ],
)
async def test_only_what_the_subscriber_may_read_goes_along(
    conn: Connection, scopes: tuple[str, ...], along: set[str]
) -> None:
    reader = Reader("ehr", tuple(Scope.parse(scope) for scope in scopes))
    assert await _along(conn, [_event(1, "Observation/o1")], reader) == [along]


async def test_nothing_goes_along_with_a_deletion_nor_with_what_may_not_be_told(conn: Connection) -> None:
    events = [_event(1, "Observation/o1", "delete", ""), _event(2, "Observation/o1", is_told=False)]
    assert await _along(conn, events) == [set(), set()]


async def test_too_much_does_not_go_along_and_the_event_does(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_MOST_OF_ONE", 2)
    assert await _along(conn, [_event(1, "Observation/o1"), _event(2, "Observation/o2")]) == [set(), {"Patient/p2"}]
    monkeypatch.setattr(shapes, "_MOST_BYTES", 10)
    assert await _along(conn, [_event(1, "Observation/o1"), _event(2, "Observation/o2")]) == [set(), set()]
