"""Doors beside the FHIR interactions (docs/decisions/0025).

Subscriptions tell what their owner may see; what has no patient's limit takes the whole type.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from wetread.archive import instances, query
from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import Forbidden, NotFound
from wetread.reading import completion, pictures, studies, worklist
from wetread.record import events, resources
from wetread.record.audit import search as audit_search
from wetread.record.export.request import may_export
from wetread.record.scopes import checked_scopes
from wetread.record.subscriptions import questions, rows, topics
from wetread.record.subscriptions.subscriptions import CURSOR, Subscriptions
from wetread.record.views import run
from wetread.record.views.definition import compiled
from wetread.store.database import Connection, Database

BASE = "http://wetread.example/fhir"
TOPICS = topics.load(Path(__file__).parents[3] / "conformance" / "topics")
B = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"


def reader(text: str, patient: str = "") -> Reader:
    scopes = checked_scopes(Scope.parse(scope) for scope in text.split())
    return Reader("app", scopes, patient_id=patient or None)


OWNER = reader("system/Subscription.cruds system/Task.r?patient=Patient/p1")
WHOLE_OWNER = reader("system/Subscription.cruds system/Task.r")
WHOLE = reader("system/Subscription.rs system/Task.r")
PATIENTS = reader("patient/*.cruds", "p1")
IMAGES = reader("user/ImagingStudy.cruds?status=available user/Observation.rs?category=imaging")


def task(id_: str, patient: str, status: str = "requested") -> dict[str, Any]:
    about = {"reference": f"Patient/{patient}"}
    return {"resourceType": "Task", "id": id_, "status": status, "intent": "order", "for": about}


def subscription(content: str) -> dict[str, Any]:
    payload = {"extension": [{"url": f"{B}payload-content", "valueCode": content}]}
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "test",
        "criteria": "https://wetread.org/fhir/SubscriptionTopic/task-status",
        "channel": {
            "type": "rest-hook",
            "endpoint": "http://127.0.0.1:9/",
            "payload": "application/fhir+json",
            "_payload": payload,
        },
    }


@pytest.fixture
def served() -> Subscriptions:
    return Subscriptions(TOPICS, AllowedEndpoints.parse(("127.0.0.0/8",)), BASE)


async def active(served: Subscriptions, database: Database, owner: Reader, content: str = "full-resource") -> str:
    async with database.transaction() as conn:
        version, _ = await resources.create(conn, subscription(content), reader=owner)
        await served.accept(conn, owner, version.resource())
    async with database.transaction() as conn:
        await served.activate(conn, version.id, 1)
    return version.id


async def due(served: Subscriptions, conn: Connection, id_: str) -> list[str]:
    """What would be told of next."""
    state = await rows.state_of(conn, id_)
    assert state is not None
    found = await served.next_slice(conn, state)
    assert found is not None
    return [event.focus for delivery in found.deliveries for event in delivery.events]


async def happened(served: Subscriptions, database: Database, *contents: dict[str, Any]) -> int:
    """How many events of subscriptions these writes make."""
    for content in contents:
        async with database.transaction() as conn:
            await resources.put(conn, content)
    async with database.transaction() as conn:
        before = await events.cursor(conn, CURSOR)
        await events.settle(conn)
        found = await events.after(conn, before, 1000)
        await events.advance(conn, CURSOR, await events.last(conn))
        return await served.match_events(conn, found)


async def test_a_subscription_counts_and_sends_only_what_its_owner_may_see(
    served: Subscriptions, database: Database
) -> None:
    id_ = await active(served, database, OWNER)
    assert await happened(served, database, task("a", "p1"), task("b", "p2"), task("c", "p2"), task("d", "p1")) == 2
    async with database.transaction() as conn:
        assert await due(served, conn, id_) == ["Task/a", "Task/d"]
        status = json.loads((await questions.status(conn, WHOLE, served.base_url, [id_])).body)
    told = {p["name"]: p for p in status["entry"][0]["resource"]["parameter"]}
    assert told["events-since-subscription-start"]["valueString"] == "2"


async def test_what_was_moved_to_another_patient_before_it_was_sent_is_dropped(
    served: Subscriptions, database: Database
) -> None:
    id_ = await active(served, database, OWNER)
    assert await happened(served, database, task("a", "p1")) == 1
    async with database.transaction() as conn:
        await resources.put(conn, task("a", "p2", status="accepted"))
        assert await due(served, conn, id_) == []


async def test_what_came_from_another_patient_is_not_told_by_its_former_version(
    served: Subscriptions, database: Database
) -> None:
    await active(served, database, OWNER)
    assert await happened(served, database, task("a", "p2"), task("a", "p1", status="accepted")) == 1


async def test_past_events_name_only_what_the_caller_may_see(served: Subscriptions, database: Database) -> None:
    id_ = await active(served, database, WHOLE_OWNER)
    assert await happened(served, database, task("a", "p1"), task("b", "p2")) == 2
    async with database.transaction() as conn:
        whole = json.loads((await questions.events(conn, WHOLE, served.base_url, id_)).body)
        part = json.loads((await questions.events(conn, OWNER, served.base_url, id_)).body)
    assert "Task/b" in json.dumps(whole)
    assert "Task/a" in json.dumps(part)
    assert "Task/b" not in json.dumps(part)
    assert [e["resource"]["id"] for e in part["entry"][1:]] == ["a"]


async def test_an_owner_keeps_its_constraints(served: Subscriptions, database: Database) -> None:
    """Its rights are written down whole: without the constraint they would be more than it was given."""
    id_ = await active(served, database, OWNER)
    async with database.transaction() as conn:
        row = await (await conn.execute("SELECT owner FROM subscription_state WHERE id = %s", (id_,))).fetchone()
    assert row is not None
    assert tuple(Scope.parse(text) for text in row[0]["scopes"]) == OWNER.scopes


@pytest.mark.parametrize("scopes", ["system/*.rs?_tag=a", "patient/*.rs", "user/*.rs", "system/*.r", "system/*.s"])
def test_an_export_takes_system_scopes_that_nothing_narrows(scopes: str) -> None:
    assert not may_export(reader(scopes, "p1"), "Observation")
    assert may_export(reader("system/*.rs system/Observation.rs?category=imaging"), "Observation")


@pytest.mark.parametrize("limited", [PATIENTS, IMAGES])
def test_a_view_takes_the_whole_type(limited: Reader) -> None:
    view = compiled({"resourceType": "ViewDefinition", "resource": "Observation", "status": "active",
                    "select": [{"column": [{"name": "id", "path": "id"}]}]})  # fmt: skip
    with pytest.raises(Forbidden):
        run.require_run(limited, view)


DOORS: dict[str, Callable[[Connection, Reader], Awaitable[Any]]] = {
    "worklist": lambda conn, reader: worklist.entries(conn, reader, 10),
    "studies": lambda conn, reader: studies.newest(conn, reader, [], 10),
    "study": lambda conn, reader: studies.by_id(conn, reader, "x"),
    "study by UID": lambda conn, reader: studies.by_uid(conn, reader, "1.2"),
    "QIDO-RS": lambda conn, reader: query.find(conn, reader, "study", (), limit=10),
    "instances": lambda conn, reader: instances.of_study(conn, reader, "1.2"),
    "keys": lambda conn, reader: instances.keys_of_series(conn, reader, "1.2"),
    "picture": lambda conn, reader: pictures.picture(conn, reader, None, "x"),  # type: ignore[arg-type]
    "complete": lambda conn, reader: completion.declare_complete(conn, reader, None, "x"),  # type: ignore[arg-type]
    "audit": lambda conn, reader: audit_search.search(conn, reader, (), BASE),
    "audit by id": lambda conn, reader: audit_search.read(conn, reader, "x"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("limited", [PATIENTS, IMAGES])
async def test_a_door_without_a_patients_limit_takes_the_whole_type(
    module_database: Database, door: str, limited: Reader
) -> None:
    async with module_database.transaction() as conn:
        with pytest.raises(Forbidden):
            await DOORS[door](conn, limited)


async def test_nobody_reads_by_a_scope_of_a_patient_who_is_not_named(module_database: Database) -> None:
    async with module_database.transaction() as conn:
        await resources.put(conn, {"resourceType": "Patient", "id": "p1"})
        with pytest.raises(Forbidden):
            await resources.read(conn, reader("patient/*.rs"), "Patient", "p1")
        with pytest.raises(NotFound):
            await resources.read(conn, reader("patient/*.rs", "p2"), "Patient", "p1")
        assert (await resources.read(conn, SYSTEM, "Patient", "p1")).id == "p1"
