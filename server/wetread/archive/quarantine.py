"""What was received and refused: why, from whom, and its first bytes, so that an operator can see and mend it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.errors import WetreadError
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Connection, SyncConnection

KEPT_BYTES = 64 * 1024
KEPT_PER_SOURCE = 1000
"""Rows of a source that hold on to their bytes; older ones let them go."""

_FIELDS = "id, at, source, reason, message, sop_instance_uid, size_bytes, encode(digest, 'hex') AS digest, blob_key"

_INSERT = """
    INSERT INTO quarantine (source, reason, message, sop_instance_uid, size_bytes, digest, blob_key)
    VALUES (%(source)s, %(reason)s, %(message)s, %(sop)s, %(size)s, %(digest)s, %(key)s)
"""
_LET_GO = """
    UPDATE quarantine SET blob_key = NULL
    WHERE source = %(source)s AND blob_key IS NOT NULL AND id <= (
        SELECT id FROM quarantine WHERE source = %(source)s ORDER BY id DESC OFFSET %(kept)s LIMIT 1)
"""


@dataclass(frozen=True, slots=True)
class Refusal:
    """`reason` is the code of the error, `digest` the SHA-256 of all of it in hex, `blob_key` its first 64 KiB."""

    id: int
    at: datetime
    source: str
    reason: str
    message: str
    sop_instance_uid: str
    size_bytes: int
    digest: str
    blob_key: str | None


def refuse(
    conn: SyncConnection,
    blobs: LocalBlobs,
    data: bytes | bytearray | memoryview,
    error: WetreadError,
    *,
    source: str,
    sop_instance_uid: str = "",
) -> None:
    """Keeps a record of what was refused with `error`. Raises OutOfSpace or StoreUnavailable."""
    entry = _entry(data, error, source, sop_instance_uid)
    conn.execute(_INSERT, entry)
    conn.execute(_LET_GO, entry)
    blobs.put(entry["key"], memoryview(data)[:KEPT_BYTES])


async def refuse_async(
    conn: Connection,
    blobs: LocalBlobs,
    data: bytes | bytearray | memoryview,
    error: WetreadError,
    *,
    source: str,
    sop_instance_uid: str = "",
) -> None:
    """`refuse` for callers on the event loop."""
    entry = _entry(data, error, source, sop_instance_uid)
    await conn.execute(_INSERT, entry)
    await conn.execute(_LET_GO, entry)
    await asyncio.to_thread(blobs.put, entry["key"], memoryview(data)[:KEPT_BYTES])


async def refused(conn: Connection, reader: Reader, limit: int) -> tuple[Refusal, ...]:
    """The latest refusals, newest first."""
    reader.require("r", "ImagingStudy")
    async with conn.cursor(row_factory=class_row(Refusal)) as cursor:
        await cursor.execute(f"SELECT {_FIELDS} FROM quarantine ORDER BY id DESC LIMIT %s", (limit,))
        return tuple(await cursor.fetchall())


def _entry(
    data: bytes | bytearray | memoryview, error: WetreadError, source: str, sop_instance_uid: str
) -> dict[str, Any]:
    digest = hashlib.sha256(data)
    return {
        "source": source,
        "reason": error.code,
        "message": error.message,
        "sop": sop_instance_uid,
        "size": len(data),
        "digest": digest.digest(),
        "key": f"quarantine/{digest.hexdigest()}-{secrets.token_hex(4)}",
        "kept": KEPT_PER_SOURCE,
    }
