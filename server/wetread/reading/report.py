"""Report: one answer becomes every document that its readers speak, and the deliveries of them, in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pydicom

from wetread.archive import instances
from wetread.domain.destination import Destination
from wetread.domain.finding import Reading
from wetread.domain.identity import AccessionNumber
from wetread.domain.keys import control_id, fhir_id
from wetread.domain.phase import Phase
from wetread.domain.reader import SYSTEM
from wetread.domain.study import InstanceFacts, MatchState, StudyState
from wetread.errors import InvalidInput, Unsupported
from wetread.governance import silent
from wetread.governance.phases import phase_of
from wetread.mapping.site import Site
from wetread.reading import inbox, orders, outbox, runs, studies
from wetread.reading.conclusion import conclude, mark_critical
from wetread.reading.imaging_study import started
from wetread.reading.infer import unpack_masks
from wetread.reading.orders import Order
from wetread.reading.runs import READING, Run
from wetread.reading.studies import Study
from wetread.record import resources
from wetread.record.audit import audit
from wetread.results import fhir, oru
from wetread.results.context import ReadingContext
from wetread.results.header import normalised
from wetread.results.instance import part10, reference
from wetread.results.presentation import presentation
from wetread.results.seg import seg
from wetread.results.sr import sr
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Connection, Database
from wetread.wire import dicom, hl7
from wetread.work.jobs import Payload, Work

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sender:
    """Who we are in messages: MSH-3, MSH-4, MSH-11, and the name of the organisation."""

    application: str
    facility: str
    processing_id: str
    organization: str


@dataclass(frozen=True)
class _Material:
    """All that the documents of one run are made from, read before any is made."""

    run: Run
    reading: Reading
    study: Study
    order: Order | None
    order_message: bytes | None
    previous_sr_uid: str | None
    keys: dict[str, str]

    @property
    def is_critical(self) -> bool:
        """Whether there is something to alert of, for the first time."""
        found = any(f.critical and f.present for f in self.reading.findings)
        return found and self.reading.phase.may_alert and self.run.sr_uid is None


@dataclass(frozen=True)
class _Documents:
    fhir: fhir.FhirDocuments
    objects: dict[str, bytes]
    """Part 10 files by what they are: sr, seg, pr. Empty when the run had been reported before."""
    sr_uid: str


@dataclass(frozen=True)
class Report:
    database: Database
    work: Work
    blobs: LocalBlobs
    site: Site
    sender: Sender
    destinations: Sequence[Destination]
    base_url: str

    async def __call__(self, payload: Payload) -> None:
        """Makes the documents outside, writes them inside one transaction that first checks that they still hold.

        What is critical goes ahead, in a transaction of its own: who must act does not wait for the SR and the SEG.
        """
        material = await self._material(payload["run_id"])
        if material is None:
            return
        if material.is_critical:
            alerts = await asyncio.to_thread(self._alerts, material)
            async with self.database.transaction() as conn:
                study = await _still_holds(conn, material)
                await mark_critical(conn, study, material.run)
                await self._write_alerts(conn, material, alerts)
                detail = {"run": material.run.id, "critical": "true"}
                await audit.write(conn, studies.audit_entry("result-reported", study, detail))
        documents = await asyncio.to_thread(self._documents, material)
        async with self.database.transaction() as conn:
            study = await _still_holds(conn, material)
            await self._write(conn, material, study, documents)

    async def _material(self, run_id: str) -> _Material | None:
        """None where there is nothing to report: silent, held and superseded runs are put where they belong."""
        async with self.database.transaction() as conn:
            run = await runs.by_id(conn, run_id)
            if run is None or run.reading is None or run.state not in ("done", "reported"):
                return None
            study = await studies.lock(conn, run.study_instance_uid)
            if study is None:
                return None
            run = await _under_todays_phase(conn, run, study)
            if not run.phase.is_released and run.reading is not None:
                content = READING.dump_python(run.reading, mode="json")
                await silent.keep(conn, run.id, run.study_instance_uid, run.model_name, run.model_digest, content)
                await runs.move(conn, run.id, "reported")
                return None
            if run.reading is None:
                return None
            if run.revision != study.revision and study.state is not StudyState.RECEIVING:
                await runs.move(conn, run.id, "superseded")
                return None
            if study.match_state is MatchState.HELD:
                await runs.move(conn, run.id, "held")
                await audit.write(conn, studies.audit_entry("result-held", study, {"reason": study.match_reason}))
                return None
            order = await orders.by_id(conn, study.service_request_id) if study.service_request_id else None
            return _Material(
                run=run,
                reading=run.reading,
                study=study,
                order=order,
                order_message=await inbox.raw(conn, SYSTEM, order.message_id) if order else None,
                previous_sr_uid=_previous_sr_uid(await runs.of_study(conn, run.study_instance_uid), run),
                keys=dict(await instances.keys_of_series(conn, SYSTEM, run.series_instance_uid)),
            )

    def _documents(self, material: _Material) -> _Documents:
        """Pure but for the blobs it reads; half a second of a processor: runs in a thread."""
        reading = material.reading
        files = [self.blobs.path(material.keys[uid]) for uid in reading.source_instances]
        headers = normalised([dicom.read_header(file) for file in files], reading)
        context = self._context(material, dicom.facts(files[0]))
        masks = unpack_masks(self.blobs.get(material.run.mask_key)) if material.run.mask_key else {}
        segmentation = None
        if any(finding.segment for finding in reading.findings):
            segmentation = _where_possible(lambda: seg(reading, context, headers, masks))
        report = sr(reading, context, headers, segmentation)
        made = {"sr": report}
        if segmentation is not None:
            made["seg"] = segmentation
        elif not masks and (state := _where_possible(lambda: presentation(reading, context, headers))) is not None:
            made["pr"] = state
        is_first = material.run.sr_uid is None
        return _Documents(
            fhir=fhir.documents(
                reading,
                context,
                sr=reference(report),
                seg=None if segmentation is None else reference(segmentation),
            ),
            objects={name: part10(dataset) for name, dataset in made.items()} if is_first else {},
            sr_uid=str(report.SOPInstanceUID),
        )

    def _context(self, material: _Material, facts: InstanceFacts) -> ReadingContext:
        study, order = material.study, material.order
        begun = started(facts, self.site)
        return ReadingContext(
            base_url=f"{self.base_url}/fhir",
            patient_id=study.patient_id,
            imaging_study_id=study.id,
            service_request_id=study.service_request_id,
            encounter_id=order.encounter_id if order else None,
            device_id=fhir_id("device", material.reading.model.digest, material.reading.model.config_digest),
            task_id=study.task_id,
            study_instance_uid=study.study_instance_uid,
            accession=_accession(study, order),
            started=datetime.fromisoformat(begun) if "T" in begun else None,
            modality=facts.modality,
            body_site=None,
            procedure=next(iter(facts.procedure_codes), None),
            organization=self.sender.organization,
            demo=material.reading.demo,
            previous_sr_uid=material.previous_sr_uid,
        )

    def _alerts(self, material: _Material) -> dict[str, bytes]:
        """ORU messages by destination."""
        reading = material.reading
        context = self._context(material, dicom.facts(self.blobs.path(material.keys[reading.source_instances[0]])))
        message = hl7.parse(material.order_message) if material.order_message else None
        return {
            destination.name: oru.alert(
                reading,
                context,
                message,
                material.study.identity,
                sending=(self.sender.application, self.sender.facility),
                receiving=(destination.application, destination.facility),
                processing_id=self.sender.processing_id,
                control_id=control_id("alert", destination.name, reading.run_id),
                link=f"{self.base_url}/worklist/{material.study.id}",
            )
            for destination in self.destinations
            if "alert" in destination.sends
        }

    async def _write(self, conn: Connection, material: _Material, study: Study, documents: _Documents) -> None:
        written = documents.fhir
        for resource in (written.device, *written.observations, written.report, written.provenance):
            await resources.put(conn, resource)
        await self._write_objects(conn, material, documents)
        await runs.move(conn, material.run.id, "reported", documents.sr_uid)
        await conclude(conn, study)
        await audit.write(conn, _audit(material, documents))

    async def _write_objects(self, conn: Connection, material: _Material, documents: _Documents) -> None:
        for name, content in documents.objects.items():
            facts = dicom.facts(content)
            await instances.store_produced(conn, self.blobs, facts, content, material.run.id)
            key = f"outbox/{facts.sop_instance_uid}.dcm"
            for destination in self.destinations:
                if name in destination.sends:
                    await asyncio.to_thread(self.blobs.put, key, content)
                    await self._deliver(conn, material, destination, name, key)

    async def _write_alerts(self, conn: Connection, material: _Material, alerts: Mapping[str, bytes]) -> None:
        for destination in self.destinations:
            message = alerts.get(destination.name)
            if message is not None:
                key = f"outbox/{material.run.id}-{destination.name}.hl7"
                control = control_id("alert", destination.name, material.run.id)
                # An attempt before this one may have sent other bytes under this MSH-10: those stay.
                if await self._deliver(conn, material, destination, "alert", key, control):
                    await asyncio.to_thread(self.blobs.put, key, message)

    async def _deliver(
        self,
        conn: Connection,
        material: _Material,
        destination: Destination,
        about: str,
        key: str,
        control: str | None = None,
    ) -> bool:
        return await outbox.add(
            conn,
            self.work,
            destination,
            about,
            [key],
            patient_id=material.study.patient_id,
            run_id=material.run.id,
            control_id=control,
        )

    async def give_up(self, payload: Payload, error: BaseException) -> None:
        """The report cannot be made: the run has failed, and so says the Task."""
        async with self.database.transaction() as conn:
            run = await runs.by_id(conn, payload["run_id"])
            reason = f"the results could not be written ({type(error).__name__})"
            if run is None or not await runs.failed(conn, run.id, reason):
                return
            study = await studies.lock(conn, run.study_instance_uid)
            if study is not None:
                await audit.write(
                    conn,
                    replace(
                        studies.audit_entry("result-reported", study, {"run": run.id}),
                        outcome="8",
                        outcome_text=reason,
                        governance_only=not run.phase.is_released,
                    ),
                )
                if run.phase.is_released:
                    await conclude(conn, study)


async def _still_holds(conn: Connection, material: _Material) -> Study:
    study = await studies.lock(conn, material.study.study_instance_uid)
    run = await runs.by_id(conn, material.run.id)
    if study is None or _basis(study) != _basis(material.study) or run != material.run:
        raise _MovedOnError("study or run changed while it was reported; it is reported anew")
    if run.state == "done" and await _todays_phase(conn, run) is not run.phase:
        raise _MovedOnError("the model was restricted while it was reported; it is reported anew")
    return study


def _basis(study: Study) -> tuple[object, ...]:
    """What the documents take from the study. That it has grown since does not touch them: until the next revision is
    complete, what was read of this one is better than silence."""
    return study.patient_id, study.service_request_id, study.task_id, study.match_state


async def _todays_phase(conn: Connection, run: Run) -> Phase:
    return run.phase.or_stricter(await phase_of(conn, run.model_name, run.model_digest, run.phase))


async def _under_todays_phase(conn: Connection, run: Run, study: Study) -> Run:
    """A model that was restricted after the run was queued lets out what it may now, and never more than it might."""
    phase = await _todays_phase(conn, run)
    if run.state != "done" or phase is run.phase or run.reading is None:
        return run
    await runs.restrict(conn, run.id, phase)
    if await outbox.withdraw_alerts(conn, run.id, "the model may alert no more"):
        entry = studies.audit_entry("result-held", study, {"reason": "the model may alert no more"})
        await audit.write(conn, replace(entry, governance_only=not phase.is_released))
    if not phase.is_released:
        await conclude(conn, study)
    return replace(run, phase=phase, reading=replace(run.reading, phase=phase))


def _where_possible(make: Callable[[], pydicom.Dataset]) -> pydicom.Dataset | None:
    """Some images carry no geometry, or colour: the results go out without this object then."""
    try:
        return make()
    except (Unsupported, InvalidInput) as error:
        logger.warning("a results object cannot be made for these images: %s", error.message)
        return None


class _MovedOnError(Exception):
    """Tried again at once by the job engine."""


def _previous_sr_uid(every: Sequence[Run], run: Run) -> str | None:
    """The SR of the newest earlier revision by the same model over the same series."""
    earlier = [
        r.sr_uid
        for r in every
        if r.revision < run.revision
        and r.sr_uid
        and (r.model_name, r.series_instance_uid) == (run.model_name, run.series_instance_uid)
    ]
    return earlier[-1] if earlier else None


def _accession(study: Study, order: Order | None) -> AccessionNumber | None:
    if study.accession_number:
        return AccessionNumber(
            study.accession_number, study.accession_issuer or (order.accession_issuer if order else "")
        )
    if order is not None and order.accession_number:
        return AccessionNumber(order.accession_number, order.accession_issuer)
    return None


def _audit(material: _Material, documents: _Documents) -> audit.AuditEntry:
    made: list[dict[str, Any]] = [*documents.fhir.observations, documents.fhir.report]
    entry = studies.audit_entry("result-reported", material.study, {"run": material.run.id})
    outputs = tuple(audit.Entity(f"{r['resourceType']}/{r['id']}", role_code="3") for r in made)
    return replace(entry, action="C", entities=(*entry.entities, *outputs))
