"""One AuditEvent for each access to a door that has no protocol of its own."""

from __future__ import annotations

from starlette.requests import Request

from wetread.domain.reader import Reader
from wetread.record.audit import audit


def access(
    request: Request,
    reader: Reader | None,
    kind: str,
    action: str,
    *,
    outcome: str = "0",
    outcome_text: str = "",
    patient_id: str | None = None,
    detail: dict[str, str] | None = None,
) -> audit.AuditEntry:
    """Who asked for what, from where. The path is kept, the query string is not: it may hold patient data."""
    entry = audit.AuditEntry(
        kind=kind,
        action=action,
        outcome=outcome,
        outcome_text=outcome_text,
        principal="",
        network=request.client.host if request.client else "",
        patient_id=patient_id,
        detail={"method": request.method, "path": request.url.path, **(detail or {})},
        request_id=request.headers.get("x-request-id", ""),
    )
    return audit.Asker.of(reader).said_of(entry)
