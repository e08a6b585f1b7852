"""Subscriptions for a server under test, in the forms that the servers know."""

from __future__ import annotations

import json
import time
from typing import Any

from benchmarks.fhir.servers import Contestant

_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
TOPIC = "https://wetread.org/fhir/SubscriptionTopic/ai-observation"
_ACTIVE_WITHIN_S = 120


def by_topic(endpoint: str, *, content: str = "full-resource", filters: tuple[str, ...] = ()) -> dict[str, Any]:
    """Of the Backport guide: the topic of the Observations that models made."""
    form = _form(TOPIC, endpoint)
    form["channel"]["_payload"] = {"extension": [{"url": f"{_BACKPORT}payload-content", "valueCode": content}]}
    if filters:
        form["_criteria"] = {"extension": [{"url": f"{_BACKPORT}filter-criteria", "valueString": f} for f in filters]}
    return form


def by_criteria(endpoint: str) -> dict[str, Any]:
    """R4's own: the criteria are a search."""
    return _form("Observation?category=vital-signs", endpoint)


def subscribe(server: Contestant, form: dict[str, Any]) -> str:
    """Creates it; gives its id as soon as it is active."""
    subscription_id = create(server, form)
    deadline = time.monotonic() + _ACTIVE_WITHIN_S
    while (state := status_of(server, subscription_id)) != "active":
        if time.monotonic() > deadline:
            raise RuntimeError(f"{server.name}'s subscription is {state} after {_ACTIVE_WITHIN_S} s")
        time.sleep(0.1)
    return subscription_id


def create(server: Contestant, form: dict[str, Any]) -> str:
    """Gives its id."""
    status, _, content = server.ask("POST", "/Subscription", json.dumps(form), Prefer="return=representation")
    if status != 201:
        raise RuntimeError(f"{server.name} refused a subscription: {status} {content[:1000]!r}")
    return str(json.loads(content)["id"])


def status_of(server: Contestant, subscription_id: str) -> str:
    return str(json.loads(server.ask("GET", f"/Subscription/{subscription_id}")[2])["status"])


def _form(criteria: str, endpoint: str) -> dict[str, Any]:
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "benchmark",
        "criteria": criteria,
        "channel": {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json"},
    }
