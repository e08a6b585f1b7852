"""What an order says of itself, read by the path lists of `hl7v2/order.yaml`. Places that disagree are warned of."""

from __future__ import annotations

import re
from typing import Any

from wetread.domain.codes import DCM
from wetread.domain.identity import AccessionNumber
from wetread.mapping import engine
from wetread.mapping.datatypes import IDENTIFIER_TYPE, Scope, concept, order_authority, practitioner
from wetread.mapping.identify import OrderNumber
from wetread.mapping.paths import Context, Datum, Path
from wetread.wire import hl7

_UID = re.compile(r"[0-2](\.(0|[1-9]\d*))+")
_PLACER = (Path.parse("ORC-2.1"), Path.parse("OBR-2.1"))
_FILLER = (Path.parse("ORC-3.1"), Path.parse("OBR-3.1"))
_REQUESTERS = (Path.parse("ORC-12"), Path.parse("OBR-16"))
_ORDER_STATUS, _RESULT_STATUS = Path.parse("ORC-5"), Path.parse("OBR-25")
_PATIENT_CLASS = Path.parse("PV1-2")
_PROCEDURE = Path.parse("OBR-4")


def fact(scope: Scope, name: str) -> Datum | None:
    """The first valued place of the list."""
    return next((d for path in scope.maps.order_facts[name] for d in path.read(scope.context) if d.text), None)


def fact_text(scope: Scope, name: str) -> str:
    datum = fact(scope, name)
    return datum.text if datum is not None else ""


def cancel_reason(scope: Scope) -> dict[str, Any] | None:
    """A CodeableConcept; free text without a code (ORC-16.2) is enough."""
    data = (datum for path in scope.maps.order_facts["cancel-reason"] for datum in path.read(scope.context))
    return next((found for datum in data if (found := concept(datum, scope))), None)


def accession_number(scope: Scope) -> AccessionNumber | None:
    """Its issuer is that of the EI it stands in (IPC-1), else the site's default authority."""
    datum = fact(scope, "accession")
    if datum is None:
        return None
    _warn_if_different(scope, scope.maps.order_facts["accession"], "accession number")
    if datum.component in (None, 1) and datum.subcomponent is None:
        whole = Datum(datum.segment, datum.occurrence, datum.field, datum.repetition)
        return AccessionNumber(datum.text, order_authority(whole, scope.site))
    return AccessionNumber(datum.text, scope.site.default_authority)


def study_instance_uid(scope: Scope) -> str:
    """Empty where there is none, or where what stands there is no UID (PS3.5 9.1)."""
    datum = fact(scope, "study-instance-uid")
    if datum is None:
        return ""
    _warn_if_different(scope, scope.maps.order_facts["study-instance-uid"], "Study Instance UID")
    if not _UID.fullmatch(datum.text) or len(datum.text) > 64:
        scope.warn(f"{datum.location} is not a DICOM UID and was left out")
        return ""
    return datum.text


def check_numbers(scope: Scope) -> None:
    """Warns where ORC and OBR give different order numbers."""
    _warn_if_different(scope, _PLACER, "placer order number")
    _warn_if_different(scope, _FILLER, "filler order number")


def _warn_if_different(scope: Scope, paths: tuple[Path, ...], what: str) -> None:
    said = {path.text: datum.text for path in paths if (datum := engine.first(path, scope.context)) and datum.text}
    if len(set(said.values())) > 1:
        scope.warn(f"{' and '.join(said)} give different values for the {what}; {next(iter(said))} was taken")


def priority(scope: Scope) -> str | engine.Remembered | None:
    """FHIR request-priority; None where the order says none. A code nobody knows is routine, and remembered."""
    found, unknown = _code(scope, "priority")
    if found is None and unknown is not None:
        scope.warn(f"{unknown.location}: the priority is not in the code map priority; taken as routine")
        otherwise = scope.maps.codes["priority"].otherwise
        return engine.with_original(otherwise, unknown.text) if otherwise is not None else None
    return None if found is None else str(found)


def modality(scope: Scope) -> str:
    """A DICOM modality, or empty."""
    return _code(scope, "modality")[0] or ""


def _code(scope: Scope, name: str) -> tuple[Any, Datum | None]:
    """The first code of the list that its code map knows, and the first one that it does not."""
    unknown = None
    for path in scope.maps.order_facts[name]:
        for datum in path.read(scope.context):
            target = scope.mapped(name, datum.text)
            if target is not None:
                return target, unknown
            unknown = unknown or (datum if datum.text else None)
    return None, unknown


def patient_class(scope: Scope) -> str:
    datum = engine.first(_PATIENT_CLASS, scope.context)
    target = scope.mapped("patient-class", datum.text) if datum is not None else None
    return str(target["code"]) if target else ""


def request_status(scope: Scope, reports_status: bool) -> str:
    """What ORC-5 (table 0038) states; for a status change that leaves it empty, what OBR-25 hints; or empty."""
    datum = engine.first(_ORDER_STATUS, scope.context)
    if datum is not None and datum.text:
        status = scope.mapped("order-status", datum.text)
        if status is None:
            scope.warn(f"{datum.location}: the order status is not in the code map order-status")
        return status or ""
    hint = engine.first(_RESULT_STATUS, scope.context) if reports_status else None
    return (scope.mapped("result-status", hint.text) if hint is not None else None) or ""


def requester(scope: Scope) -> dict[str, Any] | None:
    """ORC-12, else OBR-16; the first repetition that names somebody."""
    for path in _REQUESTERS:
        for datum in path.read(scope.context):
            reference = practitioner(datum, scope)
            if reference is not None:
                return reference
    return None


def further_procedures(segments: tuple[hl7.Segment, ...], scope: Scope) -> list[dict[str, Any]]:
    """The procedures (OBR-4) of the OBRs after the first one of an order."""
    data = [datum for datum in _PROCEDURE.read(Context(segments)) if datum.occurrence > 1]
    return [found for datum in data if (found := concept(datum, scope))]


def typed(number: OrderNumber | None) -> dict[str, Any] | None:
    """The number as a FHIR Identifier with its v2-0203 type."""
    if number is None:
        return None
    kind = {"coding": [{"system": IDENTIFIER_TYPE, "code": number.type}]}
    return {"type": kind} | ({"system": number.system} if number.system else {}) | {"value": number.value}


def study_identifier(uid: str) -> dict[str, Any] | None:
    """R4 imagingstudy.html 10.4.3: the Study Instance UID as an OID under urn:dicom:uid."""
    return {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"} if uid else None


def modality_detail(code: str) -> dict[str, Any] | None:
    return {"coding": [{"system": DCM, "code": code}]} if code else None
