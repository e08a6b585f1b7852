"""What a study and its Task come to when the last of its released runs has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from wetread.domain.study import MatchState, StudyState
from wetread.reading import runs, studies, tasks
from wetread.reading.runs import Run
from wetread.reading.studies import Study
from wetread.results import identity
from wetread.store.database import Connection

NOT_READ = "no released model reads a series of this study"


async def conclude(conn: Connection, study: Study) -> Study:
    """Moves study and Task on from the runs of the newest revision. Silent runs never count: they leave no trace."""
    if study.state is StudyState.RECEIVING:
        return study
    of_task = await runs.of_task(conn, study.task_id)
    current = [r for r in of_task if r.study_instance_uid == study.study_instance_uid]
    if current:
        critical, failures = _critical_reason(current, was_marked=study.critical), _failures(current)
        state = study.state if _are_open(current) else StudyState.FAILED if failures else StudyState.READ
        study = replace(
            study, state=state, critical=bool(critical), critical_reason=critical, error="; ".join(failures) or None
        )
        await studies.update(conn, study)
    elif study.critical:
        # The run that it was marked for was taken back from release.
        study = replace(study, critical=False, critical_reason="")
        await studies.update(conn, study)
    if study.match_state is not MatchState.HELD:
        status, reason = _task_state(of_task)
        await tasks.move(
            conn,
            study.task_id,
            status,
            at=datetime.now(UTC).isoformat(),
            reason=reason,
            imaging_study_id=study.id,
            outputs=_outputs(of_task),
            reopen=True,
        )
    return study


async def mark_critical(conn: Connection, study: Study, run: Run) -> None:
    """Moves the study up the worklist for this run's critical findings, ahead of the run's documents."""
    if study.state is not StudyState.RECEIVING:
        of_study = [r for r in await runs.of_task(conn, study.task_id) if r.id != run.id]
        current = [r for r in of_study if r.study_instance_uid == study.study_instance_uid]
        reason = _critical_reason([*current, replace(run, state="reported")])
        await studies.update(conn, replace(study, critical=True, critical_reason=reason))


def _task_state(of_task: Sequence[Run]) -> tuple[str, str]:
    """Status and reason of a Task from the runs of all its studies."""
    failures = "; ".join(_failures(of_task))
    if not of_task:
        return "rejected", NOT_READ
    return "in-progress" if _are_open(of_task) else "failed" if failures else "completed", failures


def _are_open(every: Sequence[Run]) -> bool:
    return any(r.state in ("queued", "done", "held") for r in every)


def _failures(every: Sequence[Run]) -> list[str]:
    return [f"{r.model_name}: {r.error}" for r in every if r.state == "failed"]


def _outputs(current: Sequence[Run]) -> list[str]:
    references = []
    for run in current:
        if run.state == "reported" and run.reading is not None:
            references.append(f"DiagnosticReport/{identity.report_id(run.reading)}")
            references += [f"Observation/{identity.observation_id(run.reading, f)}" for f in run.reading.findings]
    return references


def _critical_reason(current: Sequence[Run], *, was_marked: bool = False) -> str:
    """Only an active model's reported, present, critical findings move the worklist; and those that it was marked for
    while their documents are still made, or could not be made."""
    told = {"reported", "done", "failed"} if was_marked else {"reported"}
    found = [
        f"{finding.code.display} ({run.model_name})"
        for run in current
        if run.state in told and run.phase.may_alert and run.reading is not None
        for finding in run.reading.findings
        if finding.critical and finding.present
    ]
    return ", ".join(found)
