"""The audit record: one row for each thing done, written inside the transaction that did it, never changed after.

Writing is a call, not middleware, so that it cannot be skipped and commits or rolls back with its effect.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from wetread.record.audit_fhir import audit_event
from wetread.record.audit_kinds import KINDS
from wetread.record.audit_search import export as export
from wetread.record.audit_search import read as read
from wetread.record.audit_search import search as search
from wetread.record.chain import Verification as Verification
from wetread.record.chain import verify as verify
from wetread.store.database import Connection, SyncConnection

_OUTCOMES = ("0", "4", "8", "12")
_ACTIONS = ("C", "R", "U", "D", "E")


@dataclass(frozen=True, slots=True)
class Entity:
    """What was acted on. `what` is a reference (`ImagingStudy/..`), `identifier` a Study UID or the like.

    `type_code` is of audit-entity-type (1 person, 2 system object), `role_code` of object-role (3 report, 4 domain
    resource, 20 job, 24 query). `query` holds a request as it came, byte for byte.
    """

    what: str = ""
    identifier: str = ""
    type_code: str = "2"
    role_code: str = "4"
    description: str = ""
    query: bytes = b""
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing done. `kind` is one of `audit_kinds.KINDS`; `action` C, R, U, D or E; `outcome` 0 success, 4 minor,
    8 serious, 12 major failure. `principal` is who asked or what acted (a reference, or a name); `user` the person
    behind it, where known; `network` an address, host or URL. Raises ValueError on a kind nobody has documented.
    """

    kind: str
    action: str
    outcome: str
    principal: str
    network: str = ""
    patient_id: str | None = None
    entities: tuple[Entity, ...] = ()
    detail: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    outcome_text: str = ""
    governance_only: bool = False
    user: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of audit event; add it to record/audit_kinds and docs/audit.md")
        if self.outcome not in _OUTCOMES or self.action not in _ACTIONS:
            raise ValueError(f"audit {self.kind}: action {self.action!r} or outcome {self.outcome!r} is not of FHIR")


_INSERT = """
    WITH written AS (
        INSERT INTO audit_event (id, recorded, kind, action, outcome, principal, acting_user, patient_id,
                                 request_id, governance_only, entities, body)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING position)
    INSERT INTO audit_unchained (position) SELECT position FROM written
"""

# PostgreSQL's text knows no U+0000, and UTF-8 no lone surrogate; both may stand in what a peer sent.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def _row(entry: AuditEntry) -> tuple[Any, ...]:
    audit_id, recorded = str(uuid.uuid4()), datetime.now(UTC)
    names = {name for entity in entry.entities for name in (entity.what, entity.identifier) if name}
    return (
        audit_id,
        recorded,
        entry.kind,
        entry.action,
        entry.outcome,
        _storable(entry.principal),
        _storable(entry.user),
        entry.patient_id or None,
        _storable(entry.request_id),
        entry.governance_only,
        [_storable(name) for name in sorted(names)],
        _storable(audit_event(audit_id, recorded, entry)),
    )


def _storable(text: str) -> str:
    return _UNSTORABLE.sub("\ufffd", text)


async def write(conn: Connection, entry: AuditEntry) -> str:
    """Adds the entry to the caller's transaction; the id of its AuditEvent."""
    row = _row(entry)
    await conn.execute(_INSERT, row)
    return str(row[0])


async def write_many(conn: Connection, entries: Sequence[AuditEntry]) -> list[str]:
    """Adds several entries in one round trip, in their order."""
    rows = [_row(entry) for entry in entries]
    async with conn.cursor() as writer:
        await writer.executemany(_INSERT, rows)
    return [str(row[0]) for row in rows]


def write_sync(conn: SyncConnection, entry: AuditEntry) -> str:
    """`write` for code that lives in threads: the DIMSE receiver."""
    row = _row(entry)
    conn.execute(_INSERT, row)
    return str(row[0])
