"""What goes over a websocket: frames of clients, and notifications in the form that a client knows.

Backport IG 1.1: `bind-with-token TOKEN`, answered with notification Bundles. FHIR R4: `bind ID`, answered `bound ID`,
and `ping ID` for each event. Medplum's clients: the same in JSON, and the status in front of a Bundle as R4B has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from wetread.errors import InvalidInput
from wetread.record import lossless
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.notifications import notification

_WITH_TOKEN = ("bind-with-token", "unbind-from-token")


@dataclass(frozen=True, slots=True)
class Frame:
    """`verb` is bind-with-token, unbind-from-token, bind or ping."""

    verb: str
    argument: str = ""
    in_json: bool = False


def read(text: str) -> Frame:
    """Raises InvalidInput."""
    text = text.strip()
    if text.startswith("{"):
        return _from_json(text)
    verb, _, argument = text.partition(" ")
    verb = verb.removesuffix(":")
    if verb == "ping" and not argument:
        return Frame(verb)
    if verb not in (*_WITH_TOKEN, "bind") or not argument.strip() or " " in argument.strip():
        raise InvalidInput("a frame is `bind-with-token` and a token, or `bind` and the id of a subscription")
    return Frame(verb, argument.strip().removeprefix(":"))


def _from_json(text: str) -> Frame:
    try:
        said = json.loads(text)
        verb, payload = said["type"], said.get("payload", {})
        token = payload.get("token", "")
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidInput("a frame in JSON has a type, and a payload with a token") from error
    if verb == "ping":
        return Frame("ping", in_json=True)
    if verb not in _WITH_TOKEN or not isinstance(token, str) or not token:
        raise InvalidInput("a frame in JSON is of type bind-with-token, unbind-from-token or ping")
    return Frame(verb, token, in_json=True)


def written(base_url: str, delivery: Delivery, *, in_json: bool) -> Iterator[str]:
    """The frames that a delivery makes."""
    by_criteria = delivery.channel.content == "ping"
    if by_criteria and not in_json:
        name = delivery.subscription_id
        yield from [f"bound {name}"] if delivery.kind == "handshake" else [f"ping {name}" for _ in delivery.events]
        return
    status = replace(delivery.status, content="empty") if by_criteria else delivery.status
    text = notification(base_url, delivery.kind, status, delivery.at, delivery.events).decode()
    yield _with_subscription_status(text, delivery.subscription_id) if in_json else text


def _with_subscription_status(text: str, subscription_id: str) -> str:
    """The Bundle, its first entry a SubscriptionStatus as FHIR R4B and the guide for R4B have it. Its reference to the
    Subscription is relative: these clients find no other."""
    bundle = lossless.parse(text)
    entry = bundle["entry"][0]
    status: dict[str, Any] = {"resourceType": "SubscriptionStatus", "id": entry["resource"]["id"]}
    for parameter in entry["resource"]["parameter"]:
        value = next(v for k, v in parameter.items() if k.startswith("value") or k == "part")
        match parameter["name"]:
            case "subscription":
                status["subscription"] = {"reference": f"Subscription/{subscription_id}"}
            case "events-since-subscription-start":
                status["eventsSinceSubscriptionStart"] = value
            case "notification-event":
                status.setdefault("notificationEvent", []).append(_event(value))
            case "error":
                status.setdefault("error", []).append(value)
            case name:
                status[name] = value
    entry["resource"] = status
    return lossless.dump(bundle)


def _event(parts: list[dict[str, Any]]) -> dict[str, Any]:
    names = {"event-number": "eventNumber", "additional-context": "additionalContext"}
    event: dict[str, Any] = {}
    for part in parts:
        name = names.get(part["name"], part["name"])
        value = next(v for k, v in part.items() if k.startswith("value"))
        if name == "additionalContext":
            event.setdefault(name, []).append(value)
        else:
            event[name] = value
    return event
