"""The audit record: one row for each thing done, written inside the transaction that did it, never changed after.

Writing is a call, not middleware, so that it cannot be skipped and commits or rolls back with its effect.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from wetread.record.audit.entry import Asker as Asker
from wetread.record.audit.entry import AuditEntry as AuditEntry
from wetread.record.audit.entry import Entity as Entity
from wetread.record.audit.fhir import audit_event
from wetread.record.audit.noted import note
from wetread.record.audit.search import export as export
from wetread.record.audit.search import read as read
from wetread.record.audit.search import search as search
from wetread.store.database import Connection, SyncConnection

_INSERT = """
    WITH written AS (
        INSERT INTO audit_event (id, recorded, kind, action, outcome, principal, acting_user, patient_id,
                                 request_id, governance_only, entities, body)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING position)
    INSERT INTO audit_unchained (position) SELECT position FROM written
"""
_INSERT_MANY = """
    WITH written AS (
        INSERT INTO audit_event (id, recorded, kind, action, outcome, principal, acting_user, patient_id,
                                 request_id, governance_only, entities, body)
        SELECT id::uuid, recorded::timestamptz, kind, action, outcome, principal, acting_user, nullif(patient_id, ''),
               request_id, governance_only::boolean, ARRAY(SELECT json_array_elements_text(entities::json)), body
        FROM unnest({columns}) WITH ORDINALITY
            AS given (id, recorded, kind, action, outcome, principal, acting_user, patient_id, request_id,
                      governance_only, entities, body, place)
        ORDER BY place RETURNING position)
    INSERT INTO audit_unchained (position) SELECT position FROM written
""".format(columns=", ".join(["string_to_array(%s, E'\\x1e')"] * 12))
"""The driver takes long to make arrays; here each column is one text, whose parts no part can end."""
_BETWEEN = "\x1e"

# PostgreSQL's text knows no U+0000, and UTF-8 no lone surrogate; both may stand in what a peer sent.
_UNSTORABLE = re.compile("[\x00\x1e\ud800-\udfff]")


def _row(entry: AuditEntry) -> tuple[Any, ...]:
    audit_id, recorded = str(uuid.uuid4()), datetime.now(UTC)
    names = {
        name
        for entity in entry.entities
        for name in (entity.what, entity.what.partition("/_history/")[0], entity.identifier)
        if name
    }
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


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, list) else "" if value is None else str(value)


def _storable(text: str) -> str:
    is_plain = text.isascii() and "\x00" not in text and _BETWEEN not in text  # which takes no time to find out
    return text if is_plain else _UNSTORABLE.sub("\ufffd", text)


async def write(conn: Connection, entry: AuditEntry) -> str:
    """Adds the entry to the caller's transaction; the id of its AuditEvent."""
    row = _row(entry)
    await conn.execute(_INSERT, row)
    note(row[0])
    return str(row[0])


async def write_many(conn: Connection, entries: Sequence[AuditEntry]) -> list[str]:
    """Adds several entries in one statement, in their order."""
    rows = [_row(entry) for entry in entries]
    if len(rows) == 1:
        await conn.execute(_INSERT, rows[0])
    elif rows:
        await conn.execute(_INSERT_MANY, [_BETWEEN.join(map(_text, column)) for column in zip(*rows, strict=True)])
    for row in rows:
        note(row[0])
    return [str(row[0]) for row in rows]


def write_sync(conn: SyncConnection, entry: AuditEntry) -> str:
    """`write` for code that lives in threads: the DIMSE receiver."""
    row = _row(entry)
    conn.execute(_INSERT, row)
    return str(row[0])
