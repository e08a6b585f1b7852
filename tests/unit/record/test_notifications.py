"""What a subscriber is sent: Bundles of the Backport IG for R4, and the requests of a criteria-based subscription."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle

from wetread.record.subscriptions import notifications
from wetread.record.subscriptions.notifications import Context, NotifiedEvent, ResourceRequest, StatusOf

BASE = "https://wetread.example/fhir"
TOPIC = "https://wetread.org/fhir/SubscriptionTopic/ai-observation"
AT = datetime(2026, 3, 1, 23, 30, 0, 250000, tzinfo=UTC)
FIRST, SECOND, DEVICE = (
    '{"resourceType":"Observation","id":"o1","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.10}}',
    '{"resourceType":"Observation","id":"o1","status":"final","code":{"text":"x"},"valueQuantity":{"value":2.00}}',
    '{"resourceType":"Device","id":"d1"}',
)
WITH_DEVICE = (Context("Device/d1", DEVICE),)


def _bundle(content: str, events: Sequence[NotifiedEvent], **more: Any) -> dict[str, Any]:
    status = StatusOf("s1", TOPIC, content, "active", len(events))
    sent = notifications.notification(BASE, "event-notification", status, AT, events, **more)
    Bundle.model_validate_json(sent)
    found: dict[str, Any] = json.loads(sent)
    return found


def _requests(bundle: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    return [
        (e["request"]["method"], e["request"]["url"], e["response"]["status"], "resource" in e)
        for e in bundle["entry"][1:]
    ]


def _told(bundle: dict[str, Any], name: str) -> list[Any]:
    """The parts of that name of the notification events."""
    events = [p for p in bundle["entry"][0]["resource"]["parameter"] if p["name"] == "notification-event"]
    return [
        next(iter(part[k] for k in part if k != "name")) for e in events for part in e["part"] if part["name"] == name
    ]


EVENTS = (
    NotifiedEvent(7, AT, "Observation", "o1", "create", FIRST, 1, context=WITH_DEVICE),
    NotifiedEvent(8, AT, "Observation", "o1", "update", SECOND, 2, context=WITH_DEVICE),
    NotifiedEvent(9, AT, "Observation", "o2", "delete", "", 3),
)


def test_several_events_go_in_one_bundle_in_their_order_each_version_and_each_context_once() -> None:
    bundle = _bundle("full-resource", EVENTS)
    assert _requests(bundle) == [
        ("POST", "Observation", "201", True),
        ("PUT", "Observation/o1", "200", True),
        ("DELETE", "Observation/o2", "204", False),
        ("GET", "Device/d1", "200", True),
    ]
    assert _told(bundle, "event-number") == ["7", "8", "9"]
    assert [f["reference"] for f in _told(bundle, "focus")] == [
        f"{BASE}/Observation/o1/_history/{EVENTS[0].version_id}",
        f"{BASE}/Observation/o1/_history/{EVENTS[1].version_id}",
        f"{BASE}/Observation/o2",
    ], "what is there in two versions is told by version"
    assert [c["reference"] for c in _told(bundle, "additional-context")] == [f"{BASE}/Device/d1"] * 2


def test_every_reference_of_an_event_is_an_entry_of_a_full_notification() -> None:
    bundle = _bundle("full-resource", EVENTS)
    told = {
        r["reference"].partition("/_history/")[0]
        for name in ("focus", "additional-context")
        for r in _told(bundle, name)
    }
    assert told == {entry["fullUrl"] for entry in bundle["entry"][1:]}


def test_context_that_is_the_focus_of_another_event_stands_there_once() -> None:
    device = NotifiedEvent(2, AT, "Device", "d1", "update", DEVICE, 4)
    bundle = _bundle("full-resource", (EVENTS[0], device))
    assert _requests(bundle) == [("POST", "Observation", "201", True), ("PUT", "Device/d1", "200", True)]


def test_a_resource_goes_out_in_its_own_text() -> None:
    status = StatusOf("s1", TOPIC, "full-resource", "active", 2)
    sent = notifications.notification(BASE, "event-notification", status, AT, EVENTS).decode()
    assert all(sent.count(body) == 1 for body in (FIRST, SECOND, DEVICE))


def test_id_only_tells_of_all_by_reference_and_sends_none() -> None:
    bundle = _bundle("id-only", EVENTS)
    assert len(bundle["entry"]) == 1
    assert len(_told(bundle, "focus")) == 3
    assert len(_told(bundle, "additional-context")) == 2
    assert "Observation/o1" in json.dumps(bundle)


def test_empty_tells_that_something_happened_and_not_what() -> None:
    bundle = _bundle("empty", EVENTS)
    assert len(bundle["entry"]) == 1
    assert _told(bundle, "event-number") == ["7", "8", "9"]
    assert not {"Observation", "Device", TOPIC} & set(json.dumps(bundle).replace('"', "/").split("/"))


def test_what_may_not_be_told_is_a_number_alone() -> None:
    hidden = [NotifiedEvent(1, AT, "Observation", "o1", kind, is_told=False) for kind in ("create", "delete")]
    bundle = _bundle("full-resource", hidden)
    assert len(bundle["entry"]) == 1
    assert _told(bundle, "focus") == []


def test_the_same_events_give_the_same_bytes_and_others_do_not() -> None:
    status = StatusOf("s1", TOPIC, "id-only", "active", 3)
    sent = [notifications.notification(BASE, "event-notification", status, AT, EVENTS) for _ in range(2)]
    assert sent[0] == sent[1]
    assert sent[0] != notifications.notification(BASE, "event-notification", status, AT, EVENTS[:1])


def test_a_long_answer_says_where_it_goes_on() -> None:
    assert _bundle("id-only", EVENTS, next_url=f"{BASE}/x")["link"] == [{"relation": "next", "url": f"{BASE}/x"}]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("the endpoint answered 503; it is tried again", "error-response"),
        ("no answer from the endpoint: ConnectError", "no-response"),
        ("no whole answer within 10 s", "no-response"),
        ("the topic is no longer served here", None),
    ],
)
def test_an_error_has_the_code_that_hl7_has_for_it(text: str, code: str | None) -> None:
    bundle = json.loads(notifications.status_bundle(BASE, [StatusOf("s1", TOPIC, "id-only", "error", 2, text)]))
    [error] = [p for p in bundle["entry"][0]["resource"]["parameter"] if p["name"] == "error"]
    codings = error["valueCodeableConcept"].get("coding", [{}])
    assert (codings[0].get("code"), error["valueCodeableConcept"]["text"]) == (code, text)


def test_without_a_payload_an_empty_post_tells_of_each_event() -> None:
    asked = notifications.resource_requests("https://ehr.example/hook", "ping", EVENTS[:2])
    assert asked == [ResourceRequest("POST", "https://ehr.example/hook")] * 2


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("https://ehr.example/fhir", "https://ehr.example/fhir/Observation/o1"),
        ("https://ehr.example/fhir/", "https://ehr.example/fhir/Observation/o1"),
        ("https://ehr.example", "https://ehr.example/Observation/o1"),
        ("https://ehr.example/fhir?key=1", "https://ehr.example/fhir/Observation/o1?key=1"),
    ],
)
def test_with_a_payload_the_endpoint_is_a_service_base_and_the_resource_an_update_there(
    endpoint: str, url: str
) -> None:
    [asked] = notifications.resource_requests(endpoint, "resource", EVENTS[:1])
    assert asked == ResourceRequest("PUT", url, FIRST.encode())


def test_a_criteria_based_subscription_has_no_handshake() -> None:
    assert notifications.resource_requests("https://ehr.example/hook", "ping", ()) == []
