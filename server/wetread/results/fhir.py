"""A reading as FHIR R4 resources: Device, Observations, DiagnosticReport and Provenance.

R4 4.0.1 decides: Observation and DiagnosticReport have no Device as performer, Observation.derivedFrom and partOf may
both name an ImagingStudy. Labels and roles follow the HL7 AI Transparency on FHIR guide (hl7.fhir.uv.aitransparency
1.0.0). Numbers are Decimal and keep the digits that the model gave; `record.lossless` writes them so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from wetread.domain.codes import ABSENT, DCM, PRESENT, PROFILES, UCUM, Coded
from wetread.domain.finding import Finding, Measurement, Reading
from wetread.results import identity, vocabulary
from wetread.results.context import ObjectRef, ReadingContext, body_site
from wetread.results.narrative import (
    caveats,
    conclusion,
    finding_text,
    measurement_text,
    model_label,
    model_name,
    plain,
    xhtml,
)

_HL7 = "http://terminology.hl7.org/CodeSystem"
_AI_ASSERTED = {
    "system": f"{_HL7}/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
_AI_TRANSPARENCY = "http://hl7.org/fhir/uv/aitransparency"
_AI_DEVICE_TYPE = {
    "coding": [{"system": f"{_AI_TRANSPARENCY}/CodeSystem/AIdeviceTypeCS", "code": "Artificial-Intelligence"}]
}
"""Without display or text: the guide's profiles fix the whole CodeableConcept."""
_AI_KINDS = {
    "Machine-Learning-Models": "Machine Learning Models",
    "AI-for-Medical-Imaging-Data": "AI for Medical Imaging Data",
}
MODEL_DIGEST_SYSTEM = "urn:wetread:model:sha256"
"""Identifier system of a model's Device: the sha256 of its ONNX file."""

Resource = dict[str, Any]


@dataclass(frozen=True)
class FhirDocuments:
    device: Resource
    observations: tuple[Resource, ...]
    report: Resource
    provenance: Resource


def documents(
    reading: Reading, context: ReadingContext, *, sr: ObjectRef | None, seg: ObjectRef | None
) -> FhirDocuments:
    """All FHIR resources of one reading, in no order of writing that references need (write them in one transaction).

    Observations stand in the order of `reading.findings`. `sr` and `seg` are the DICOM instances of the same reading.
    """
    observations = tuple(_observation(reading, context, finding, seg) for finding in reading.findings)
    return FhirDocuments(
        device=device(reading, context),
        observations=observations,
        report=_report(reading, context, sr),
        provenance=_provenance(reading, context),
    )


def device(reading: Reading, context: ReadingContext) -> Resource:
    """The model as an AI-Device. Says nothing of the run, so every reading of a model writes the same content."""
    model = reading.model
    notes = [
        *(["SYNTHETIC: trained on computer-generated data."] if model.synthetic else []),
        *([f"Intended use: {plain(model.intended_use)}"] if model.intended_use else []),
    ]
    resource = {
        "resourceType": "Device",
        "id": context.device_id,
        "meta": _meta(reading, context, "ai-device", ai_asserted=False),
        "text": _narrative(f"AI model {model_label(model)}.", *notes),
        "extension": [_ai_kind(code, display) for code, display in _AI_KINDS.items()],
        "identifier": [{"system": MODEL_DIGEST_SYSTEM, "value": model.digest}],
        "status": "active",
        "manufacturer": plain(model.manufacturer),
        "deviceName": [{"name": model_name(model), "type": "model-name"}],
        "modelNumber": plain(model.name),
        "type": _AI_DEVICE_TYPE,
        "version": [{"type": {"text": "model"}, "value": plain(model.version)}],
        "owner": {"display": plain(context.organization)} if context.organization else None,
        "safety": [{"text": "Not for clinical use"}] if model.not_for_clinical_use else None,
        "note": [{"text": text} for text in notes],
    }
    return _present(resource)


def _observation(reading: Reading, context: ReadingContext, finding: Finding, seg: ObjectRef | None) -> Resource:
    study = f"ImagingStudy/{context.imaging_study_id}"
    derived_from: list[Resource] = [{"reference": study}]
    if seg and finding.segment:
        # R4 has no resource for a DICOM segmentation; Media is the target of derivedFrom that stands nearest.
        derived_from.append({"type": "Media", "identifier": _dicom_uid(seg.sop_instance_uid), "display": "DICOM SEG"})
    value = _value(finding)
    site = body_site(finding, context)
    notes = [measurement_text(m) for m in finding.measurements if m.method] + list(caveats(reading, demo=context.demo))
    resource = {
        "resourceType": "Observation",
        "id": identity.observation_id(reading, finding),
        "meta": _meta(reading, context, "ai-observation"),
        "text": _narrative(finding_text(finding), *caveats(reading, demo=context.demo)),
        "identifier": [
            {"type": _concept(vocabulary.TRACKING_UID), **_dicom_uid(identity.tracking_uid(reading, finding))}
        ],
        "basedOn": _references("ServiceRequest", context.service_request_id),
        "partOf": [{"reference": study}],
        "status": "preliminary",
        "category": [
            {
                "coding": [
                    {"system": f"{_HL7}/observation-category", "code": "imaging", "display": "Imaging"},
                    *_modality(context),
                ]
            }
        ],
        "code": _concept(finding.code),
        "subject": {"reference": f"Patient/{context.patient_id}"},
        "encounter": _reference("Encounter", context.encounter_id),
        "effectiveDateTime": _instant(context.started) if context.started else None,
        "issued": _instant(reading.read_at),
        "performer": [{"display": plain(context.organization)}] if context.organization else None,
        **value,
        "interpretation": _interpretation(finding, reading),
        "note": [{"text": text} for text in notes],
        "bodySite": _concept(site) if site else None,
        "method": _concept(vocabulary.AI_READING),
        "device": {"reference": f"Device/{context.device_id}"},
        "derivedFrom": derived_from,
        "component": _components(finding),
    }
    if not value and "component" not in _present(resource):
        resource["dataAbsentReason"] = {"coding": [{"system": f"{_HL7}/data-absent-reason", "code": "unknown"}]}
    return _present(resource)


def _report(reading: Reading, context: ReadingContext, sr: ObjectRef | None) -> Resource:
    text = conclusion(reading, demo=context.demo)
    identifiers: list[Resource] = [_dicom_uid(sr.sop_instance_uid)] if sr else []
    if context.accession:
        identifiers.append(_accession_identifier(context.accession.value, context.accession.issuer))
    procedure = [context.procedure] if context.procedure else []
    resource = {
        "resourceType": "DiagnosticReport",
        "id": identity.report_id(reading),
        "meta": _meta(reading, context, "ai-diagnosticreport"),
        "text": _narrative(*text.splitlines()),
        "identifier": identifiers,
        "basedOn": _references("ServiceRequest", context.service_request_id),
        "status": "preliminary",
        "category": [
            {"coding": [{"system": f"{_HL7}/v2-0074", "code": "RAD", "display": "Radiology"}]},
            *({"coding": [coding]} for coding in _modality(context)),
        ],
        "code": {"coding": [_coding(c) for c in (*procedure, vocabulary.IMAGING_STUDY)]},
        "subject": {"reference": f"Patient/{context.patient_id}"},
        "encounter": _reference("Encounter", context.encounter_id),
        "effectiveDateTime": _instant(context.started) if context.started else None,
        "issued": _instant(reading.read_at),
        "performer": [{"display": plain(context.organization)}] if context.organization else None,
        "result": [{"reference": f"Observation/{identity.observation_id(reading, f)}"} for f in reading.findings],
        "imagingStudy": [{"reference": f"ImagingStudy/{context.imaging_study_id}"}],
        "conclusion": text,
        "conclusionCode": [_concept(f.code) for f in reading.findings if f.present],
    }
    return _present(resource)


def _provenance(reading: Reading, context: ReadingContext) -> Resource:
    """AI-Provenance: the model is the agent, the ImagingStudy the source."""
    read_at = _instant(reading.read_at)
    targets = [f"Observation/{identity.observation_id(reading, f)}" for f in reading.findings]
    author = {"system": f"{_HL7}/provenance-participant-type", "code": "author", "display": "Author"}
    custodian = {"system": f"{_HL7}/provenance-participant-type", "code": "custodian", "display": "Custodian"}
    agents: list[Resource] = [
        {
            "type": {"coding": [author]},
            "role": [_AI_DEVICE_TYPE],
            "who": {"reference": f"Device/{context.device_id}", "display": model_label(reading.model)},
        }
    ]
    if context.organization:
        agents.append({"type": {"coding": [custodian]}, "who": {"display": plain(context.organization)}})
    sources = [("ImagingStudy", context.imaging_study_id), ("ServiceRequest", context.service_request_id)]
    sources.append(("Task", context.task_id))
    resource = {
        "resourceType": "Provenance",
        "id": identity.provenance_id(reading),
        "meta": _meta(reading, context, "ai-provenance"),
        "text": _narrative(f"Read by {model_label(reading.model)} at {read_at}."),
        "target": [{"reference": t} for t in (*targets, f"DiagnosticReport/{identity.report_id(reading)}")],
        "occurredDateTime": read_at,
        "recorded": read_at,
        "reason": [{"coding": [_AI_ASSERTED]}],
        "activity": {
            "coding": [
                {
                    "system": f"{_HL7}/v3-DataOperation",
                    "code": "CREATE" if reading.revision <= 1 else "UPDATE",
                    "display": "create" if reading.revision <= 1 else "revise",
                }
            ]
        },
        "agent": agents,
        "entity": [
            {"role": "source", "what": {"reference": f"{kind}/{logical_id}"}}
            for kind, logical_id in sources
            if logical_id
        ],
    }
    return _present(resource)


def _value(finding: Finding) -> Resource:
    """Present or Absent where the model judged presence; the quantity where all it did was to measure one."""
    if finding.present is not None:
        return {"valueCodeableConcept": _concept(PRESENT if finding.present else ABSENT)}
    if _is_value(finding):
        return {"valueQuantity": _quantity(finding.measurements[0])}
    return {}


def _is_value(finding: Finding) -> bool:
    """Whether all that the model did was to measure one thing."""
    return finding.present is None and len(finding.measurements) == 1


def _components(finding: Finding) -> list[Resource]:
    components: list[Resource] = []
    if finding.probability is not None:
        components.append(
            {
                "code": {**_concept(vocabulary.CERTAINTY), "text": "Probability that the finding is present"},
                "valueQuantity": _ratio(finding.probability),
            }
        )
    if finding.threshold is not None:
        components.append({"code": _concept(vocabulary.THRESHOLD), "valueQuantity": _ratio(finding.threshold)})
    # A measurement that is the value is not told twice; and a component with the Observation's own code may not stand
    # beside a value (R4 obs-7).
    measured = [m for m in finding.measurements if m.code != finding.code and not _is_value(finding)]
    components.extend({"code": _concept(m.code), "valueQuantity": _quantity(m)} for m in measured)
    if finding.laterality:
        components.append(
            {"code": _concept(vocabulary.LATERALITY), "valueCodeableConcept": _concept(finding.laterality)}
        )
    return components


def _modality(context: ReadingContext) -> list[Resource]:
    """R4 has no element for it; as a category it can be searched for and subscribed to."""
    return [{"system": DCM, "code": context.modality}] if context.modality else []


def _interpretation(finding: Finding, reading: Reading) -> list[Resource]:
    if finding.present is None:
        return []
    codes = [("POS", "Positive") if finding.present else ("NEG", "Negative")]
    if finding.critical and finding.present and reading.phase.may_alert:
        codes.append(("AA", "Critical abnormal"))
    system = f"{_HL7}/v3-ObservationInterpretation"
    return [{"coding": [{"system": system, "code": code, "display": display}]} for code, display in codes]


def _ai_kind(code: str, display: str) -> Resource:
    coding = {**_AI_DEVICE_TYPE["coding"][0], "code": code, "display": display}
    url = f"{_AI_TRANSPARENCY}/StructureDefinition/aitransparency.AIKind"
    return {"url": url, "valueCodeableConcept": {"coding": [coding]}}


def _meta(reading: Reading, context: ReadingContext, profile: str, *, ai_asserted: bool = True) -> Resource:
    meta: Resource = {"source": context.base_url, "profile": [f"{PROFILES}/{profile}"]}
    if ai_asserted:
        meta["security"] = [_AI_ASSERTED]
    if context.demo or reading.demo:
        meta["tag"] = [_coding(vocabulary.DEMO)]
    return meta


def _accession_identifier(value: str, issuer: str) -> Resource:
    """An accession number (v2-0203 ACSN); an issuer that is a URI is its system, a plain name its assigner."""
    return {
        "type": {"coding": [{"system": f"{_HL7}/v2-0203", "code": "ACSN", "display": "Accession ID"}]},
        **({"system": issuer} if ":" in issuer else {}),
        "value": plain(value),
        **({"assigner": {"display": plain(issuer)}} if issuer and ":" not in issuer else {}),
    }


def _dicom_uid(uid: str) -> Resource:
    return {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}


def _coding(coded: Coded) -> Resource:
    return _present({"system": coded.system, "code": plain(coded.code), "display": plain(coded.display)})


def _concept(coded: Coded) -> Resource:
    return _present({"coding": [_coding(coded)], "text": plain(coded.display)})


def _ratio(value: Decimal) -> Resource:
    return {"value": value, "unit": "1", "system": UCUM, "code": "1"}


def _quantity(measurement: Measurement) -> Resource:
    return {
        "value": measurement.value,
        "unit": plain(measurement.unit_display),
        "system": UCUM,
        "code": measurement.unit,
    }


def _narrative(*lines: str) -> Resource:
    return {"status": "generated", "div": xhtml("\n".join(lines))}


def _reference(kind: str, logical_id: str | None) -> Resource | None:
    return {"reference": f"{kind}/{logical_id}"} if logical_id else None


def _references(kind: str, logical_id: str | None) -> list[Resource]:
    return [{"reference": f"{kind}/{logical_id}"}] if logical_id else []


def _instant(at: datetime) -> str:
    """FHIR instant or dateTime in UTC. Raises ValueError on a naive time (datetime.astimezone would guess)."""
    if at.tzinfo is None:
        raise ValueError("a naive datetime in a reading or its context")
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _present(resource: Resource) -> Resource:
    """FHIR allows no empty values (R4 2.24.0.1)."""
    return {key: value for key, value in resource.items() if value not in (None, "", [], {})}
