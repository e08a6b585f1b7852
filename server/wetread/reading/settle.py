"""Settle: when a study is complete, the routing rules say which models read which of its series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from wetread.archive import instances
from wetread.domain.phase import Phase
from wetread.domain.reader import SYSTEM
from wetread.domain.routing import Choice, Routing, RoutingRule, route
from wetread.domain.study import CompletenessRule, MatchState, StudyState, completeness
from wetread.governance.phases import phase_of
from wetread.mapping.site import Site
from wetread.reading import orders, runs, studies, tasks
from wetread.reading.conclusion import NOT_READ
from wetread.reading.imaging_study import current
from wetread.reading.joining import Joining
from wetread.reading.models import ModelPackage
from wetread.reading.routing import series_facts
from wetread.reading.steps import INFER
from wetread.reading.studies import Study
from wetread.record import resources
from wetread.record.audit import audit
from wetread.store.database import Connection, Database
from wetread.work.jobs import Payload, Work

_MOST_REFUSALS = 20
_SOON = timedelta(seconds=0.1)


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
            if await instances.are_waiting(conn, study.study_instance_uid):
                return now + _SOON
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
        phases = {name: await self._phase(conn, name) for rule in self.rules for name in rule.models}
        facts = series_facts(received, order)
        # Apart, so that the reasons which are shown are the same with a silent model as without it.
        released = route(self._rules_of(phases, released=True), facts)
        silent = route(self._rules_of(phases, released=False), facts)
        for choice in (*released.choices, *silent.choices):
            await self._queue(conn, study, choice, phases[choice.model])
        state = StudyState.COMPLETE if released.choices else StudyState.READ
        detail = {"why": why, "revision": str(study.revision), "instances": str(study.instance_count)}
        study = replace(study, state=state, completed_at=now, completed_why=why)
        if study.critical and not released.choices:
            # What it was marked for stood in a revision that has passed, and nobody will look at this one.
            study = replace(study, critical=False, critical_reason="")
            detail["mark-taken-back"] = NOT_READ
        await studies.update(conn, study)
        await self._tell(conn, study, released, now)
        await audit.write(conn, studies.audit_entry("study-completed", study, detail))

    async def _phase(self, conn: Connection, model: str) -> Phase:
        identity = self.packages[model].identity
        return await phase_of(conn, identity.name, identity.digest, self.default_phase)

    def _rules_of(self, phases: Mapping[str, Phase], *, released: bool) -> list[RoutingRule]:
        """The rules as if only the released models were installed, or only the silent ones."""
        kept = [
            replace(rule, models=tuple(m for m in rule.models if phases[m].is_released is released))
            for rule in self.rules
        ]
        return [rule for rule in kept if rule.models]

    async def _queue(self, conn: Connection, study: Study, choice: Choice, phase: Phase) -> None:
        run_id = await runs.queue(
            conn,
            study.study_instance_uid,
            choice.series_instance_uid,
            study.revision,
            self.packages[choice.model].identity,
            phase,
            choice.rule,
        )
        await self.work.enqueue(conn, INFER, {"run_id": run_id}, key=f"infer:{run_id}", priority=study.priority)

    async def _tell(self, conn: Connection, study: Study, released: Routing, now: datetime) -> None:
        """Lays choice and reasons on the Task; that of a held study stays on hold."""
        held = study.match_state is MatchState.HELD
        if released.choices:
            inputs = [
                ("routing-choice", f"{c.model} reads series {c.series_instance_uid} by rule {c.rule!r}")
                for c in released.choices
            ]
            status, reason = "in-progress", ""
        else:
            inputs = [("routing-refusal", text) for text in released.refusals[:_MOST_REFUSALS]]
            status, reason = "rejected", NOT_READ
            if await runs.of_task(conn, study.task_id):
                # Another study of the same order is read: the order's Task tells of that one.
                return
        await tasks.move(
            conn,
            study.task_id,
            "on-hold" if held else status,
            at=now.isoformat(),
            reason=study.match_reason if held else reason,
            imaging_study_id=study.id,
            inputs=inputs,
            reopen=bool(released.choices) and study.revision > 1,
        )
