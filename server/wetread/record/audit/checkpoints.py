"""Signed checkpoints: what the chain's head was at a moment, under a key that the database does not hold.

A checkpoint kept elsewhere shows that the chain's end was cut off, or that the whole chain was computed anew.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record.audit.keys import BadSignature, Keys
from wetread.store.database import Connection

_KIND = "wetread-audit-checkpoint+jws"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The chain had at link `seq` this hash, at this moment; `signed` says the same under our signature."""

    seq: int
    hash: bytes
    at: datetime
    signed: str

    def content(self) -> dict[str, Any]:
        return {"seq": self.seq, "hash": self.hash.hex(), "at": self.at.astimezone(UTC).isoformat()}

    def is_signed(self, keys: Keys) -> bool:
        """Whether one of our keys signed just this."""
        try:
            return keys.payload(_KIND, self.signed) == self.content()
        except BadSignature:
            return False

    def line(self) -> str:
        """As it is exported: one JSON object."""
        return json.dumps({**self.content(), "signed": self.signed})


async def sign_due(conn: Connection, keys: Keys, *, records: int, after: timedelta) -> Checkpoint | None:
    """Signs the chain's head where it is due: `records` links or the time `after` since the last checkpoint, and
    something is new. None where nothing is."""
    found = await conn.execute(
        """
        SELECT head.seq, head.hash, clock_timestamp(), last.seq, last.at
        FROM (SELECT seq, hash FROM audit_chain ORDER BY seq DESC LIMIT 1) head
        LEFT JOIN (SELECT seq, at FROM audit_checkpoint ORDER BY seq DESC LIMIT 1) last ON true
        """
    )
    row = await found.fetchone()
    if row is None:
        return None
    seq, digest, now, last_seq, last_at = row
    if seq <= (last_seq or 0) or (last_at is not None and seq - last_seq < records and now - last_at < after):
        return None
    unsigned = Checkpoint(seq, digest, now, "")
    made = Checkpoint(seq, digest, now, keys.sign(_KIND, unsigned.content()))
    added = await conn.execute(
        "INSERT INTO audit_checkpoint (seq, hash, at, signed) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (made.seq, made.hash, made.at, made.signed),
    )
    return made if added.rowcount else None


async def every(conn: Connection) -> list[Checkpoint]:
    """All checkpoints, in their order."""
    async with conn.cursor(row_factory=class_row(Checkpoint)) as found:
        await found.execute("SELECT seq, hash, at, signed FROM audit_checkpoint ORDER BY seq")
        return await found.fetchall()


async def export(conn: Connection, reader: Reader, since: int = 0) -> AsyncIterator[str]:
    """Every checkpoint above link `since`, one JSON line each. Raises Forbidden."""
    reader.require("r", "AuditEvent")
    for checkpoint in await every(conn):
        if checkpoint.seq > since:
            yield checkpoint.line() + "\n"


def parsed(lines: Iterable[str]) -> list[Checkpoint]:
    """Exported checkpoints. Raises InvalidInput for what is none."""
    try:
        return [_checkpoint(json.loads(line)) for line in lines if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            "a file of checkpoints holds what `wetread audit checkpoints` wrote: one each line"
        ) from error


def _checkpoint(content: Mapping[str, Any]) -> Checkpoint:
    at = datetime.fromisoformat(content["at"])
    return Checkpoint(int(content["seq"]), bytes.fromhex(content["hash"]), at, str(content["signed"]))
