"""The worklist: studies sickest first, each with the reason for its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from wetread.domain.finding import Reading
from wetread.domain.priority import Priority
from wetread.domain.reader import Reader
from wetread.domain.study import MatchState, StudyState
from wetread.reading import runs, studies
from wetread.reading.runs import Run
from wetread.reading.studies import Study
from wetread.results.narrative import finding_text
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
    """What was reported of the newest revision, a sentence each; that of a synthetic model says so."""
    arrived_at: datetime


async def entries(conn: Connection, reader: Reader, limit: int) -> list[WorklistEntry]:
    """The first `limit` entries: critical, then by priority of the order, then who has waited longest.

    Raises Forbidden.
    """
    found = await studies.sickest(conn, reader, limit)
    reported: dict[tuple[str, int], list[Run]] = {}
    for run in await runs.reported_of_studies(conn, [study.study_instance_uid for study in found]):
        reported.setdefault((run.study_instance_uid, run.revision), []).append(run)
    return [_entry(study, reported.get((study.study_instance_uid, study.revision), ())) for study in found]


def _entry(study: Study, reported: Sequence[Run]) -> WorklistEntry:
    identity = study.identity
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
        findings=tuple(sentence for run in reported if run.reading for sentence in _sentences(run.reading)),
        arrived_at=study.first_at,
    )


def _sentences(reading: Reading) -> list[str]:
    mark = "SYNTHETIC " if reading.model.synthetic else ""
    return [mark + finding_text(finding) for finding in reading.findings]


def reason(study: Study) -> str:
    """Why the study stands where it stands, and what keeps it from going on."""
    parts = []
    if study.critical:
        parts.append(f"critical: {study.critical_reason}")
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
