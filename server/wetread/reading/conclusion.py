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


async def conclude(conn: Connection, study: Study) -> Study:
    """Moves study and Task on from the runs of the newest revision. Silent runs never count: they leave no trace."""
    every = await runs.of_study(conn, study.study_instance_uid)
    current = [r for r in every if r.revision == study.revision and r.phase.is_released]
    if not current or study.state is StudyState.RECEIVING:
        return study
    critical = _critical_reason(current)
    failures = [f"{r.model_name}: {r.error}" for r in current if r.state == "failed"]
    open_runs = any(r.state in ("queued", "done", "held") for r in current)
    state = study.state if open_runs else StudyState.FAILED if failures else StudyState.READ
    study = replace(
        study, state=state, critical=bool(critical), critical_reason=critical, error="; ".join(failures) or None
    )
    await studies.update(conn, study)
    if study.match_state is not MatchState.HELD:
        status = "in-progress" if open_runs else "failed" if failures else "completed"
        await tasks.move(
            conn,
            study.task_id,
            status,
            at=datetime.now(UTC).isoformat(),
            reason=study.error or "",
            imaging_study_id=study.id,
            outputs=_outputs(current),
            reopen=True,
        )
    return study


def _outputs(current: Sequence[Run]) -> list[str]:
    references = []
    for run in current:
        if run.state == "reported" and run.reading is not None:
            references.append(f"DiagnosticReport/{identity.report_id(run.reading)}")
            references += [f"Observation/{identity.observation_id(run.reading, f)}" for f in run.reading.findings]
    return references


def _critical_reason(current: Sequence[Run]) -> str:
    """Only an active model's reported, present, critical findings move the worklist."""
    found = [
        f"{finding.code.display} ({run.model_name})"
        for run in current
        if run.state == "reported" and run.phase.may_alert and run.reading is not None
        for finding in run.reading.findings
        if finding.critical and finding.present
    ]
    return ", ".join(found)
