"""What goes along with an event at the subscriber's door, and on the audit record."""

from __future__ import annotations

import json
from typing import Any

from fhir.resources.R4B.bundle import Bundle

from wetread.domain.reader import SYSTEM
from wetread.record import resources
from wetread.record.subscriptions import questions

from .conftest import Sink
from .subscribing import BASE, CLIENT, Server, form, until_cursors, until_status

TOPIC = "https://wetread.org/fhir/SubscriptionTopic/ai-observation"
AIAST = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "AIAST"}


def _observation(observation_id: str, status: str) -> dict[str, object]:
    return {
        "resourceType": "Observation",
        "id": observation_id,
        "meta": {"security": [AIAST]},
        "status": status,
        "code": {"text": "Pneumonia"},
        "subject": {"reference": "Patient/p1"},
        "device": {"reference": "Device/d1"},
    }


async def test_one_bundle_holds_each_resource_and_what_goes_along_once(server: Server, sink: Sink) -> None:
    await server.put({"resourceType": "Patient", "id": "p1"}, {"resourceType": "Device", "id": "d1"})
    asked = {**form(sink.url, content="full-resource", most=10), "criteria": TOPIC}
    subscription_id = await server.active(asked)
    await server.happen(
        _observation("o1", "preliminary"), _observation("o2", "preliminary"), _observation("o2", "final")
    )
    async with server.running():
        await until_cursors(server, (3, 3))
        await until_status(server, subscription_id, "active")
    bundles = [json.loads(sent.body) for sent in sink.received]
    for bundle in bundles:
        Bundle.model_validate(bundle)
    entries = [bundle["entry"][1:] for bundle in bundles]
    assert [[(e["request"]["method"], e["fullUrl"].removeprefix(f"{BASE}/")) for e in each] for each in entries] == [
        [("POST", "Observation/o1"), ("POST", "Observation/o2"), ("GET", "Device/d1"), ("GET", "Patient/p1")],
        [("PUT", "Observation/o2"), ("GET", "Device/d1"), ("GET", "Patient/p1")],
    ]
    assert await server.audits("disclosure")


async def test_subscriptions_that_are_served_together_each_get_what_goes_along_in_their_own_form(
    server: Server, sink: Sink
) -> None:
    await server.put({"resourceType": "Patient", "id": "p1"}, {"resourceType": "Device", "id": "d1"})
    for content in ("full-resource", "full-resource", "id-only", "id-only", "empty"):
        await server.active({**form(sink.url, content=content), "criteria": TOPIC})
    await server.happen(_observation("o1", "preliminary"))
    async with server.running():
        await until_cursors(server, *[(1, 1)] * 5)
    bundles = [json.loads(sent.body) for sent in sink.received]
    told = sorted(
        (
            sorted(e["resource"]["resourceType"] for e in bundle["entry"][1:] if "resource" in e),
            sorted(p["valueReference"]["reference"].removeprefix(f"{BASE}/") for p in _context(bundle)),
        )
        for bundle in bundles
    )
    along = ["Device/d1", "Patient/p1"]
    assert told == [
        ([], []),
        ([], along),
        ([], along),
        (["Device", "Observation", "Patient"], along),
        (["Device", "Observation", "Patient"], along),
    ]


def _context(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    [event] = [p for p in bundle["entry"][0]["resource"]["parameter"] if p["name"] == "notification-event"]
    return [part for part in event["part"] if part["name"] == "additional-context"]


async def test_that_a_subscription_is_in_error_is_told_at_another_endpoint_once(server: Server, sink: Sink) -> None:
    broken = await server.active(form(sink.url))
    topic = "https://wetread.org/fhir/SubscriptionTopic/subscription-error"
    watching = await server.active({**form(sink.url), "criteria": topic})
    await server.happen()
    async with server.database.transaction() as conn:
        assert await server.subscriptions.fail(conn, broken, "the endpoint answered 404")
    assert await server.happen() == 1
    async with server.database.transaction() as conn:
        found = await conn.execute("SELECT subscription_id, resource_id FROM subscription_event")
        assert await found.fetchall() == [(watching, broken)]
    async with server.database.transaction() as conn:
        version = await resources.read(conn, SYSTEM, "Subscription", broken)
        await resources.put(conn, {**version.resource(), "reason": "still"})
    assert await server.happen() == 0


async def test_events_asked_for_again_bring_the_same_along(server: Server, sink: Sink) -> None:
    await server.put({"resourceType": "Patient", "id": "p1"}, {"resourceType": "Device", "id": "d1"})
    subscription_id = await server.active({**form(sink.url, content="full-resource"), "criteria": TOPIC})
    await server.happen(_observation("o1", "preliminary"), _observation("o1", "final"))
    async with server.database.transaction() as conn:
        told = await questions.events(conn, CLIENT, BASE, subscription_id, topics=server.subscriptions.topics)
    bundle = json.loads(told.body)
    Bundle.model_validate(bundle)
    types = [entry["resource"]["resourceType"] for entry in bundle["entry"][1:]]
    assert types == ["Observation", "Observation", "Device", "Patient"]
    assert told.patient_ids == ("p1",)


async def test_a_deletion_is_told_by_its_request_and_without_a_resource(server: Server, sink: Sink) -> None:
    topic = "https://wetread.org/fhir/SubscriptionTopic/diagnosticreport-withdrawn"
    filters = ("DiagnosticReport?patient=p1",)
    await server.active({**form(sink.url, content="full-resource", filters=filters), "criteria": topic})
    for report_id, patient in (("r1", "p1"), ("r2", "p2")):
        subject = {"reference": f"Patient/{patient}"}
        await server.put({"resourceType": "DiagnosticReport", "id": report_id, "status": "final", "subject": subject})
        async with server.database.transaction() as conn:
            await resources.delete(conn, SYSTEM, "DiagnosticReport", report_id)
    assert await server.happen() == 1
    async with server.running():
        await until_cursors(server, (1, 1))
    [sent] = sink.received
    bundle = json.loads(sent.body)
    Bundle.model_validate(bundle)
    [entry] = bundle["entry"][1:]
    assert entry == {
        "fullUrl": f"{BASE}/DiagnosticReport/r1",
        "request": {"method": "DELETE", "url": "DiagnosticReport/r1"},
        "response": {"status": "204"},
    }
