"""Maps an order (ORM^O01, OMI^O23, OMG^O19) or a patient event (ADT) to FHIR R4 resources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from wetread.domain.identity import AccessionNumber
from wetread.domain.keys import fhir_id, secret_fhir_id
from wetread.domain.priority import Priority
from wetread.errors import InvalidInput, Unsupported
from wetread.mapping import engine, facts
from wetread.mapping.datatypes import Scope
from wetread.mapping.identify import (
    Identified,
    OrderKeys,
    OrderNumber,
    find_keys,
    identify,
    order_numbers,
    patient_identifiers,
)
from wetread.mapping.model import Maps, ResourceMap
from wetread.mapping.paths import Context
from wetread.mapping.site import Site
from wetread.wire import hl7

__all__ = [
    "ADT_EVENTS",
    "ORDER_EVENTS",
    "Identified",
    "Mapped",
    "MappedOrder",
    "OrderAction",
    "OrderKeys",
    "OrderNumber",
    "PatientMode",
    "find_keys",
    "identify",
    "map_message",
]

ORDER_EVENTS = frozenset({("ORM", "O01"), ("OMI", "O23"), ("OMG", "O19")})
ADT_EVENTS = frozenset({("ADT", event) for event in ("A01", "A03", "A04", "A05", "A08", "A11", "A13")})

PatientMode = Literal["create-if-absent", "upsert"]

_ORDER_LEVEL_ONLY = frozenset({"NTE", "OBX", "TQ1"})


class OrderAction(StrEnum):
    """What an order control code (ORC-1, table 0119) asks for; `codes/order-control.yaml` says which."""

    CREATE = "create"
    UPDATE = "update"
    CANCEL = "cancel"
    DISCONTINUE = "discontinue"
    HOLD = "hold"
    RELEASE = "release"
    STATUS = "status"
    NUMBER = "number"
    REPLACE = "replace"
    REPLACED = "replaced"
    REJECT = "reject"
    NONE = "none"

    @property
    def rewrites(self) -> bool:
        """Whether the message says anew what is ordered. Others only move the order's status, and fill gaps."""
        return self in (OrderAction.CREATE, OrderAction.UPDATE, OrderAction.REPLACE)

    @property
    def ends(self) -> bool:
        return self in (OrderAction.CANCEL, OrderAction.DISCONTINUE, OrderAction.REPLACED, OrderAction.REJECT)


_STATUS_OF_ACTION = {
    OrderAction.CREATE: "active",
    OrderAction.REPLACE: "active",
    OrderAction.RELEASE: "active",
    OrderAction.HOLD: "on-hold",
}


@dataclass(frozen=True, slots=True)
class MappedOrder:
    """One order. `placer` and `filler` are `value^namespace^uid^type` as sent, for echoing in an ORU.

    `order_key` is (type, system, value) of the number that gave the ids; `numbers` are all its numbers: an order
    already stored under any of them is the same one. `status` is the request status that the message states, empty
    where it states none. `modality` is a DICOM modality, `patient_class` a v3 ActCode (EMER, IMP, AMB, PRENC); both may
    be empty. `priority` is ROUTINE where the message says none; the stored order's then still holds.
    """

    control: str
    action: OrderAction
    order_key: tuple[str, ...]
    numbers: tuple[OrderNumber, ...]
    placer: str
    filler: str
    accession: AccessionNumber | None
    study_instance_uid: str
    status: str
    priority: Priority
    modality: str
    patient_class: str
    ordering_location: str
    cancel_reason: dict[str, Any] | None
    warnings: tuple[str, ...]
    service_request: dict[str, Any]
    task: dict[str, Any]
    service_request_map: ResourceMap
    task_map: ResourceMap
    nulls: engine.Nulls


@dataclass(frozen=True, slots=True)
class Mapped:
    """All resources of one message, with consistent references. `patient_mode` holds for the Encounter too."""

    patient_id: str
    patient: dict[str, Any]
    patient_mode: PatientMode
    encounter: dict[str, Any] | None
    practitioners: tuple[dict[str, Any], ...]
    orders: tuple[MappedOrder, ...]
    warnings: tuple[str, ...]


def map_message(message: hl7.Message, maps: Maps, site: Site, *, patient_id: str | None = None) -> Mapped:
    """The resources of an order or patient event.

    `patient_id` is the id of an existing Patient that was found by identifier (or, for orders without PID, by the
    stored order; see `find_keys`); it wins over the derived one. Raises Unsupported for another message type, and
    InvalidInput, with its location, for content that cannot be mapped.
    """
    kind = (message.message_code, message.trigger_event)
    if kind not in ORDER_EVENTS | ADT_EVENTS:
        raise Unsupported("There is no map for this message type and trigger event.", location="MSH^1^9")
    head = Context(_head(message) if kind in ORDER_EVENTS else message.segments)
    scope = Scope(maps, site, head, {})
    patient = _patient(message, scope, patient_id)
    scope.prepared = {"patient": {"reference": f"Patient/{patient['id']}"}}
    encounter = _encounter(scope)
    if encounter is not None:
        scope.prepared = {**scope.prepared, "encounter": {"reference": f"Encounter/{encounter['id']}"}}
    orders = tuple(_orders(message, scope)) if kind in ORDER_EVENTS else ()
    return Mapped(
        patient["id"],
        patient,
        "create-if-absent" if kind in ORDER_EVENTS else "upsert",
        encounter,
        tuple(scope.practitioners.values()),
        orders,
        tuple(scope.warnings),
    )


def _head(message: hl7.Message) -> tuple[hl7.Segment, ...]:
    names = [segment.name for segment in message.segments]
    end = min((names.index(name) for name in ("ORC", "OBR") if name in names), default=len(names))
    return message.segments[:end]


def _patient(message: hl7.Message, scope: Scope, patient_id: str | None) -> dict[str, Any]:
    pid = message.first("PID")
    if pid is None:
        if patient_id is None:
            raise InvalidInput(
                "The message names no patient: send a PID segment, or an order that is already known.", location="PID"
            )
        return {"resourceType": "Patient", "id": patient_id}
    chief = patient_identifiers(pid, scope.site)[0]
    own_id = patient_id or secret_fhir_id(scope.site.key, "patient", chief.authority, chief.value)
    return engine.build(scope.maps.resources["Patient"], scope, own_id)


def _encounter(scope: Scope) -> dict[str, Any] | None:
    resource_map = scope.maps.resources["Encounter"]
    if not engine.applies(resource_map, scope.context):
        return None
    visit = engine.build(resource_map, scope, "")
    identifiers = visit.get("identifier", ())
    if not identifiers:
        return None
    number = identifiers[0]
    key = secret_fhir_id(scope.site.key, "encounter", number.get("system", ""), number["value"])
    return visit | {"id": key}


@dataclass(frozen=True, slots=True)
class _Part:
    """The segments of one order, and its placer and filler numbers. `twin`: another OBR under the same ORC has the same
    numbers, and only the accession number tells the two apart: it alone identifies the order then."""

    segments: tuple[hl7.Segment, ...]
    numbers: tuple[OrderNumber, ...]
    accession: str
    twin: bool = False


def _parts(message: hl7.Message, scope: Scope) -> Iterator[_Part]:
    """The orders in message order. A further OBR under one ORC that has no number of its own is one order with it."""
    groups = hl7.order_groups(message)
    if not groups:
        raise InvalidInput("The message holds no order: send an ORC segment.", location="ORC")
    part: _Part | None = None
    for occurrence, group in enumerate(groups, start=1):
        if group.segments[0].name != "ORC":
            raise InvalidInput("An OBR stands without its ORC: send one before it.", location=f"OBR^{occurrence}")
        same_orc = part is not None and part.segments[0] is group.segments[0]
        context = Context(group.segments)
        numbers = order_numbers(context, scope.site, detail_first=same_orc)
        accession = facts.fact_text(replace(scope, context=context), "accession")
        if part is None or not same_orc or not _named(numbers) <= _named(part.numbers):
            following = _Part(group.segments, numbers, accession)
        elif accession and part.accession and accession != part.accession:
            following = _Part(group.segments, numbers, accession, twin=True)
        else:
            part = replace(part, segments=part.segments + group.segments[1:])
            continue
        if part is not None:
            yield part
        part = following
    if part is not None:
        yield part


def _named(numbers: tuple[OrderNumber, ...]) -> set[tuple[str, str]]:
    return {(number.type, number.value) for number in numbers}


def _orders(message: hl7.Message, scope: Scope) -> Iterator[MappedOrder]:
    shared = tuple(segment for segment in _head(message) if segment.name not in _ORDER_LEVEL_ONLY)
    replaced: OrderNumber | None = None
    for occurrence, part in enumerate(_parts(message, scope), start=1):
        own = replace(scope, context=Context(_without_result_notes(part.segments), shared), warnings=[])
        order = _order(own, part, occurrence, replaced)
        replaced = order.numbers[0] if order.action is OrderAction.REPLACED else None
        yield order


def _without_result_notes(segments: tuple[hl7.Segment, ...]) -> tuple[hl7.Segment, ...]:
    """An NTE that follows an OBX is about that OBX, not about the order (HL7 v2.5.1 4.4.1)."""
    kept: list[hl7.Segment] = []
    after_result = False
    for segment in segments:
        after_result = segment.name == "OBX" or (after_result and segment.name == "NTE")
        if not (after_result and segment.name == "NTE"):
            kept.append(segment)
    return tuple(kept)


def _order(scope: Scope, part: _Part, occurrence: int, replaced: OrderNumber | None) -> MappedOrder:
    control = scope.context.own[0].value(1).strip()
    stated = scope.mapped("order-control", control)
    if stated is None:
        raise InvalidInput(
            "The order control code is not known here: add it to codes/order-control.yaml if the sender means it.",
            location=f"ORC^{occurrence}^1",
        )
    action = OrderAction(stated)
    accession = facts.accession_number(scope)
    numbers = part.numbers
    if accession is not None:
        own_number = OrderNumber("ACSN", accession.issuer, accession.value, accession.value)
        numbers = (own_number,) if part.twin else (*numbers, own_number)
    if not numbers:
        raise InvalidInput(
            "The order has neither placer, filler nor accession number: send one, e.g. in ORC-2.",
            location=f"ORC^{occurrence}^2",
        )
    facts.check_numbers(scope)
    uid, modality, priority = facts.study_instance_uid(scope), facts.modality(scope), facts.priority(scope)
    stated_status = facts.request_status(scope, reports_status=action is OrderAction.STATUS)
    status = stated_status or _STATUS_OF_ACTION.get(action, "")
    key = (numbers[0].type, numbers[0].system, numbers[0].value)
    request_id = fhir_id("ServiceRequest", *key)
    by_type = {number.type: number for number in numbers}
    as_sent = {number.type: number.as_sent for number in part.numbers}
    scope.prepared = {
        **scope.prepared,
        "service-request": {"reference": f"ServiceRequest/{request_id}"},
        "requester": facts.requester(scope),
        "placer": facts.typed(by_type.get("PLAC")),
        "filler": facts.typed(by_type.get("FILL")),
        "accession": facts.typed(by_type.get("ACSN")),
        "study-instance-uid": facts.study_identifier(uid),
        "priority": priority,
        "modality": facts.modality_detail(modality),
        "further-procedures": facts.further_procedures(scope.context.own, scope),
        "status": status or "active",
        "replaces": {"identifier": facts.typed(replaced)} if replaced and action is OrderAction.REPLACE else None,
    }
    request_map, task_map = scope.maps.resources["ServiceRequest"], scope.maps.resources["Task"]
    return MappedOrder(
        control=control,
        action=action,
        order_key=key,
        numbers=numbers,
        placer=as_sent.get("PLAC", ""),
        filler=as_sent.get("FILL", ""),
        accession=accession,
        study_instance_uid=uid,
        status=status,
        priority=Priority.of((priority.value if isinstance(priority, engine.Remembered) else priority) or ""),
        modality=modality,
        patient_class=facts.patient_class(scope),
        ordering_location=facts.fact_text(scope, "ordering-location"),
        cancel_reason=facts.cancel_reason(scope),
        service_request=engine.build(request_map, scope, request_id),
        task=engine.build(task_map, scope, fhir_id("Task", "ai-reading", *key)),
        service_request_map=request_map,
        task_map=task_map,
        nulls=engine.nulls(request_map, scope.context),
        warnings=tuple(scope.warnings),
    )
