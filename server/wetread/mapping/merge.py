"""Lays what a message says over what is stored: HL7 silence keeps, a null deletes, and an ended order stays ended."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from wetread.domain.codes import WETREAD
from wetread.errors import Conflict
from wetread.mapping import engine
from wetread.mapping.model import Maps
from wetread.mapping.orders import MappedOrder, OrderAction, PatientMode
from wetread.mapping.paths import Context
from wetread.wire import hl7

ENDED_REQUEST = frozenset({"completed", "revoked", "entered-in-error"})
ENDED_TASK = frozenset({"completed", "cancelled", "failed", "rejected", "entered-in-error"})

_STATUS_REASON = "http://hl7.org/fhir/StructureDefinition/request-statusReason"
_HELD_BY_ORDER = {
    "coding": [{"system": WETREAD, "code": "order-on-hold", "display": "The order is on hold"}],
    "text": "The order is on hold",
}


def merge(
    existing: Mapping[str, Any] | None,
    mapped: Mapping[str, Any],
    *,
    mode: PatientMode,
    message: hl7.Message,
    maps: Maps,
) -> dict[str, Any]:
    """The Patient, Encounter or Practitioner to store, given the stored one.

    With `create-if-absent` (orders) a stored one is given back unchanged. With `upsert` (ADT) an empty field changes
    nothing, `""` deletes the element, entries of other authorities and uses stay, and so does what no map fills.
    """
    if existing is None:
        return deepcopy(dict(mapped))
    if mode == "create-if-absent":
        return deepcopy(dict(existing))
    resource_map = maps.resources.get(mapped["resourceType"])
    if resource_map is None:
        return deepcopy(dict(existing)) | {k: deepcopy(v) for k, v in mapped.items() if k not in ("id", "meta")}
    return engine.lay_over(existing, mapped, resource_map, engine.nulls(resource_map, Context(message.segments)))


def apply_order(
    existing_service_request: Mapping[str, Any] | None,
    existing_task: Mapping[str, Any] | None,
    order: MappedOrder,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ServiceRequest and the Task to store, given the stored ones (found under any of `order.numbers`).

    Not for an order whose action is NONE and which is not stored: there is nothing to write then. An ended request or
    task is never reopened: a late NW or SC only adds order numbers to it. A cancel of an unknown order gives a revoked
    one, so that the order itself, when it comes late, stays cancelled. Raises Conflict where the stored order is
    another patient's.
    """
    request = _request(existing_service_request, order)
    reference = f"ServiceRequest/{request['id']}"
    fresh = deepcopy(order.task) | {"basedOn": [{"reference": reference}], "focus": {"reference": reference}}
    if existing_task is None:
        task = fresh
    elif existing_task["status"] in ENDED_TASK or order.action is OrderAction.NONE:
        return request, deepcopy(dict(existing_task))
    else:
        task = engine.lay_over(existing_task, _said(existing_task, fresh, order), order.task_map, ())
    return request, _task_state(task, request["status"], order)


def _request(existing: Mapping[str, Any] | None, order: MappedOrder) -> dict[str, Any]:
    if existing is None:
        return _ended(deepcopy(order.service_request), order)
    if existing.get("subject", {}).get("reference") != order.service_request["subject"]["reference"]:
        raise Conflict(
            "The order number belongs to another patient's order: resolve the patients (or merge them) and replay.",
            location="PID^1^3",
        )
    if order.action is OrderAction.NONE:
        return deepcopy(dict(existing))
    if existing["status"] in ENDED_REQUEST:
        return _numbered(existing, order)
    said = _said(existing, order.service_request, order)
    if order.status:
        said["status"] = order.status
    nulls = order.nulls if order.action.rewrites else ()
    return _ended(engine.lay_over(existing, said, order.service_request_map, nulls), order)


def _said(existing: Mapping[str, Any], new: Mapping[str, Any], order: MappedOrder) -> dict[str, Any]:
    """What the message may change: all but the status, or, for one that only moves the status, numbers and gaps."""
    return {
        key: value
        for key, value in new.items()
        if key != "status" and (order.action.rewrites or key == "identifier" or key not in existing)
    }


def _ended(request: dict[str, Any], order: MappedOrder) -> dict[str, Any]:
    """Cancel, discontinue, replaced and refused end the order, unless ORC-5 says it ended otherwise."""
    if order.action.ends and request["status"] not in ENDED_REQUEST:
        request["status"] = "revoked"
    if request["status"] == "revoked" and order.cancel_reason:
        request["extension"] = [e for e in request.get("extension", ()) if e.get("url") != _STATUS_REASON]
        request["extension"].append({"url": _STATUS_REASON, "valueCodeableConcept": deepcopy(order.cancel_reason)})
    return request


def _numbered(existing: Mapping[str, Any], order: MappedOrder) -> dict[str, Any]:
    request = deepcopy(dict(existing))
    known = request.setdefault("identifier", [])
    pairs = [(i.get("system"), i.get("value")) for i in known]
    new = order.service_request.get("identifier", [])
    known += [deepcopy(i) for i in new if (i.get("system"), i.get("value")) not in pairs]
    if order.status == "entered-in-error":
        request["status"] = order.status
    return request


def _task_state(task: dict[str, Any], request_status: str, order: MappedOrder) -> dict[str, Any]:
    """The task follows its order into cancelled, on-hold and back; that an exam is done does not end its reading."""
    if order.action is OrderAction.REJECT:
        task["status"] = "rejected"
    elif request_status in ("revoked", "entered-in-error"):
        task["status"] = "cancelled"
        task["statusReason"] = deepcopy(order.cancel_reason) or {"text": "The order was cancelled"}
    elif request_status == "on-hold" and task["status"] != "on-hold":
        task["status"], task["statusReason"] = "on-hold", deepcopy(_HELD_BY_ORDER)
    elif request_status == "active" and task.get("statusReason") == _HELD_BY_ORDER:
        task["status"] = "ready"
        del task["statusReason"]
    return task
