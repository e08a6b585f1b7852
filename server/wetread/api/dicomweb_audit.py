"""The AuditEvents of the DICOMweb door: a row for each patient whose studies were given, as the FHIR face leaves them.

A study that came a moment ago, or whose patient nobody knows, stands in a row without a patient, under its UID.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from starlette.requests import Request

from wetread.api.audited import access
from wetread.domain.reader import Reader
from wetread.errors import WetreadError
from wetread.reading.studies import patients_of
from wetread.record.audit.audit import AuditEntry, Entity
from wetread.store.database import Connection


async def successes(
    conn: Connection, request: Request, reader: Reader, kind: str, action: str, study_instance_uids: Iterable[str]
) -> list[AuditEntry]:
    """At least one row: that somebody asked, and of whom they were told."""
    plain = access(request, reader, kind, action)
    uids = sorted(set(study_instance_uids))
    patients = await patients_of(conn, uids) if uids else {}
    of_patient: dict[str | None, list[str]] = defaultdict(list)
    for uid in uids:
        of_patient[patients.get(uid)].append(uid)
    if not of_patient:
        return [plain]
    return [replace(plain, patient_id=patient, entities=_studies(found)) for patient, found in of_patient.items()]


def failure(request: Request, reader: Reader | None, kind: str, action: str, error: WetreadError) -> AuditEntry:
    """Outcome 8 where something of ours is away, 4 where the caller is refused."""
    denied = error.http_status in (401, 403)
    outcome = "8" if error.http_status >= 500 else "4"
    return access(
        request, reader, "access-denied" if denied else kind, action, outcome=outcome, outcome_text=error.message
    )


def _studies(uids: Iterable[str]) -> tuple[Entity, ...]:
    return tuple(Entity(identifier=f"urn:oid:{uid}") for uid in uids)
