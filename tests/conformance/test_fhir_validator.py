"""The HL7 FHIR validator finds no error in anything that Wetread writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from conformance import backport, validator
from wetread.api.fhir_metadata import SUPPORTED_PROFILES, capability_statement, terminology_capabilities
from wetread.api.fhir_outcome import outcome
from wetread.domain.codes import PROFILES, Coded
from wetread.domain.finding import Finding, Reading
from wetread.domain.identity import AccessionNumber
from wetread.domain.phase import Phase
from wetread.domain.reader import SYSTEM
from wetread.errors import InvalidInput
from wetread.mapping.maps import load
from wetread.mapping.merge import apply_order
from wetread.mapping.orders import ADT_EVENTS, ORDER_EVENTS, map_message
from wetread.mapping.site import Site
from wetread.reading import imaging_study, interpret, tasks
from wetread.reading.models import ModelPackage, load_packages
from wetread.reading.volume import Volume
from wetread.record import bundle, bundle_entry, history, lossless, resources
from wetread.record.audit import audit
from wetread.record.audit.audit import AuditEntry, Entity
from wetread.record.audit.kinds import KINDS
from wetread.record.search import search
from wetread.record.subscriptions import notifications
from wetread.results import fhir
from wetread.results.context import ObjectRef, ReadingContext
from wetread.store.database import Database
from wetread.wire import dicom, hl7

pytestmark = pytest.mark.conformance

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "data" / "hl7v2"
HEADERS = ROOT / "tests" / "data" / "results"
BASE = "https://wetread.example/fhir"
AT = datetime(2026, 3, 1, 23, 30, 0, 250000, tzinfo=UTC)
SR = ObjectRef("2.25.11", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.12")
SEG = ObjectRef("2.25.21", "1.2.840.10008.5.1.4.1.1.66.4", "2.25.22")
LEFT = Coded("7771000", "http://snomed.info/sct", "Left")

Resource = dict[str, Any]


def without_error(made: Mapping[str, str | bytes | Resource]) -> None:
    assert made
    no_error_in(validator.validate_resources(made))


def no_error_in(issues: Sequence[validator.Issue]) -> None:
    told = validator.errors(issues)
    assert not told, "\n".join(told)


# The validator itself, so that silence means something.


def test_it_tells_a_wrong_resource_from_a_right_one() -> None:
    right: Resource = {"resourceType": "Observation", "status": "preliminary", "code": {"text": "Volume"}}
    wrong: Mapping[str, Resource] = {
        "an unknown code": {**right, "status": "nearly"},
        "an unknown element": {**right, "performed": "2026"},
        "a target of the wrong type": {**right, "subject": {"reference": "Observation/1"}},
        "an unknown code of ours": {**right, "code": {"coding": [{"system": _own_system(), "code": "no-such"}]}},
        "an extension of ours without its value": {**right, "extension": [{"url": _own_extension()}]},
        "an unknown extension": {**right, "modifierExtension": [{"url": "https://wetread.org/x", "valueString": "x"}]},
        "an unknown payload content": _subscription("https://wetread.org/fhir/SubscriptionTopic/t", content="most"),
        "a broken invariant": {**right, "component": [{"code": {"text": "Volume"}, "valueString": ""}]},
    }
    issues = validator.validate_resources({"right": right, **wrong})
    assert {issue.file for issue in issues if issue.is_error} == set(wrong)


def _own_system() -> str:
    return str(json.loads((ROOT / "conformance/codesystem-wetread.json").read_text())["url"])


def _own_extension() -> str:
    return str(json.loads((ROOT / "conformance/structuredefinition-original-code.json").read_text())["url"])


def test_our_own_definitions() -> None:
    no_error_in(validator.validate(validator.definitions()))
    without_error({definition["id"]: definition for definition in backport.definitions()})


# What is read: every shipped model, and every shape that a reading may take.


def test_the_results_of_every_shipped_model() -> None:
    packages = load_packages(ROOT / "models")
    assert len(packages) >= 4
    made: dict[str, str] = {}
    for package in packages.values():
        sources, findings = _read(package)
        assert findings
        for present, phase in ((True, Phase.ACTIVE), (False, Phase.CONCURRENT)):
            told = [replace(f, present=f.present and present, critical=f.critical and present) for f in findings]
            reading = _reading(sources, told, model=package.identity, phase=phase)
            made |= _documents(f"{package.name} {phase} ", reading, _context(sources))
    without_error(made)


def test_the_results_of_every_shape_of_reading() -> None:
    head, film = _headers("ct_head"), _headers("chest_pa_header.dcm")
    [package] = [p for p in load_packages(ROOT / "models").values() if p.name == "cxr-pneumonia-peds"]
    _, [finding] = _read(package)
    sided = replace(finding, laterality=LEFT, probability=Decimal("0.8"), outline=((1.0, 1.0), (9.5, 1.0), (9.0, 9.0)))
    bare = Finding("bare", finding.code)
    model = replace(package.identity, synthetic=True)
    shapes: dict[str, tuple[Reading, ReadingContext]] = {
        "sided": (_reading(film, [sided], model=model), _context(film)),
        "silent": (_reading(film, [bare], model=model), _context(film)),
        "no finding": (_reading(film, [], model=model), _context(film)),
        "warned": (_reading(head, [bare], model=model, warnings=("Gaps are uneven.",)), _context(head)),
        "demonstration": (_reading(film, [finding], model=model, demo=True), _context(film, demo=True)),
        "second revision": (
            _reading(film, [finding], model=model, revision=2),
            _context(film, previous_sr_uid="2.25.9"),
        ),
        "without order": (
            _reading(film, [finding], model=model),
            _context(film, service_request_id=None, task_id=None, accession=None, started=None, organization=""),
        ),
        "in a visit": (
            _reading(film, [finding], model=model),
            _context(film, encounter_id="visit-1", procedure=finding.code, body_site=finding.body_site),
        ),
    }
    made: dict[str, str] = {}
    for name, (reading, context) in shapes.items():
        made |= _documents(f"{name} ", reading, context)
        made |= _documents(f"{name}, no DICOM ", reading, context, sr=None, seg=None)
    without_error(made)


def _headers(name: str) -> list[Dataset]:
    path = HEADERS / name
    files = sorted(path.glob("*.dcm")) if path.is_dir() else [path]
    return [pydicom.dcmread(file, stop_before_pixels=True) for file in files]


def _read(package: ModelPackage) -> tuple[list[Dataset], tuple[Finding, ...]]:
    """What this package's manifest makes of outputs that say yes to everything."""
    manifest = package.manifest
    if manifest.segments:
        sources = _headers("ct_head")
        frames = np.ones((len(sources), 64, 64), dtype=np.bool_)
        volume = Volume(
            values=frames.astype(np.float32),
            positions_mm=np.array([[0, 0, 5.0 * n] for n in range(len(sources))]),
            row_direction=np.array([1.0, 0, 0]),
            column_direction=np.array([0, 1.0, 0]),
            pixel_spacing_mm=(3.0, 3.0),
            sop_instance_uids=tuple(s.SOPInstanceUID for s in sources),
            modality="CT",
        )
        return sources, interpret.volume_findings({s.number: frames for s in manifest.segments}, manifest, volume)
    sources = _headers("chest_pa_header.dcm")
    outputs = {output.name: np.array([[0.93]]) for output in manifest.outputs}
    return sources, interpret.film_findings(outputs, manifest, sources[0].SOPInstanceUID)


def _reading(sources: Sequence[Dataset], findings: Sequence[Finding], **changed: Any) -> Reading:
    values: dict[str, Any] = {
        "run_id": "run-1",
        "study_instance_uid": sources[0].StudyInstanceUID,
        "series_instance_uid": sources[0].SeriesInstanceUID,
        "revision": 1,
        "phase": Phase.ACTIVE,
        "findings": tuple(findings),
        "source_instances": tuple(s.SOPInstanceUID for s in sources),
        "read_at": AT,
        "runtime": "onnxruntime CPUExecutionProvider",
        "duration_ms": 812,
    }
    return Reading(**(values | changed))


def _context(sources: Sequence[Dataset], **changed: Any) -> ReadingContext:
    values: dict[str, Any] = {
        "base_url": BASE,
        "patient_id": "patient-1",
        "imaging_study_id": "study-1",
        "service_request_id": "order-1",
        "encounter_id": None,
        "device_id": "device-1",
        "task_id": "task-1",
        "study_instance_uid": sources[0].StudyInstanceUID,
        "accession": AccessionNumber("ACC-1", "urn:oid:1.2.3.4"),
        "started": AT,
        "modality": sources[0].Modality,
        "body_site": None,
        "procedure": None,
        "organization": "Example Hospital",
        "demo": False,
        "previous_sr_uid": None,
    }
    return ReadingContext(**(values | changed))


def _documents(
    name: str, reading: Reading, context: ReadingContext, sr: ObjectRef | None = SR, seg: ObjectRef | None = SEG
) -> dict[str, str]:
    made = fhir.documents(reading, context, sr=sr, seg=seg)
    every = (made.device, *made.observations, made.report, made.provenance)
    return {f"{name}{number} {r['resourceType']}": lossless.dump(r) for number, r in enumerate(every)}


# What arrives: orders and studies.


def test_what_every_sample_message_maps_to() -> None:
    maps = load(ROOT / "mappings", None)
    site = Site(b"a site key of 32 bytes, for tests", maps.authorities, "urn:oid:1.2.3.4", ZoneInfo("Europe/Paris"))
    made: dict[str, Resource] = {}
    for name, message in _messages():
        try:
            mapped = map_message(message, maps, site)
        except InvalidInput:
            continue  # refused with its place: tests/unit/mapping says which, and where
        told = [mapped.patient, *([mapped.encounter] if mapped.encounter else []), *mapped.practitioners]
        for order in mapped.orders:
            orders = [order.service_request, order.task, *apply_order(None, None, order)]
            told += [_claiming(resource) for resource in orders]
        made |= {f"{name} {number} {r['resourceType']}": r for number, r in enumerate(told)}
    assert {name.rsplit(" ", 1)[1] for name in made} == {
        "Patient", "Encounter", "Practitioner", "ServiceRequest", "Task",
    }  # fmt: skip
    without_error(made)


def _claiming(resource: Resource) -> Resource:
    """With the profile that the shipped maps keep; a site's own may not, so that the resource does not say it."""
    [name] = SUPPORTED_PROFILES[resource["resourceType"]]
    return {**resource, "meta": {**resource.get("meta", {}), "profile": [f"{PROFILES}/{name}"]}}


def _messages() -> Iterator[tuple[str, hl7.Message]]:
    for file in sorted([*SAMPLES.glob("*.hl7"), *(ROOT / "demo" / "orders").glob("*.hl7")]):
        try:
            message = hl7.parse(file.read_bytes())
        except InvalidInput:
            continue
        if (message.message_code, message.trigger_event) in ORDER_EVENTS | ADT_EVENTS:
            yield file.stem, message


def test_the_imaging_study_and_the_patient_of_every_header() -> None:
    site = Site(b"a site key of 32 bytes, for tests", {}, "urn:oid:1.2.3.4", ZoneInfo("Europe/Paris"))
    studies = {path.name: _facts(path) for path in sorted(HEADERS.iterdir()) if path.suffix == ".dcm" or path.is_dir()}
    made: dict[str, Resource] = {}
    for name, facts in studies.items():
        identity, accession = imaging_study.identity_of(facts[0], site), imaging_study.accession_of(facts[0], site)
        patient_id = imaging_study.patient_id_of(identity, facts[0].study_instance_uid, site)
        made[f"{name} Patient"] = imaging_study.patient(identity, patient_id)
        for service_request_id, whole in ((None, False), ("order-1", True)):
            made[f"{name} ImagingStudy {whole}"] = imaging_study.imaging_study(
                facts,
                patient_id=patient_id,
                service_request_id=service_request_id,
                encounter_id="visit-1" if whole else None,
                accession=accession,
                started=imaging_study.started(facts[0], site),
                is_complete=whole,
            )
    without_error(made)


def _facts(path: Path) -> list[Any]:
    return [dicom.facts(file) for file in (sorted(path.glob("*.dcm")) if path.is_dir() else [path])]


# What a server keeps and answers.

TASK_STATES = ("requested", "accepted", "in-progress", "on-hold", "completed", "failed", "rejected", "cancelled")


async def test_everything_in_the_database_of_a_server(database: Database, database_url: str) -> None:
    async with database.transaction() as conn:
        for status in TASK_STATES:
            task = tasks.without_order(f"task-{status}", "p1", "s1", "2026-03-01T23:30:00Z")
            await resources.put(conn, _claiming(task))
            await tasks.move(
                conn,
                f"task-{status}",
                status,
                at="2026-03-01T22:31:00+00:00",
                reason="no released model reads a series of this study" if status in ("on-hold", "rejected") else "",
                imaging_study_id="s1",
                inputs=(
                    ("routing-choice", "model m reads it by rule r"),
                    ("routing-refusal", "model n: wrong modality"),
                ),
                outputs=("Observation/o1", "DiagnosticReport/r1") if status == "completed" else None,
            )
        entries = [entry for kind in KINDS for entry in _audited(kind)]
        await audit.write_many(conn, entries)
    issues = validator.validate_store(database_url)
    judged = {issue.file.split("/", 1)[0] for issue in issues}
    assert judged == {"Task", "AuditEvent"}  # each has at least the advice to add a narrative
    no_error_in(issues)


def _audited(kind: str) -> Iterator[AuditEntry]:
    yield AuditEntry(kind, "R", "0", "viewer")
    yield AuditEntry(
        kind=kind,
        action="E",
        outcome="8",
        outcome_text="the peer closed the connection",
        principal="Device/model",
        user="Practitioner/r1",
        network="dicom://pacs:104",
        patient_id="p1",
        entities=(
            Entity(role_code="24", query=b"GET /fhir/Patient?name=\xff", description="search"),
            Entity(what="ImagingStudy/s1", identifier="urn:oid:1.2.3", detail={"series": "1.2.3.4"}),
        ),
        detail={"model": "sha256:00", "runtime": ""},
        request_id="76d148b6",
        governance_only=True,
    )


async def test_the_bundles_that_the_fhir_face_answers(database: Database) -> None:
    task = tasks.without_order("t1", "p1", "s1", "2026-03-01T23:30:00Z")
    wanted = {"resourceType": "Bundle", "type": "transaction", "entry": [
        {"fullUrl": "urn:uuid:6b1c5f3e-7f0f-4f5b-9d5e-0c5f0a7b6a11", "resource": {"resourceType": "Patient"},
         "request": {"method": "POST", "url": "Patient"}},
        {"resource": task, "request": {"method": "PUT", "url": "Task/t1"}},
    ]}  # fmt: skip
    async with database.transaction() as conn:
        await resources.put(conn, task)
        await resources.delete(conn, SYSTEM, "Task", "t1")
        request = await bundle_entry.read(lossless.dump(wanted))
        done = await bundle.transact(conn, SYSTEM, request.entries, bundle.Manner(BASE))
        found = await search.search(
            conn, SYSTEM, search.SearchRequest("Task", [("_count", "1"), ("no-such", "1")], BASE)
        )
        none = await search.search(conn, SYSTEM, search.SearchRequest("Task", [("_id", "none")], BASE))
        lived = await history.of_resource(conn, SYSTEM, "Task", "t1", [], BASE)
    texts = [one.text for one in done]
    without_error({
        "transaction-response": bundle.response(texts, is_transaction=True),
        "batch-response": bundle.response(texts, is_transaction=False),
        "searchset": found.body,
        "empty searchset": none.body,
        "history": lived.body,
        "metadata": capability_statement(BASE, AT, topics=["https://wetread.org/fhir/SubscriptionTopic/task-status"]),
        "metadata?mode=terminology": terminology_capabilities(BASE, AT),
        "refusal": outcome(InvalidInput("it must be a date", location="Patient.birthDate")),
    })  # fmt: skip


def test_a_subscription_and_what_its_subscriber_is_sent() -> None:
    topic = "https://wetread.org/fhir/SubscriptionTopic/ai-observation"
    body = lossless.dump(
        {
            "resourceType": "Observation",
            "id": "o1",
            "meta": {"versionId": "1"},
            "status": "preliminary",
            "code": {"text": "Volume"},
        }
    )
    made: dict[str, str | bytes | Resource] = {"requested": _subscription(topic)}
    for content in ("empty", "id-only", "full-resource"):
        sent = body if content == "full-resource" else ""
        later = sent.replace('"versionId":"1"', '"versionId":"2"')
        device = '{"resourceType":"Device","id":"d1"}' if sent else ""
        context = (notifications.Context("Device/d1", device),)
        events = [
            notifications.NotifiedEvent(1, AT, "Observation", "o1", "create", sent, 1, context=context),
            notifications.NotifiedEvent(2, AT, "Observation", "o1", "update", later, 2),
            notifications.NotifiedEvent(3, AT, "Observation", "o2", "delete"),
        ]
        for kind, count, told in (("handshake", 0, []), ("heartbeat", 2, []), ("event-notification", 3, events)):
            state = "requested" if kind == "handshake" else "active"
            status = notifications.StatusOf("sub-1", topic, content, state, count)
            made[f"{content} {kind}"] = notifications.notification(BASE, kind, status, AT, told)
        failed = notifications.StatusOf("sub-1", topic, content, "error", 2, error="the endpoint answered 404")
        made[f"{content} status"] = notifications.status_bundle(BASE, [failed])
    without_error(made)


def _subscription(topic: str, content: str = "id-only") -> Resource:
    def extension(name: str, **value: Any) -> Resource:
        return {"url": f"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-{name}", **value}

    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "AI results into the reading room",
        "criteria": topic,
        "_criteria": {"extension": [extension("filter-criteria", valueString="Observation?patient=Patient/p1")]},
        "channel": {
            "type": "rest-hook",
            "endpoint": "http://127.0.0.1:9/hook",
            "payload": "application/fhir+json",
            "_payload": {"extension": [extension("payload-content", valueCode=content)]},
            "extension": [extension("timeout", valueUnsignedInt=20), extension("max-count", valuePositiveInt=5)],
        },
    }
