"""Removal of old audit records by the site's policy, with proof.

What is removed is the chain's beginning, up to a signed checkpoint. In its place stay the links' range with first and
last hash, signed, and an AuditEvent that tells the same and is chained like any other: so the rest still verifies, and
nobody without the key can make a deletion look like policy.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from wetread.record.audit import audit
from wetread.record.audit.chain import COLUMNS, Row
from wetread.record.audit.keys import BadSignature, Keys
from wetread.store.database import Connection

KIND = "wetread-audit-removal+jws"
_AT_ONCE = 20_000
"""Links in one transaction, where checkpoints allow."""


@dataclass(frozen=True, slots=True)
class Removal:
    """Links `first` to `through` are gone. `signed` holds the policy, who ran it, and the archive's digest too."""

    through: int
    first: int
    first_hash: bytes
    last_hash: bytes
    at: datetime
    signed: str
    audit_id: UUID

    def is_signed(self, keys: Keys) -> bool:
        try:
            said = keys.payload(KIND, self.signed)
        except BadSignature:
            return False
        return {name: said.get(name) for name in _told(self)} == _told(self)


def _told(removal: Removal) -> dict[str, Any]:
    return {
        "first": removal.first,
        "through": removal.through,
        "first-hash": removal.first_hash.hex(),
        "last-hash": removal.last_hash.hex(),
        "at": removal.at.astimezone(UTC).isoformat(),
    }


async def every(conn: Connection) -> list[Removal]:
    """All removals, in their order."""
    async with conn.cursor(row_factory=class_row(Removal)) as found:
        await found.execute(
            "SELECT through, first, first_hash, last_hash, at, signed, audit_id FROM audit_removal ORDER BY through"
        )
        return await found.fetchall()


async def remove_due(conn: Connection, keys: Keys, keep_days: int, archive: Path | None) -> int:
    """Removes the oldest links whose records are all older than `keep_days`, up to a checkpoint that every stream has
    passed; how many. Called again until it returns 0. With `archive`, a folder, the records are first written there.

    The file is complete and on disk before anything is removed; one that an interrupted run left is written anew.
    """
    bounds = await _bounds(conn, keep_days)
    if bounds is None:
        return 0
    first, through = bounds
    name, digest = "", ""
    if archive is not None:
        name = f"audit-{first:012d}-{through:012d}.ndjson"
        digest = await _archived(conn, first, through, archive / name)
    ends = await conn.execute("SELECT hash FROM audit_chain WHERE seq IN (%s, %s) ORDER BY seq", (first, through))
    hashes = [row[0] for row in await ends.fetchall()]
    unsigned = Removal(through, first, hashes[0], hashes[-1], datetime.now(UTC), "", UUID(int=0))
    count = through - first + 1
    policy = {
        **_told(unsigned),
        "count": count,
        "policy": f"keep_days={keep_days}",
        "by": "wetread",
        **({"archive": name, "archive-sha256": digest} if name else {}),
    }
    signed = keys.sign(KIND, policy)
    tombstone = audit.AuditEntry(
        kind="audit-removed",
        action="D",
        outcome="0",
        principal="wetread",
        detail={**{key: str(value) for key, value in policy.items()}, "signed": signed},
    )
    audit_id = await audit.write(conn, tombstone)
    await conn.execute(
        """
        INSERT INTO audit_removal (through, first, first_hash, last_hash, at, signed, audit_id)
        VALUES (%s, %s, %s, %s, %s, %s, %s)
        """,
        (through, first, unsigned.first_hash, unsigned.last_hash, unsigned.at, signed, audit_id),
    )
    await conn.execute(
        "DELETE FROM audit_event e USING audit_chain c WHERE c.audit_id = e.id AND c.seq BETWEEN %s AND %s",
        (first, through),
    )
    await conn.execute("DELETE FROM audit_chain WHERE seq BETWEEN %s AND %s", (first, through))
    return count


async def _bounds(conn: Connection, keep_days: int) -> tuple[int, int] | None:
    """The first link that is left, and the checkpoint up to which it goes; None where nothing is to go."""
    found = await conn.execute(
        """
        WITH first AS (SELECT min(seq) AS seq FROM audit_chain),
             reach AS (SELECT greatest(first.seq + %s, (SELECT min(seq) FROM audit_checkpoint WHERE seq >= first.seq))
                           AS seq FROM first),
             kept AS (SELECT min(c.seq) AS seq
                      FROM first, reach, audit_chain c JOIN audit_event e ON e.id = c.audit_id
                      WHERE c.seq BETWEEN first.seq AND reach.seq
                          AND e.recorded >= now() - make_interval(days => %s))
        SELECT first.seq, (
            SELECT max(p.seq) FROM audit_checkpoint p
            WHERE p.seq BETWEEN first.seq AND reach.seq AND (kept.seq IS NULL OR p.seq < kept.seq)
                AND NOT EXISTS (SELECT FROM audit_stream s WHERE s.seq < p.seq))
        FROM first, reach, kept
        """,
        (_AT_ONCE, keep_days),
    )
    row = await found.fetchone()
    return None if row is None or row[0] is None or row[1] is None else (int(row[0]), int(row[1]))


async def _archived(conn: Connection, first: int, through: int, file: Path) -> str:
    """Writes links and records, each as it is under the chain, and returns the file's SHA-256 in hex."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part, digest = file.with_suffix(".part"), hashlib.sha256()
    with part.open("wb") as target:
        async with conn.cursor(name="audit_archive") as rows:
            await rows.execute(
                f"""SELECT c.seq, c.hash, {COLUMNS} FROM audit_chain c JOIN audit_event e ON e.id = c.audit_id
                    WHERE c.seq BETWEEN %s AND %s ORDER BY c.seq""",
                (first, through),
            )
            async for seq, link, *content in rows:
                line = json.dumps({"seq": seq, "hash": link.hex(), "record": Row(*content).canonical().decode()})
                target.write(line.encode() + b"\n")
                digest.update(line.encode() + b"\n")
        target.flush()
        os.fsync(target.fileno())
    part.chmod(0o600)
    part.rename(file)
    folder = os.open(file.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return digest.hexdigest()
