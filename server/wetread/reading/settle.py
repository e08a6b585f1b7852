"""Settle: when a study is complete, the routing rules say which models read which of its series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from wetread.archive import instances
from wetread.domain.phase import Phase
from wetread.domain.reader import SYSTEM
from wetread.domain.routing import Choice, RoutingRule, route
from wetread.domain.study import CompletenessRule, MatchState, StudyState, completeness
from wetread.governance.phases import phase_of
from wetread.mapping.site import Site
from wetread.reading import orders, runs, studies, tasks
from wetread.reading.imaging_study import current
from wetread.reading.joining import Joining
from wetread.reading.models import ModelPackage
from wetread.reading.routing import series_facts
from wetread.reading.steps import INFER
from wetread.reading.studies import Study
from wetread.record import audit, resources
from wetread.store.database import Connection, Database
from wetread.work.jobs import Payload, Work

_MOST_REFUSALS = 20


@dataclass(frozen=True)
class Settle:
    database: Database
    work: Work
    site: Site
    rules: Sequence[RoutingRule]
    packages: Mapping[str, ModelPackage]
    joining: Joining
    completeness_rule: CompletenessRule
    default_phase: Phase

    async def __call__(self, payload: Payload) -> datetime | None:
        """Completes the study of the payload, or says when to ask again. A revision that has passed is let be."""
        async with self.database.transaction() as conn:
            study = await studies.lock(conn, await studies.uid_of(conn, payload["study_id"]))
            if study is None or study.state is not StudyState.RECEIVING or study.revision != payload["revision"]:
                return None
            now = datetime.now(UTC)
            verdict = completeness(self.completeness_rule, study.arrived, now)
            if isinstance(verdict, datetime):
                return verdict
            await self._complete(conn, study, verdict, now)
        return None

    async def _complete(self, conn: Connection, study: Study, why: str, now: datetime) -> None:
        if study.service_request_id is None and study.match_state is not MatchState.HELD:
            # An order and its study that came in the same moment have not seen each other.
            study = await self.joining.join(conn, study)
        received = await instances.received_of_study(conn, SYSTEM, study.study_instance_uid)
        order = await orders.by_id(conn, study.service_request_id) if study.service_request_id else None
        await resources.put(conn, await current(conn, study, received, self.site, is_complete=True))
        await runs.supersede(conn, study.study_instance_uid, study.revision)
        routing = route(self.rules, series_facts(received, order))
        released = [c for c in routing.choices if await self._queue(conn, study, c)]
        state = StudyState.COMPLETE if released else StudyState.READ
        study = replace(study, state=state, completed_at=now, completed_why=why)
        await studies.update(conn, study)
        if study.match_state is not MatchState.HELD:
            await self._tell(conn, study, released, routing.refusals, now)
        detail = {"why": why, "revision": str(study.revision), "instances": str(study.instance_count)}
        await audit.write(conn, studies.audit_entry("study-completed", study, detail))

    async def _queue(self, conn: Connection, study: Study, choice: Choice) -> bool:
        """Queues the run; true where its results may be seen."""
        package = self.packages[choice.model]
        phase = await phase_of(conn, package.name, package.identity.digest, self.default_phase)
        run_id = await runs.queue(
            conn,
            study.study_instance_uid,
            choice.series_instance_uid,
            study.revision,
            package.identity,
            phase,
            choice.rule,
        )
        await self.work.enqueue(conn, INFER, {"run_id": run_id}, key=f"infer:{run_id}", priority=study.priority)
        return phase.is_released

    async def _tell(
        self, conn: Connection, study: Study, released: Sequence[Choice], refusals: Sequence[str], now: datetime
    ) -> None:
        at = now.isoformat()
        if released:
            inputs = [
                ("routing-choice", f"{c.model} reads series {c.series_instance_uid} by rule {c.rule!r}")
                for c in released
            ]
            await tasks.move(
                conn,
                study.task_id,
                "in-progress",
                at=at,
                imaging_study_id=study.id,
                inputs=inputs,
                reopen=study.revision > 1,
            )
        else:
            inputs = [("routing-refusal", text) for text in refusals[:_MOST_REFUSALS]]
            reason = "no released model reads a series of this study"
            await tasks.move(
                conn, study.task_id, "rejected", at=at, imaging_study_id=study.id, reason=reason, inputs=inputs
            )
