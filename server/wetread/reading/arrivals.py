"""The one door in: what was received becomes orders, studies and work.

Receiving is hot and has happened already (`intake`, C-STORE, STOW-RS): here, after the answer, each message is mapped
and each study noticed, one transaction each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from wetread.archive import instances, performed
from wetread.domain.identity import AccessionNumber, PatientIdentity
from wetread.domain.keys import fhir_id
from wetread.domain.priority import Priority
from wetread.domain.reader import SYSTEM
from wetread.domain.study import CompletenessRule, InstanceFacts, MatchState, StudyState, completeness
from wetread.errors import NotFound, Refused, Unreachable
from wetread.mapping.identify import find_keys, identify
from wetread.mapping.merge import apply_order, merge
from wetread.mapping.model import Maps
from wetread.mapping.orders import Mapped, MappedOrder, OrderAction, PatientMode, map_message
from wetread.mapping.site import Site
from wetread.reading import imaging_study, inbox, orders, studies, tasks
from wetread.reading.imaging_study import current
from wetread.reading.joining import Joining
from wetread.reading.orders import Order
from wetread.reading.steps import SETTLE
from wetread.reading.studies import Study
from wetread.record import resources
from wetread.record.audit import audit
from wetread.store.database import Connection, Database
from wetread.wire import hl7
from wetread.work.jobs import Work

logger = logging.getLogger(__name__)

_GATHER_FOR = timedelta(seconds=0.5)
_POLL_S = 0.05
"""An empty poll is one index lookup. NOTIFY would wake us sooner, but it serialises the commits of the hot paths."""


@dataclass(frozen=True)
class Arrivals:
    """Maps messages and notices studies. Any number of processes may do so beside each other."""

    database: Database
    work: Work
    maps: Maps
    site: Site
    joining: Joining
    completeness_rule: CompletenessRule

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`, by polling."""
        kinds = (self.map_next, self.notice_next, self.take_in_performed_step)
        await asyncio.gather(*(self._loop(kind, stop) for kind in kinds))

    async def _loop(self, once: Callable[[], Awaitable[bool]], stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                while await once() and not stop.is_set():
                    pass
            except Unreachable:
                logger.warning("%s waits for the database", once.__name__)
            except Exception:
                logger.exception("%s failed and will be tried again", once.__name__)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _POLL_S)

    async def map_next(self) -> bool:
        """Maps the next message that nothing holds up; false when there is none.

        A message that cannot be mapped is put in error with its reason: its sender has its AA and is not told later.
        """
        message_id = None
        try:
            async with self.database.transaction() as conn:
                claimed = await inbox.claim(conn)
                if claimed is None:
                    return False
                message_id, raw = claimed
                await self._map(conn, message_id, raw)
                await inbox.settle(conn, message_id)
        except Unreachable:
            raise
        except Exception as error:
            if message_id is None:
                raise
            await self._put_in_error(message_id, error)
        return True

    async def _put_in_error(self, message_id: int, error: Exception) -> None:
        """The alarm: an error log line, the error list and an AuditEvent; the text names places, never content."""
        known = isinstance(error, Refused)
        reason = (
            f"{error.location or 'message'}: {error.message}" if isinstance(error, Refused) else type(error).__name__
        )
        logger.error("HL7v2 message %d could not be mapped: %s", message_id, reason, exc_info=None if known else error)
        async with self.database.transaction() as conn:
            await inbox.settle(conn, message_id, error=reason)
            await audit.write(
                conn,
                audit.AuditEntry(
                    kind="message-refused",
                    action="C",
                    outcome="8",
                    principal="hl7v2",
                    outcome_text=reason,
                    detail={"message": str(message_id)},
                ),
            )

    async def _map(self, conn: Connection, message_id: int, raw: bytes) -> None:
        message = hl7.parse(raw)
        identified = identify(message, self.site)
        patient_id = await self._known_patient(conn, identified.patient)
        if not identified.patient.identifiers:
            patient_id = await self._patient_of_orders(conn, message)
        mapped = map_message(message, self.maps, self.site, patient_id=patient_id)
        if identified.patient.identifiers:
            await self._write_people(conn, mapped, message)
        for order in mapped.orders:
            await self._write_order(conn, message_id, identified.patient, mapped, order)
        kind = "order-received" if mapped.orders else "patient-changed"
        entities = tuple(audit.Entity(f"ServiceRequest/{o.service_request['id']}") for o in mapped.orders)
        await audit.write(
            conn,
            audit.AuditEntry(
                kind=kind,
                action="C" if mapped.orders else "U",
                outcome="0",
                principal="hl7v2",
                patient_id=mapped.patient_id,
                entities=entities,
                detail={"message": str(message_id), "control-id": message.control_id},
            ),
        )

    async def _known_patient(self, conn: Connection, identity: PatientIdentity) -> str | None:
        """The stored Patient that bears any of these identifiers; the chief one is asked first."""
        for identifier in identity.identifiers:
            token = f"{identifier.authority}|{identifier.value}"
            found = await resources.find(conn, SYSTEM, "Patient", [("identifier", token)])
            if found:
                return found[0].id
        return None

    async def _patient_of_orders(self, conn: Connection, message: hl7.Message) -> str:
        for keys in find_keys(message, self.site):
            order = await orders.by_numbers(conn, keys.numbers)
            if order is not None:
                return order.patient_id
        raise NotFound("the message names no patient, and no stored order has its numbers", location="ORC^1^2")

    async def _write_people(self, conn: Connection, mapped: Mapped, message: hl7.Message) -> None:
        for resource in (mapped.patient, mapped.encounter, *mapped.practitioners):
            if resource is None:
                continue
            mode: PatientMode = (
                "create-if-absent" if resource["resourceType"] == "Practitioner" else mapped.patient_mode
            )
            stored = await _stored(conn, resource["resourceType"], resource["id"])
            await resources.put(conn, merge(stored, resource, mode=mode, message=message, maps=self.maps))

    async def _write_order(
        self, conn: Connection, message_id: int, identity: PatientIdentity, mapped: Mapped, order: MappedOrder
    ) -> None:
        known = await orders.by_numbers(conn, order.numbers)
        if known is None and order.action is OrderAction.NONE:
            return
        answering = await self._locked(conn, await studies.answering(conn, known.service_request_id) if known else ())
        request_id = known.service_request_id if known else order.service_request["id"]
        task_id = known.task_id if known else order.task["id"]
        request, task = apply_order(
            await _stored(conn, "ServiceRequest", request_id), await _stored(conn, "Task", task_id), order
        )
        await resources.put(conn, request)
        await resources.put(conn, task)
        accession = order.accession or AccessionNumber("")
        row = Order(
            service_request_id=request["id"],
            task_id=task["id"],
            patient_id=mapped.patient_id,
            encounter_id=mapped.encounter["id"] if mapped.encounter else None,
            placer=order.placer,
            filler=order.filler,
            accession_number=accession.value,
            accession_issuer=accession.issuer,
            study_instance_uid=order.study_instance_uid,
            identity=identity,
            priority=Priority.of(request.get("priority", "")),
            modality=order.modality,
            patient_class=order.patient_class,
            ordering_location=order.ordering_location,
            status=request["status"],
            message_id=message_id,
        )
        await orders.put(conn, row, order.numbers)
        for study in answering:
            if study.priority != row.priority:
                await studies.update(conn, replace(study, priority=row.priority))
        for study in await self._locked(
            conn, await studies.waiting_for(conn, order.study_instance_uid, accession.value)
        ):
            if study.service_request_id is None:
                await self.joining.join(conn, study)

    async def _locked(self, conn: Connection, study_uids: Sequence[str]) -> list[Study]:
        found = [await studies.lock(conn, uid) for uid in study_uids]
        return [study for study in found if study is not None]

    async def notice_next(self) -> bool:
        """Takes in the new instances of one study; false when there are none."""
        async with self.database.transaction() as conn:
            waiting = await instances.arrivals(conn, 1, gather_for=_GATHER_FOR)
        if not waiting:
            return False
        async with self.database.transaction() as conn:
            study = await studies.lock(conn, waiting[0])
            taken = await instances.take(conn, waiting[0])
            if taken is not None:
                await self._notice(conn, study, taken.instances, taken.last_at)
        return True

    async def take_in_performed_step(self) -> bool:
        """Lets a growing study know how many instances its modality has made; false when there is nothing to tell."""
        async with self.database.transaction() as conn:
            study_uid = await performed.ended_of_known_study(conn)
        if study_uid is None:
            return False
        async with self.database.transaction() as conn:
            study = await studies.lock(conn, study_uid)
            await performed.take(conn, study_uid)
            expected = await performed.announced(conn, study_uid)
            if study is not None and study.state is StudyState.RECEIVING and expected is not None:
                study = replace(study, expected_count=expected)
                await studies.update(conn, study)
                await self._enqueue_settle(conn, study, study.last_at)
        return True

    async def _notice(
        self, conn: Connection, known: Study | None, new: tuple[InstanceFacts, ...], now: datetime
    ) -> None:
        study = known or await self._new_study(conn, new[0], now)
        if known is not None and known.state is not StudyState.RECEIVING:
            study = replace(
                study,
                revision=study.revision + 1,
                state=StudyState.RECEIVING,
                declared_complete=False,
                reopened_at=now,
            )
            await audit.write(conn, studies.audit_entry("study-reopened", study, {"revision": str(study.revision)}))
        made = await performed.announced(conn, study.study_instance_uid)
        announced = [f.images_in_acquisition for f in new if f.images_in_acquisition]
        study = replace(
            study,
            last_at=now,
            instance_count=study.instance_count + len(new),
            expected_count=made or max([*announced, study.expected_count or 0]) or None,
            modalities=tuple(sorted({*study.modalities, *(f.modality for f in new if f.modality)})),
            completed_at=None,
            error=None,
        )
        await (studies.update(conn, study) if known else studies.insert(conn, study))
        if study.service_request_id is None and study.match_state is not MatchState.HELD:
            study = await self.joining.join(conn, study)
        if study.service_request_id is None:
            await self._stand_in_for_order(conn, study, now)
        await self._write_growing(conn, study)
        await audit.write(conn, studies.audit_entry("instance-stored", study, {"instances": str(len(new))}))
        await self._enqueue_settle(conn, study, now)

    async def _stand_in_for_order(self, conn: Connection, study: Study, now: datetime) -> None:
        """The Patient and the Task of a study that has no order, or none that is certain."""
        if await _stored(conn, "Patient", study.patient_id) is None:
            await resources.put(conn, imaging_study.patient(study.identity, study.patient_id))
        if await _stored(conn, "Task", study.task_id) is None:
            task = tasks.without_order(study.task_id, study.patient_id, study.id, now.isoformat())
            if study.match_state is MatchState.HELD:
                task |= {"status": "on-hold", "statusReason": {"text": study.match_reason}}
            await resources.put(conn, task)

    async def _enqueue_settle(self, conn: Connection, study: Study, now: datetime) -> None:
        """One step waits out the quiet period; a second goes at once where the last expected instance has come."""
        when = completeness(self.completeness_rule, study.arrived, now)
        at_once = isinstance(when, str)
        await self.work.enqueue(
            conn,
            SETTLE,
            {"study_id": study.id, "revision": study.revision},
            key=f"settle:{study.id}:{study.revision}:{study.instance_count if at_once else 'quiet'}",
            at=None if isinstance(when, str) else when,
            priority=study.priority,
        )

    async def _new_study(self, conn: Connection, facts: InstanceFacts, now: datetime) -> Study:
        """A study nobody knew, with the id of the patient that its header tells of: a stored one's, or a new one."""
        uid = facts.study_instance_uid
        identity = imaging_study.identity_of(facts, self.site)
        accession = imaging_study.accession_of(facts, self.site)
        trusted = replace(identity, identifiers=tuple(i for i in identity.identifiers if i.authority))
        patient_id = await self._known_patient(conn, trusted)
        if patient_id is None:
            patient_id = imaging_study.patient_id_of(identity, uid, self.site)
        return Study(
            study_instance_uid=uid,
            id=imaging_study.imaging_study_id(uid),
            state=StudyState.RECEIVING,
            revision=1,
            patient_id=patient_id,
            identity=identity,
            accession_number=accession.value,
            accession_issuer=accession.issuer,
            modalities=(),
            description=facts.study_description,
            study_date=facts.study_date,
            service_request_id=None,
            task_id=fhir_id("study-task", uid),
            match_state=MatchState.NONE,
            match_reason="",
            candidates=(),
            first_at=now,
            last_at=now,
            instance_count=0,
            expected_count=None,
            declared_complete=False,
            completed_at=None,
            completed_why="",
            priority=0,
            critical=False,
            critical_reason="",
            error=None,
        )

    async def _write_growing(self, conn: Connection, study: Study) -> None:
        received = await instances.received_of_study(conn, SYSTEM, study.study_instance_uid)
        await resources.put(conn, await current(conn, study, received, self.site, is_complete=False))


async def _stored(conn: Connection, resource_type: str, resource_id: str) -> dict[str, Any] | None:
    try:
        return (await resources.read(conn, SYSTEM, resource_type, resource_id)).resource()
    except NotFound:
        return None
