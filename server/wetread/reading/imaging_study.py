"""What a study's headers say, as FHIR: the ImagingStudy, and the Patient of a study that no order told us of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from wetread.domain.codes import DCM, PROFILES
from wetread.domain.identity import AccessionNumber, PatientIdentifier, PatientIdentity, authority_uri
from wetread.domain.keys import fhir_id, secret_fhir_id
from wetread.domain.reader import SYSTEM
from wetread.domain.study import InstanceFacts
from wetread.errors import NotFound
from wetread.mapping.site import Site
from wetread.mapping.times import iso
from wetread.reading import orders
from wetread.reading.orders import Order
from wetread.reading.studies import Study
from wetread.record import resources
from wetread.store.database import Connection

_SEX = {"M": "male", "F": "female", "O": "other"}
_SOP_CLASS_SYSTEM = "urn:ietf:rfc:3986"


def identity_of(facts: InstanceFacts, site: Site) -> PatientIdentity:
    """The patient as the header tells it (PS3.3 C.7.1.1, C.2.2)."""
    parts = facts.patient_name.split("^")
    issuer = _issuer(facts.patient_id_issuer, site)
    identifiers = (PatientIdentifier(facts.patient_id, issuer),) if facts.patient_id else ()
    return PatientIdentity(
        identifiers,
        family=parts[0].strip(),
        given=parts[1].strip() if len(parts) > 1 else "",
        birth_date=facts.patient_birth_date,
        sex=facts.patient_sex,
    )


def accession_of(facts: InstanceFacts, site: Site) -> AccessionNumber:
    return AccessionNumber(facts.accession_number, _issuer(facts.accession_issuer, site))


def _issuer(issuer: str, site: Site) -> str:
    is_oid = issuer[:2] in ("0.", "1.", "2.")
    return authority_uri("" if is_oid else issuer, issuer if is_oid else "", "ISO" if is_oid else "", site.authorities)


def imaging_study_id(study_instance_uid: str) -> str:
    return fhir_id("imaging-study", study_instance_uid)


def patient_id_of(identity: PatientIdentity, study_instance_uid: str, site: Site) -> str:
    """The id of a patient that only the study tells of. Without an identifier and its authority the patient is this
    study's own: two studies that merely share a Patient ID are never one person."""
    known = next((i for i in identity.identifiers if i.authority), None)
    if known is None:
        return secret_fhir_id(site.key, "study-patient", study_instance_uid)
    return secret_fhir_id(site.key, "patient", known.authority, known.value)


def patient(identity: PatientIdentity, patient_id: str) -> dict[str, Any]:
    resource: dict[str, Any] = {"resourceType": "Patient", "id": patient_id}
    if identity.identifiers:
        resource["identifier"] = [
            {"system": i.authority, "value": i.value} if i.authority else {"value": i.value}
            for i in identity.identifiers
        ]
    if identity.family or identity.given:
        name: dict[str, Any] = {}
        if identity.family:
            name["family"] = identity.family
        if identity.given:
            name["given"] = identity.given.split()
        resource["name"] = [name]
    if identity.sex in _SEX:
        resource["gender"] = _SEX[identity.sex]
    if identity.birth_date:
        resource["birthDate"] = identity.birth_date
    return resource


def imaging_study(
    instances: Sequence[InstanceFacts],
    *,
    patient_id: str,
    service_request_id: str | None,
    encounter_id: str | None,
    accession: AccessionNumber,
    started: str,
    is_complete: bool,
) -> dict[str, Any]:
    """The ImagingStudy of what has arrived (FHIR R4 imagingstudy.html).

    While it grows it is `registered` and counts its instances; once complete (`is_complete`) it is `available` and
    lists them.
    """
    first = instances[0]
    by_series: Mapping[str, list[InstanceFacts]] = defaultdict(list)
    for facts in instances:
        by_series[facts.series_instance_uid].append(facts)
    series = [_series(members, is_complete) for members in by_series.values()]
    series.sort(key=lambda s: (s.get("number", 0), s["uid"]))
    resource: dict[str, Any] = {
        "resourceType": "ImagingStudy",
        "id": imaging_study_id(first.study_instance_uid),
        "meta": {"profile": [f"{PROFILES}/imaging-study"]},
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{first.study_instance_uid}"}],
        "status": "available" if is_complete else "registered",
        "modality": [_modality(code) for code in sorted({f.modality for f in instances if f.modality})],
        "subject": {"reference": f"Patient/{patient_id}"},
        "numberOfSeries": len(series),
        "numberOfInstances": len(instances),
        "series": series,
    }
    if accession.value:
        coding = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}
        identifier: dict[str, Any] = {"type": {"coding": [coding]}, "value": accession.value}
        if accession.issuer:
            identifier["system"] = accession.issuer
        resource["identifier"].append(identifier)
    if encounter_id:
        resource["encounter"] = {"reference": f"Encounter/{encounter_id}"}
    if started:
        resource["started"] = started
    if service_request_id:
        resource["basedOn"] = [{"reference": f"ServiceRequest/{service_request_id}"}]
    if first.study_description:
        resource["description"] = first.study_description
    if not resource["modality"]:
        del resource["modality"]
    return resource


async def current(
    conn: Connection, study: Study, received: Sequence[InstanceFacts], site: Site, *, is_complete: bool
) -> dict[str, Any]:
    """The ImagingStudy of a study as it now stands."""
    order = await orders.by_id(conn, study.service_request_id) if study.service_request_id else None
    return imaging_study(
        received,
        patient_id=study.patient_id,
        service_request_id=study.service_request_id,
        encounter_id=order.encounter_id if order else None,
        accession=AccessionNumber(study.accession_number, study.accession_issuer),
        started=started(received[0], site),
        is_complete=is_complete,
    )


async def readdress(conn: Connection, study: Study, order: Order) -> None:
    """The stored ImagingStudy becomes the order's: subject, encounter, basedOn. One not yet written is let be."""
    try:
        stored = (await resources.read(conn, SYSTEM, "ImagingStudy", study.id)).resource()
    except NotFound:
        return
    changed = stored | {
        "subject": {"reference": f"Patient/{order.patient_id}"},
        "basedOn": [{"reference": f"ServiceRequest/{order.service_request_id}"}],
    }
    if order.encounter_id:
        changed["encounter"] = {"reference": f"Encounter/{order.encounter_id}"}
    if changed != stored:
        await resources.put(conn, changed)


def started(facts: InstanceFacts, site: Site) -> str:
    """Study Date and Time as a FHIR dateTime in the site's zone; a date alone where there is no time."""
    time = facts.study_time[:8]
    if not facts.study_date or len(time) < 8:
        return facts.study_date
    return iso(datetime.fromisoformat(f"{facts.study_date}T{time}").replace(tzinfo=site.time_zone))


def _series(members: Sequence[InstanceFacts], is_complete: bool) -> dict[str, Any]:
    first = members[0]
    series: dict[str, Any] = {
        "uid": first.series_instance_uid,
        "modality": _modality(first.modality or "OT"),
        "numberOfInstances": len(members),
    }
    if first.series_number is not None and first.series_number >= 0:
        series["number"] = first.series_number
    if first.series_description:
        series["description"] = first.series_description
    if first.body_part:
        series["bodySite"] = {"display": first.body_part}
    if is_complete:
        ordered = sorted(members, key=lambda f: (f.instance_number or 0, f.sop_instance_uid))
        series["instance"] = [_instance(facts) for facts in ordered]
    return series


def _instance(facts: InstanceFacts) -> dict[str, Any]:
    instance: dict[str, Any] = {
        "uid": facts.sop_instance_uid,
        "sopClass": {"system": _SOP_CLASS_SYSTEM, "code": f"urn:oid:{facts.sop_class_uid}"},
    }
    if facts.instance_number is not None and facts.instance_number >= 0:
        instance["number"] = facts.instance_number
    return instance


def _modality(code: str) -> dict[str, Any]:
    return {"system": DCM, "code": code}
