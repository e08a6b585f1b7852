"""What a subscriber is sent: notification Bundles of the R5 Backport IG 1.1.0 for R4, and of a criteria-based
subscription the resource alone (FHIR R4). Pure: the same event gives the same bytes, however often."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from wetread.record import lossless

_PROFILE = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
_NAMES = uuid.UUID("5a0d4c58-9b0b-5d0e-8a1c-0a0d6f2f6e55")
_ERRORS = "http://terminology.hl7.org/CodeSystem/subscription-error"
_FULL = "full-resource"
BY_CRITERIA = frozenset({"ping", "resource"})
"""What is sent of a criteria-based subscription (FHIR R4): no Bundle, and nothing without events."""


@dataclass(frozen=True, slots=True)
class Context:
    """A resource that goes with the focus of an event: `Type/id`, its text where it is to be sent, and the patients of
    whom it tells."""

    reference: str
    body: str = ""
    patient_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NotifiedEvent:
    """One event of one subscription. `kind` is create, update or delete. `body` is the text of the resource version,
    empty where it is not to be sent, and after a deletion; `is_told` is whether it may be told of which resource the
    event is. `context` are the resources that the topic's notification shape adds."""

    number: int
    at: datetime
    resource_type: str
    resource_id: str
    kind: str
    body: str = ""
    version_id: int = 0
    is_told: bool = True
    context: tuple[Context, ...] = ()

    @property
    def focus(self) -> str:
        return f"{self.resource_type}/{self.resource_id}"


@dataclass(frozen=True, slots=True)
class StatusOf:
    """What every Bundle says of its subscription. `count` is events-since-subscription-start."""

    subscription_id: str
    topic: str
    content: str
    status: str
    count: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """An HTTP request to the endpoint of a criteria-based subscription. Without a body it has no content type."""

    method: str
    url: str
    body: bytes = b""


def notification(
    base_url: str, kind: str, status: StatusOf, at: datetime, events: Sequence[NotifiedEvent], next_url: str = ""
) -> bytes:
    """A history Bundle, its status first. `kind` is handshake, heartbeat, event-notification or query-event;
    `next_url` is where a long answer goes on."""
    key = f"{base_url}|{status.subscription_id}|{kind}|{status.count}|{[event.number for event in events]}"
    head: dict[str, Any] = {
        "resourceType": "Bundle",
        "id": str(uuid.uuid5(_NAMES, f"bundle|{key}")),
        "meta": {"profile": [f"{_PROFILE}backport-subscription-notification-r4"]},
        "type": "history",
        "timestamp": _instant(at),
    }
    if next_url:
        head["link"] = [{"relation": "next", "url": next_url}]
    status_id = str(uuid.uuid5(_NAMES, f"status|{key}"))
    first = lossless.dump(
        {
            "fullUrl": f"urn:uuid:{status_id}",
            "resource": _parameters(status_id, base_url, kind, status, events),
            "request": {"method": "GET", "url": f"{base_url}/Subscription/{status.subscription_id}/$status"},
            "response": {"status": "200"},
        }
    )
    entries = [first, *_entries(base_url, status.content, events)]
    return f'{lossless.dump(head)[:-1]},"entry":[{",".join(entries)}]}}'.encode()


def resource_requests(endpoint: str, content: str, events: Sequence[NotifiedEvent]) -> list[ResourceRequest]:
    """What the rest-hook of a criteria-based subscription is asked, one request for each event; nothing without events,
    since R4 knows no handshake.

    `content` ping is a POST without a body; `resource` an update, the endpoint taken as the service base
    (FHIR R4 valueset-subscription-channel-type.html#rest-hook).
    """
    if content == "ping":
        return [ResourceRequest("POST", endpoint) for _ in events]
    base = urlsplit(endpoint)
    path = base.path.rstrip("/")
    return [
        ResourceRequest("PUT", base._replace(path=f"{path}/{event.focus}").geturl(), event.body.encode())
        for event in events
    ]


def status_bundle(base_url: str, statuses: Sequence[StatusOf]) -> bytes:
    """What `$status` answers: a searchset Bundle with one Parameters for each subscription."""
    entries: list[dict[str, Any]] = []
    for status in statuses:
        status_id = str(uuid.uuid5(_NAMES, f"query|{base_url}|{status.subscription_id}"))
        resource = _parameters(status_id, base_url, "query-status", status, ())
        entries.append({"fullUrl": f"urn:uuid:{status_id}", "resource": resource, "search": {"mode": "match"}})
    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "total": len(entries)}
    return lossless.dump({**bundle, "entry": entries} if entries else bundle).encode()


def _parameters(
    status_id: str, base_url: str, kind: str, status: StatusOf, events: Sequence[NotifiedEvent]
) -> dict[str, Any]:
    repeated = _repeated(events) if status.content == _FULL else frozenset()
    parameters: list[dict[str, Any]] = [
        {
            "name": "subscription",
            "valueReference": {"reference": f"{base_url}/Subscription/{status.subscription_id}"},
        }
    ]
    if status.content != "empty":  # the topic tells what the event is about; SHOULD NOT stand in an empty payload
        parameters.append({"name": "topic", "valueCanonical": status.topic})
    parameters += [
        {"name": "status", "valueCode": status.status},
        {"name": "type", "valueCode": kind},
        {"name": "events-since-subscription-start", "valueString": str(status.count)},
        *(_event(base_url, status.content, event, event.focus in repeated) for event in events),
    ]
    if status.error:
        parameters.append({"name": "error", "valueCodeableConcept": _error(status.error)})
    return {
        "resourceType": "Parameters",
        "id": status_id,
        "meta": {"profile": [f"{_PROFILE}backport-subscription-status-r4"]},
        "parameter": parameters,
    }


def _error(text: str) -> dict[str, Any]:
    """With the code of HL7's code system, where the text of the failure is one that it has a code for."""
    if text.startswith("the endpoint answered"):
        return {"coding": [{"system": _ERRORS, "code": "error-response"}], "text": text}
    if text.startswith("no "):  # "no answer from the endpoint", "no whole answer within 10 s"
        return {"coding": [{"system": _ERRORS, "code": "no-response"}], "text": text}
    return {"text": text}


def _repeated(events: Sequence[NotifiedEvent]) -> frozenset[str]:
    """What is there in more than one version: a reference to it names the version (FHIR R4 bundle.html#references)."""
    versions = {(event.focus, event.version_id) for event in events}
    counts = Counter(focus for focus, _ in versions)
    return frozenset(focus for focus, count in counts.items() if count > 1)


def _event(base_url: str, content: str, event: NotifiedEvent, names_version: bool) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {"name": "event-number", "valueString": str(event.number)},
        {"name": "timestamp", "valueInstant": _instant(event.at)},
    ]
    if content != "empty" and event.is_told:
        focus = f"{event.focus}/_history/{event.version_id}" if names_version else event.focus
        parts.append({"name": "focus", "valueReference": {"reference": f"{base_url}/{focus}"}})
        parts += [
            {"name": "additional-context", "valueReference": {"reference": f"{base_url}/{each.reference}"}}
            for each in event.context
        ]
    return {"name": "notification-event", "part": parts}


def _entries(base_url: str, content: str, events: Sequence[NotifiedEvent]) -> Iterator[str]:
    """One entry for each event and, of what goes along, one for each resource; none but for full-resource."""
    if content != _FULL:
        return
    told = {event.focus for event in events if event.is_told}
    for event in (event for event in events if event.is_told):
        if event.kind == "delete":
            yield _entry(base_url, event.focus, ("DELETE", event.focus, "204"))
        else:
            by_kind = ("POST", event.resource_type, "201") if event.kind == "create" else ("PUT", event.focus, "200")
            yield _entry(base_url, event.focus, by_kind, event.body)
    for each in (each for event in events if event.is_told for each in event.context):
        if each.body and each.reference not in told:
            told.add(each.reference)
            yield _entry(base_url, each.reference, ("GET", each.reference, "200"), each.body)


def _entry(base_url: str, reference: str, request: tuple[str, str, str], body: str = "") -> str:
    """The resource's own text, byte for byte, in an entry with request and response (bdl-3, bdl-4)."""
    method, url, code = request
    around = {
        "fullUrl": f"{base_url}/{reference}",
        "request": {"method": method, "url": url},
        "response": {"status": code},
    }
    head = lossless.dump(around)
    return f'{head[:-1]},"resource":{body}}}' if body else head


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
