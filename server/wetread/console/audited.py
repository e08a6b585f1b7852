"""Who looked at which page from where, and how it ended: the AuditEvents of the console."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request

from wetread.domain.reader import Reader
from wetread.errors import WetreadError
from wetread.record.audit import audit

_DONE = frozenset({"login", "logout", "account-locked"})


def entry(
    request: Request,
    who: Reader | str | None,
    kind: str,
    *,
    error: WetreadError | None = None,
    detail: Mapping[str, str] | None = None,
) -> audit.AuditEntry:
    """`who` is a reader or a person's name; None where nobody is signed in. The query string is not kept: it may hold
    patient data."""
    asker = audit.Asker(who) if isinstance(who, str) else audit.Asker.of(who)
    action = "U" if kind == "account-changed" else "E" if kind in _DONE else "R"
    written = audit.AuditEntry(
        kind=kind,
        action=action,
        outcome="0" if error is None else "8" if error.http_status >= 500 else "4",
        outcome_text=error.message if error else "",
        principal="",
        network=request.client.host if request.client else "",
        detail={"method": request.method, "path": request.url.path, **(detail or {})},
        request_id=request.headers.get("x-request-id", ""),
    )
    return asker.said_of(written)
