"""A Subscription is accepted only where every part of it can be kept (Subscriptions R5 Backport IG 1.1.0)."""

import copy
from pathlib import Path
from typing import Any

import pytest

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import Misconfigured, Unsupported
from wetread.record.search.index import Extraction
from wetread.record.subscriptions import form as subscription_form
from wetread.record.subscriptions import topics

FOLDER = Path(__file__).parents[3] / "conformance" / "topics"
TOPIC = "https://wetread.org/fhir/SubscriptionTopic/ai-observation"
B = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
BASE = "http://127.0.0.1:8080/fhir"
ALLOWED = AllowedEndpoints.parse(("127.0.0.0/8", "::1/128", "EHR.example.org", "10.1.0.0/16"))

FORM: dict[str, Any] = {
    "resourceType": "Subscription",
    "status": "requested",
    "reason": "AI results into the reading room",
    "criteria": TOPIC,
    "_criteria": {"extension": [{"url": f"{B}filter-criteria", "valueString": "Observation?patient=Patient/p1"}]},
    "channel": {
        "type": "rest-hook",
        "endpoint": "http://127.0.0.1:9/hook",
        "header": ["Authorization: Bearer secret"],
        "payload": "application/fhir+json",
        "_payload": {"extension": [{"url": f"{B}payload-content", "valueCode": "id-only"}]},
        "extension": [{"url": f"{B}timeout", "valueUnsignedInt": 20}, {"url": f"{B}max-count", "valuePositiveInt": 5}],
    },
}


def _read(form: dict[str, Any]) -> subscription_form.Request:
    return subscription_form.read(form, topics.load(FOLDER), ALLOWED, (BASE,))


def _with(path: str, value: Any) -> dict[str, Any]:
    form = copy.deepcopy(FORM)
    *parents, name = path.split(".")
    element = form
    for parent in parents:
        element = element[parent]
    element[name] = value
    return form


def _filter(text: str) -> dict[str, Any]:
    return _with("_criteria.extension", [{"url": f"{B}filter-criteria", "valueString": text}])


def test_a_whole_request_is_read() -> None:
    request = _read(FORM)
    assert request.topic.url == TOPIC
    assert request.channel.headers == (("Authorization", "Bearer secret"),)
    assert (request.channel.content, request.channel.timeout_s) == ("id-only", 20)
    assert request.ends_at is None


@pytest.mark.parametrize(
    "text",
    [
        "Observation?patient=Patient/p1",
        "patient=Patient/p1",
        "Observation.patient=Patient/p1",
        "Observation?patient=p1",
        f"Observation?patient={BASE}/Patient/p1",
        "patient=Patient/p0,Patient/p1",
    ],
)
def test_every_form_of_a_filter_means_the_same(text: str) -> None:
    [test] = subscription_form.tests(_read(_filter(text)).filters, (BASE,))

    def passes(patient: str) -> bool:
        return test.passes(Extraction({"resourceType": "Observation", "subject": {"reference": f"Patient/{patient}"}}))

    assert passes("p1")
    assert not passes("p2")


def test_a_filter_without_a_type_narrows_every_type_of_the_topic() -> None:
    both = topics.topic_of(
        {
            "resourceType": "SubscriptionTopic",
            "url": TOPIC,
            "status": "active",
            "resourceTrigger": [{"resource": "Observation"}, {"resource": "Task"}],
            "canFilterBy": [{"filterParameter": "patient"}, {"resource": "Task", "filterParameter": "focus"}],
        }
    )

    def read(text: str) -> subscription_form.Request:
        return subscription_form.read(_filter(text), {TOPIC: both}, ALLOWED, (BASE,))

    assert read("patient=p1").filters == (("Observation", "patient=p1"), ("Task", "patient=p1"))
    assert read("Task?focus=ImagingStudy/i").filters == (("Task", "focus=ImagingStudy/i"),)
    with pytest.raises(Unsupported):
        read("focus=ImagingStudy/i")


def test_a_canonical_may_name_the_version_that_is_served() -> None:
    served = topics.load(FOLDER)[TOPIC].version
    assert _read(_with("criteria", f"{TOPIC}|{served}")).topic.url == TOPIC
    with pytest.raises(Unsupported):
        _read(_with("criteria", f"{TOPIC}|{served}.1"))


def _by_criteria(text: str, payload: str | None = "application/fhir+json") -> dict[str, Any]:
    channel = {
        "type": "rest-hook",
        "endpoint": FORM["channel"]["endpoint"],
        **({"payload": payload} if payload else {}),
    }
    return {"resourceType": "Subscription", "status": "requested", "reason": "r", "criteria": text, "channel": channel}


@pytest.mark.parametrize(("payload", "content"), [("application/fhir+json", "resource"), (None, "ping")])
def test_criteria_that_are_a_search_make_a_subscription_of_r4(payload: str | None, content: str) -> None:
    request = _read(_by_criteria("Observation?category=imaging&patient=Patient/p1", payload))
    assert request.criteria == "Observation?category=imaging&patient=Patient/p1"
    assert (request.topic.url, request.topic.resource_types) == ("", {"Observation"})
    assert [test.param for test in subscription_form.tests(request.filters, (BASE,))] == ["category", "patient"]
    assert (request.channel.content, request.channel.max_count) == (content, 1)
    assert subscription_form.topic_of("", request.criteria, {}) == request.topic


@pytest.mark.parametrize(
    "form",
    [
        _by_criteria("Observation?patient.name=Ann"),
        _by_criteria("Observation?colour=red"),
        _by_criteria("Observations?code=x"),
        _by_criteria("AuditEvent?date=2026"),
        {**_by_criteria("Observation?code=x"), "_criteria": FORM["_criteria"]},
    ],
)
def test_a_search_that_cannot_be_kept_is_refused_at_its_place(form: dict[str, Any]) -> None:
    with pytest.raises(Unsupported) as refusal:
        _read(form)
    assert (refusal.value.location or "").startswith("Subscription.criteria")


def test_filters_by_token_know_systems_and_not() -> None:
    coded = {"resourceType": "Observation", "code": {"coding": [{"system": "http://snomed.info/sct", "code": "50"}]}}
    entries = Extraction(coded)
    answers = {
        "code=50": True,
        "code=http://snomed.info/sct|50": True,
        "code=http://snomed.info/sct|": True,
        "code=http://loinc.org|50": False,
        "code=|50": False,
        "code=51,50": True,
        "code:not=50": False,
        "code:not=51": True,
    }
    for text, passes in answers.items():
        [test] = subscription_form.tests(_read(_filter(text)).filters, (BASE,))
        assert test.passes(entries) is passes, text


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("criteria", "Observation?code=50"),
        ("criteria", "https://wetread.org/fhir/SubscriptionTopic/none"),
        ("_criteria.extension", [{"url": "http://hl7.org/fhir/5.0/StructureDefinition/x", "valueString": "y"}]),
        ("channel.type", "websocket"),
        ("channel._type", {"extension": [{"url": f"{B}channel-type", "valueCoding": {"code": "zulip"}}]}),
        ("channel.endpoint", "http://10.1.0.1/hook"),
        ("channel.endpoint", "https://192.0.2.1/hook"),
        ("channel.endpoint", "https://elsewhere.example.org/hook"),
        ("channel.endpoint", "https://user:word@ehr.example.org/hook"),
        ("channel.endpoint", "ftp://127.0.0.1/hook"),
        ("channel.endpoint", "https://[::1/hook"),
        ("channel.endpoint", "http://127.0.0.1:99999/hook"),
        ("channel.endpoint", ""),
        ("channel.payload", "application/xml"),
        ("channel.payload", "application/fhir+json; fhirVersion=5.0"),
        ("channel._payload", {}),
        ("channel._payload", {"extension": [{"url": f"{B}payload-content", "valueCode": "everything"}]}),
        ("channel._payload", {"extension": [{"url": "http://example.org/other", "valueCode": "id-only"}]}),
        ("channel.header", ["no colon"]),
        ("channel.header", ["X-A: 1\r\nX-B: 2"]),
        ("channel.header", ["Host: other"]),
        ("channel.extension", [{"url": f"{B}heartbeat-period", "valueUnsignedInt": 5}]),
        ("channel.extension", [{"url": "http://example.org/other", "valueBoolean": True}]),
    ],
)
def test_what_cannot_be_kept_is_refused(path: str, value: Any) -> None:
    with pytest.raises(Unsupported) as refusal:
        _read(_with(path, value))
    assert refusal.value.http_status == 422
    assert refusal.value.location.startswith("Subscription.")


@pytest.mark.parametrize(
    "text", ["patient", "", "Patient?patient=p1", "colour=red", "patient.name=Ann", "issued=2024", "patient="]
)
def test_a_filter_that_would_not_be_applied_is_refused(text: str) -> None:
    with pytest.raises(Unsupported):
        _read(_filter(text))


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://ehr.example.org/hook?x=1",
        "https://10.1.2.3:8443/hook",
        "https://127.0.0.1/hook",
        "http://[::1]:8080/hook",
        "http://localhost:8080/hook",
    ],
)
def test_an_endpoint_on_the_operators_list_is_accepted(endpoint: str) -> None:
    assert _read(_with("channel.endpoint", endpoint)).channel.endpoint == endpoint


def test_the_operators_list_is_checked_at_start() -> None:
    with pytest.raises(Misconfigured, match=r"outbound\.allow"):
        AllowedEndpoints.parse(("10.0.0.0/99",))
