"""The worklist: studies sickest first, each with the reason for its place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from wetread.domain.priority import Priority
from wetread.domain.reader import Reader
from wetread.domain.study import MatchState, StudyState
from wetread.reading import studies
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
    arrived_at: datetime


async def entries(conn: Connection, reader: Reader, limit: int) -> list[WorklistEntry]:
    """The first `limit` entries: critical, then by priority of the order, then who has waited longest.

    Raises Forbidden.
    """
    return [_entry(study) for study in await studies.sickest(conn, reader, limit)]


def _entry(study: Study) -> WorklistEntry:
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
        arrived_at=study.first_at,
    )


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
