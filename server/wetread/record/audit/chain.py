"""The hash chain over the audit rows, computed after their commit, so that it locks no writer.

hash(n) = SHA-256(hash(n - 1) || the canonical content of row n), with 32 zero bytes before the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import class_row

from wetread.store.database import Connection

BATCH = 1000
_LOCK = 0x57454155
START = bytes(32)


@dataclass(frozen=True, slots=True)
class Row:
    """What of an audit row is under the chain: everything."""

    id: UUID
    position: int
    recorded: datetime
    kind: str
    action: str
    outcome: str
    principal: str
    acting_user: str
    patient_id: str | None
    request_id: str
    governance_only: bool
    entities: Sequence[str]
    body: str

    def canonical(self) -> bytes:
        content: list[Any] = [
            str(self.id),
            self.position,
            self.recorded.astimezone(UTC).isoformat(timespec="microseconds"),
            self.kind,
            self.action,
            self.outcome,
            self.principal,
            self.acting_user,
            self.patient_id,
            self.request_id,
            self.governance_only,
            list(self.entities),
            self.body,
        ]
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


COLUMNS: LiteralString = """
    e.id, e.position, e.recorded, e.kind, e.action, e.outcome, e.principal, e.acting_user, e.patient_id, e.request_id,
    e.governance_only, e.entities, e.body
"""


async def extend(conn: Connection) -> int:
    """One pass: chains the audit rows that are committed and not yet chained, up to BATCH; how many.

    Returns 0 at once where another process is at it.
    """
    lock = await (await conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))).fetchone()
    if lock is None or not lock[0]:
        return 0
    rows = conn.cursor(row_factory=class_row(Row))
    await rows.execute(
        f"SELECT {COLUMNS} FROM audit_unchained u JOIN audit_event e USING (position) ORDER BY position LIMIT %s",
        (BATCH,),
    )
    fresh = await rows.fetchall()
    if not fresh:
        return 0
    seq, digest = await _head(conn)
    links: list[tuple[int, UUID, bytes]] = []
    for row in fresh:
        digest = link(digest, row)
        links.append((seq + len(links) + 1, row.id, digest))
    seqs, ids, hashes = (list(column) for column in zip(*links, strict=True))
    await conn.execute(
        "INSERT INTO audit_chain (seq, audit_id, hash) SELECT * FROM unnest(%s::bigint[], %s::uuid[], %s::bytea[])",
        (seqs, ids, hashes),
    )
    await conn.execute("DELETE FROM audit_unchained WHERE position = ANY(%s)", ([row.position for row in fresh],))
    return len(fresh)


async def _head(conn: Connection) -> tuple[int, bytes]:
    """Number and hash of the last link, also where all of them were removed by policy."""
    found = await conn.execute(
        """
        SELECT seq, hash FROM (
            (SELECT seq, hash FROM audit_chain ORDER BY seq DESC LIMIT 1)
            UNION ALL (SELECT through, last_hash FROM audit_removal ORDER BY through DESC LIMIT 1)) ends
        ORDER BY seq DESC LIMIT 1
        """
    )
    row = await found.fetchone()
    return (int(row[0]), bytes(row[1])) if row else (0, START)


def link(before: bytes, row: Row) -> bytes:
    """The hash of a record's link."""
    return hashlib.sha256(before + row.canonical()).digest()
