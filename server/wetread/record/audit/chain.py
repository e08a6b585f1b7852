"""The hash chain over the audit rows, computed after their commit, so that it locks no writer.

hash(n) = SHA-256(hash(n - 1) || the canonical content of row n), with 32 zero bytes before the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from wetread.store.database import Connection

BATCH = 1000
_LOCK = 0x57454155
_START = bytes(32)


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


_COLUMNS = """e.id, e.position, e.recorded, e.kind, e.action, e.outcome, e.principal, e.acting_user, e.patient_id,
              e.request_id, e.governance_only, e.entities, e.body"""


@dataclass(frozen=True, slots=True)
class Verification:
    """`first_bad` names the first altered, missing or reordered record; None where the chain holds. `chained` counts
    the links that hold, `unchained` the records that the sequencer has not yet reached."""

    ok: bool
    chained: int
    unchained: int
    first_bad: str | None


async def extend(conn: Connection) -> int:
    """One pass: chains the audit rows that are committed and not yet chained, up to BATCH; how many.

    Returns 0 at once where another process is at it.
    """
    lock = await (await conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))).fetchone()
    if lock is None or not lock[0]:
        return 0
    rows = conn.cursor(row_factory=class_row(Row))
    await rows.execute(
        f"SELECT {_COLUMNS} FROM audit_unchained u JOIN audit_event e USING (position) ORDER BY position LIMIT %s",
        (BATCH,),
    )
    fresh = await rows.fetchall()
    if not fresh:
        return 0
    head = await (await conn.execute("SELECT seq, hash FROM audit_chain ORDER BY seq DESC LIMIT 1")).fetchone()
    seq, digest = head or (0, _START)
    links: list[tuple[int, UUID, bytes]] = []
    for row in fresh:
        digest = _link(digest, row)
        links.append((seq + len(links) + 1, row.id, digest))
    async with conn.cursor() as writer:
        await writer.executemany("INSERT INTO audit_chain (seq, audit_id, hash) VALUES (%s, %s, %s)", links)
    await conn.execute("DELETE FROM audit_unchained WHERE position = ANY(%s)", ([row.position for row in fresh],))
    return len(fresh)


async def verify(conn: Connection) -> Verification:
    """Walks the whole chain. It proves alteration, loss and reordering of chained rows up to its last link; that the
    last links were not cut off together with their rows is proven only by a copy of the head kept elsewhere."""
    counted = await conn.execute(
        "SELECT count(*) FROM audit_event e WHERE NOT EXISTS (SELECT FROM audit_chain c WHERE c.audit_id = e.id)"
    )
    count = await counted.fetchone()
    unchained = int(count[0]) if count else 0
    expected, digest, chained, first_bad = 1, _START, 0, None
    async with conn.cursor(name="audit_verify") as walk:
        await walk.execute(
            f"""SELECT c.seq, c.audit_id, c.hash, {_COLUMNS}
                FROM audit_chain c LEFT JOIN audit_event e ON e.id = c.audit_id ORDER BY c.seq"""
        )
        async for seq, audit_id, recorded_hash, *content in walk:
            if seq != expected:
                first_bad = f"link {expected} of the chain is missing"
            elif content[0] is None:
                first_bad = f"audit record {audit_id} (link {seq}) is missing"
            elif (digest := _link(digest, Row(*content))) != recorded_hash:
                first_bad = f"audit record {audit_id} (link {seq}) was altered, replaced or moved"
            if first_bad:
                break
            expected, chained = seq + 1, chained + 1
    return Verification(first_bad is None, chained, unchained, first_bad)


def _link(before: bytes, row: Row) -> bytes:
    return hashlib.sha256(before + row.canonical()).digest()
