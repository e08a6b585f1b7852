"""Notification Bundles of the R5 Backport IG 1.1.0 for R4. Pure: the same event gives the same bytes, however often."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wetread.record import lossless

_PROFILE = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
_NAMES = uuid.UUID("5a0d4c58-9b0b-5d0e-8a1c-0a0d6f2f6e55")


@dataclass(frozen=True, slots=True)
class NotifiedEvent:
    """One event of one subscription. `body` is the text of the resource version, empty where it is not to be sent;
    `is_told` is whether it may be told of which resource the event is."""

    number: int
    at: datetime
    resource_type: str
    resource_id: str
    created: bool
    body: str = ""
    version_id: int = 0
    is_told: bool = True

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


def notification(
    base_url: str, kind: str, status: StatusOf, at: datetime, events: Sequence[NotifiedEvent], next_url: str = ""
) -> bytes:
    """A history Bundle, its status first. `kind` is handshake, heartbeat, event-notification or query-event. `next_url`
    is where an answer goes on that does not tell of all that was asked for."""
    key = f"{base_url}|{status.subscription_id}|{kind}|{status.count}|{[event.number for event in events]}"
    head = {
        "resourceType": "Bundle",
        "id": str(uuid.uuid5(_NAMES, f"bundle|{key}")),
        "meta": {"profile": [f"{_PROFILE}backport-subscription-notification-r4"]},
        "type": "history",
        "timestamp": _instant(at),
        **({"link": [{"relation": "next", "url": next_url}]} if next_url else {}),
    }
    status_id = str(uuid.uuid5(_NAMES, f"status|{key}"))
    entries = [
        lossless.dump(
            {
                "fullUrl": f"urn:uuid:{status_id}",
                "resource": _parameters(status_id, base_url, kind, status, events),
                "request": {"method": "GET", "url": f"{base_url}/Subscription/{status.subscription_id}/$status"},
                "response": {"status": "200"},
            }
        ),
        *(_entry(base_url, event) for event in events if event.body),
    ]
    return f'{lossless.dump(head)[:-1]},"entry":[{",".join(entries)}]}}'.encode()


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
        *(_event(base_url, status.content, event) for event in events),
    ]
    if status.error:
        parameters.append({"name": "error", "valueCodeableConcept": {"text": status.error}})
    return {
        "resourceType": "Parameters",
        "id": status_id,
        "meta": {"profile": [f"{_PROFILE}backport-subscription-status-r4"]},
        "parameter": parameters,
    }


def _event(base_url: str, content: str, event: NotifiedEvent) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {"name": "event-number", "valueString": str(event.number)},
        {"name": "timestamp", "valueInstant": _instant(event.at)},
    ]
    if content != "empty" and event.is_told:
        parts.append({"name": "focus", "valueReference": {"reference": f"{base_url}/{event.focus}"}})
    return {"name": "notification-event", "part": parts}


def _entry(base_url: str, event: NotifiedEvent) -> str:
    """The resource's own text, byte for byte, in an entry with request and response (bdl-3, bdl-4)."""
    method, url, code = ("POST", event.resource_type, "201") if event.created else ("PUT", event.focus, "200")
    around = {
        "fullUrl": f"{base_url}/{event.focus}",
        "request": {"method": method, "url": url},
        "response": {"status": code},
    }
    return f'{lossless.dump(around)[:-1]},"resource":{event.body}}}'


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
