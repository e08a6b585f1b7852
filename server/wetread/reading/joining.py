"""Joins studies to orders, at any time: when the study comes, when the order comes, when the study is complete, and
when a person decides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from wetread.domain import matching
from wetread.domain.identity import AccessionNumber
from wetread.domain.reader import Reader
from wetread.domain.study import MatchState, StudyState
from wetread.errors import Conflict, Forbidden, InvalidInput, NotFound
from wetread.reading import imaging_study, orders, runs, studies, tasks
from wetread.reading.conclusion import conclude
from wetread.reading.steps import REPORT
from wetread.reading.studies import Study
from wetread.record.audit import audit
from wetread.store.database import Connection
from wetread.work.jobs import Work

DECIDING_ROLES = frozenset({"administrator", "radiologist", "engineer"})


@dataclass(frozen=True)
class Joining:
    """The site's rule for matching. Every method expects the study to be held by the caller's transaction."""

    work: Work
    propose_window: timedelta
    match_on_patient: bool

    async def join(self, conn: Connection, study: Study) -> Study:
        """Looks for the study's order, and lays what was found on study and Task. What has been reported already is
        reported again under the order."""
        accession = AccessionNumber(study.accession_number, study.accession_issuer)
        found = await orders.candidates(
            conn, study.study_instance_uid, accession, study.patient_id, self.propose_window
        )
        if study.match_state is MatchState.NONE:
            # A person has ruled these out; only another order can put the question again.
            found = [order for order in found if order.service_request_id not in study.candidates]
        match = matching.match(
            study.study_instance_uid, accession, study.identity, found, match_on_patient=self.match_on_patient
        )
        if match.state is MatchState.MATCHED and match.service_request_id is not None:
            return await self._attach(conn, study, match.service_request_id, match.reason, "wetread")
        if match.state is MatchState.NONE and study.match_state is MatchState.NONE:
            return study
        if (match.state, match.reason, match.candidates) == (study.match_state, study.match_reason, study.candidates):
            return study
        study = replace(study, match_state=match.state, match_reason=match.reason, candidates=match.candidates)
        await studies.update(conn, study)
        if match.state is MatchState.HELD:
            await self._hold(conn, study)
        return study

    async def resolve(
        self, conn: Connection, reader: Reader, study: Study, service_request_id: str | None, reason: str
    ) -> Study:
        """A person decides: this order, or none. Held results are then reported, and a study that no rule has matched
        gets the order that it answers. Raises Forbidden, InvalidInput without a reason, Conflict where nothing is in
        doubt, NotFound."""
        if not reader.roles & DECIDING_ROLES:
            raise Forbidden("resolving a match needs the role radiologist, engineer or administrator")
        if not reason.strip():
            raise InvalidInput("resolving a match needs its reason")
        is_settled = study.match_state is MatchState.MATCHED or (
            study.match_state is MatchState.NONE and service_request_id is None
        )
        if is_settled:
            raise Conflict("nothing is in doubt about this study's order")
        if service_request_id is not None:
            return await self._attach(conn, study, service_request_id, reason, reader.principal)
        was_held = study.match_state is MatchState.HELD
        await self._let_go(conn, study, None)
        study = replace(study, match_state=MatchState.NONE, match_reason=f"no order: {reason}")
        await studies.update(conn, study)
        detail = {"reason": reason, "by": reader.principal}
        await audit.write(conn, studies.audit_entry("match-resolved", study, detail))
        if not was_held:
            return study
        status = "accepted" if study.state is StudyState.RECEIVING else "in-progress"
        await tasks.move(conn, study.task_id, status, at=datetime.now(UTC).isoformat())
        return await self._release(conn, study)

    async def _attach(self, conn: Connection, study: Study, service_request_id: str, reason: str, by: str) -> Study:
        """Patient, Task and priority are now the order's. The Task that stood in for an order ends."""
        order = await orders.by_id(conn, service_request_id)
        if order is None:
            raise NotFound("no order has this id")
        await self._let_go(conn, study, service_request_id)
        at = datetime.now(UTC).isoformat()
        own = await tasks.existing(conn, study.task_id) if study.task_id != order.task_id else None
        if own is not None:
            await tasks.move(conn, study.task_id, "cancelled", at=at, reason="joined to its order", reopen=True)
        study = replace(
            study,
            service_request_id=service_request_id,
            patient_id=order.patient_id,
            task_id=order.task_id,
            priority=order.priority,
            match_state=MatchState.MATCHED,
            match_reason=reason,
            candidates=(service_request_id,),
        )
        await studies.update(conn, study)
        status = "accepted" if study.state is StudyState.RECEIVING else "in-progress"
        inputs = tasks.inputs_of(own) if own is not None else ()
        await tasks.move(conn, order.task_id, status, at=at, imaging_study_id=study.id, inputs=inputs)
        await imaging_study.readdress(conn, study, order)
        await audit.write(conn, studies.audit_entry("match-resolved", study, {"reason": reason, "by": by}))
        return await self._release(conn, study)

    async def _let_go(self, conn: Connection, study: Study, chosen: str | None) -> None:
        """The Tasks of the orders that are not this study's after all wait for theirs again."""
        if study.match_state is not MatchState.HELD:
            return
        for candidate in study.candidates:
            order = await orders.by_id(conn, candidate)
            if order is not None and candidate != chosen:
                await tasks.release(conn, order.task_id, study.match_reason, at=datetime.now(UTC).isoformat())

    async def _hold(self, conn: Connection, study: Study) -> None:
        at = datetime.now(UTC).isoformat()
        found = [await orders.by_id(conn, candidate) for candidate in study.candidates]
        for task_id in (study.task_id, *(order.task_id for order in found if order is not None)):
            await tasks.move(conn, task_id, "on-hold", at=at, reason=study.match_reason)
        await audit.write(conn, studies.audit_entry("result-held", study, {"reason": study.match_reason}))

    async def _release(self, conn: Connection, study: Study) -> Study:
        """Every run that has an answer is reported: held ones for the first time, reported ones again. Where there is
        none, study and Task end here."""
        waits = study.state is StudyState.RECEIVING
        for run in await runs.of_study(conn, study.study_instance_uid):
            if run.revision != study.revision or not run.phase.is_released:
                continue
            waits |= run.state != "failed"
            if run.state in ("held", "reported"):
                if run.state == "held":
                    await runs.move(conn, run.id, "done")
                key = f"report:{run.id}:{study.service_request_id or study.patient_id}"
                await self.work.enqueue(conn, REPORT, {"run_id": run.id}, key=key, priority=study.priority)
        return study if waits else await conclude(conn, study)
