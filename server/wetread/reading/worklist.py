"""The worklist: studies sickest first, each with the reason for its place."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from wetread.domain.finding import Finding, Reading
from wetread.domain.priority import Priority
from wetread.domain.reader import Reader
from wetread.domain.study import MatchState, StudyState
from wetread.reading import answers, runs, studies
from wetread.reading.runs import Run
from wetread.reading.studies import Study
from wetread.store.database import Connection


@dataclass(frozen=True, slots=True)
class WorklistEntry:
    """One study as a radiologist sees it in the list."""

    study_id: str
    study_instance_uid: str
    patient_id: str
    patient_name: str
    birth_date: str
    accession_number: str
    modalities: tuple[str, ...]
    description: str
    priority: str
    state: str
    critical: bool
    reason: str
    findings: tuple[str, ...]
    """What was reported of the newest revision, the gravest first; that of a synthetic model says so. What the site
    shows on request stands there as such until the reader has asked for it."""
    arrived_at: datetime


async def entries(conn: Connection, reader: Reader, limit: int) -> list[WorklistEntry]:
    """The first `limit` entries: critical, then by priority of the order, then who has waited longest.

    Raises Forbidden.
    """
    found = await studies.sickest(conn, reader, limit)
    uids = [study.study_instance_uid for study in found] if answers.may_see_results(reader) else []
    answered = await runs.answered_of_studies(conn, uids)
    concealed = await answers.concealed(conn, reader, answered)
    of_study: dict[str, list[Run]] = {}
    for run in answered:
        of_study.setdefault(run.study_instance_uid, []).append(run)
    told = answers.worded(reader, found, answered, concealed)
    return [_entry(study, of_study.get(study.study_instance_uid, ()), concealed) for study in told]


def _entry(study: Study, answered: Sequence[Run], concealed: Set[str]) -> WorklistEntry:
    identity = study.identity
    reported = [run for run in answered if run.state == "reported" and run.revision == study.revision]
    return WorklistEntry(
        study_id=study.id,
        study_instance_uid=study.study_instance_uid,
        patient_id=study.patient_id,
        patient_name=", ".join(part for part in (identity.family, identity.given) if part),
        birth_date=identity.birth_date,
        accession_number=study.accession_number,
        modalities=study.modalities,
        description=study.description,
        priority=Priority(study.priority).code,
        state=study.state.value,
        critical=study.critical,
        reason=reason(study),
        findings=_told(reported, concealed),
        arrived_at=study.first_at,
    )


def _told(reported: Sequence[Run], concealed: Set[str]) -> tuple[str, ...]:
    """The findings in few words, the gravest first."""
    shown = [run for run in reported if run.id not in concealed]
    found = [(finding, run.reading) for run in shown if run.reading for finding in run.reading.findings]
    told = [_in_few_words(*pair) for pair in sorted(found, key=lambda pair: -gravity(pair[0]))]
    hidden = [f"{run.model_name}: {answers.ON_REQUEST}" for run in reported if run.id in concealed]
    return (*told, *hidden)


def gravity(finding: Finding) -> int:
    """A rank for showing: critical and present, then present, then measured, then absent."""
    if finding.present is None:
        return 1
    return 0 if not finding.present else 3 if finding.critical else 2


def _in_few_words(finding: Finding, reading: Reading) -> str:
    mark = "SYNTHETIC " if reading.model.synthetic else ""
    judged = "" if finding.present is None else "present" if finding.present else "absent"
    certainty = "" if finding.probability is None else f"{finding.probability:.0%}"
    sizes = [f"{m.value} {m.unit}" for m in finding.measurements]
    return f"{mark}{finding.code.display}: {', '.join(part for part in (judged, certainty, *sizes) if part)}"


def reason(study: Study) -> str:
    """Why the study stands where it stands, and what keeps it from going on."""
    parts = []
    if study.critical:
        parts.append(f"critical: {study.critical_reason}" if study.critical_reason else "critical")
    if study.priority > Priority.ROUTINE:
        parts.append(f"ordered {Priority(study.priority).name}")
    if study.match_state is MatchState.HELD:
        parts.append(f"results held: {study.match_reason}")
    if study.match_state is MatchState.PROPOSED:
        parts.append("order proposed, not confirmed")
    if study.state is StudyState.FAILED and study.error:
        parts.append(f"reading failed: {study.error}")
    if study.state is StudyState.RECEIVING:
        parts.append("images are arriving")
    return "; ".join(parts) or "by time of arrival"
