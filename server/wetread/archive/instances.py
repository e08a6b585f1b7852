"""The index of instances, and their bytes. An instance is stored once and never changed.

`store` is the hot path and sync: its callers stand in threads. Everything else is async; blobs are read and written
in a thread (`asyncio.to_thread`).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from psycopg.types.json import Jsonb

from wetread.domain.codes import Coded
from wetread.domain.reader import Reader
from wetread.domain.study import InstanceFacts
from wetread.errors import Conflict, NotFound
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Connection, SyncConnection
from wetread.wire.dicom import data_set_start

_RESOURCE = "ImagingStudy"
_DEFAULTS = {field.name: field.default for field in fields(InstanceFacts)}

_INSERT = """
    INSERT INTO instance (sop_instance_uid, sop_class_uid, transfer_syntax_uid, study_instance_uid, series_instance_uid,
                          size_bytes, digest, blob_key, facts, source, origin, noticed, run_id)
    VALUES (%(sop)s, %(class)s, %(syntax)s, %(study)s, %(series)s, %(size)s, %(digest)s, %(key)s, %(facts)s,
            %(source)s, %(origin)s, %(noticed)s, %(run)s)
    ON CONFLICT (sop_instance_uid) DO NOTHING
    RETURNING 1
"""
_DIGEST = "SELECT digest FROM instance WHERE sop_instance_uid = %s"


class Stored(StrEnum):
    STORED = "stored"
    SAME = "same"
    """The same data set was here already; nothing was written."""


@dataclass(frozen=True, slots=True)
class _Row:
    key: str
    values: Mapping[str, Any]


def store(
    conn: SyncConnection, blobs: LocalBlobs, facts: InstanceFacts, data: bytes | bytearray | memoryview, *, source: str
) -> Stored:
    """Stores a Part 10 file as received. Durable when the caller's transaction has committed.

    The same data set again, from whomever and with whatever file meta information, is a success. Raises Conflict when
    the SOP Instance UID is taken by another data set; OutOfSpace or StoreUnavailable when the blob cannot be written.
    A crash after the blob and before the commit leaves a blob without a row, which `sweep` removes.
    """
    row = _row(facts, data, source=source, origin="received")
    # The row goes first: it makes a second sender of the same instance wait for the outcome of this one.
    if conn.execute(_INSERT, row.values).fetchone() is not None:
        blobs.put(row.key, data)
        return Stored.STORED
    _require_same(conn.execute(_DIGEST, (facts.sop_instance_uid,)).fetchone(), row)
    return Stored.SAME


async def store_async(
    conn: Connection, blobs: LocalBlobs, facts: InstanceFacts, data: bytes | bytearray | memoryview, *, source: str
) -> Stored:
    """`store` for callers on the event loop."""
    return await _store_async(conn, blobs, _row(facts, data, source=source, origin="received"), data)


async def store_produced(
    conn: Connection, blobs: LocalBlobs, facts: InstanceFacts, data: bytes | bytearray | memoryview, run_id: str
) -> None:
    """Stores an instance that Wetread made of a run. It is no arrival. The same again is a no-op; raises like
    `store`."""
    await _store_async(conn, blobs, _row(facts, data, source="wetread", origin="produced", run_id=run_id), data)


async def _store_async(conn: Connection, blobs: LocalBlobs, row: _Row, data: bytes | bytearray | memoryview) -> Stored:
    if await (await conn.execute(_INSERT, row.values)).fetchone() is not None:
        await asyncio.to_thread(blobs.put, row.key, data)
        return Stored.STORED
    _require_same(await (await conn.execute(_DIGEST, (row.values["sop"],))).fetchone(), row)
    return Stored.SAME


async def arrivals(conn: Connection, limit: int, *, gather_for: timedelta = timedelta()) -> tuple[str, ...]:
    """Study Instance UIDs with instances that nobody has taken yet, the longest waiting first.

    The first instances of a study are told at once; those of a study that grows, once the oldest has waited so long:
    a CT of a thousand slices is taken in a few times, not hundreds.
    """
    rows = await conn.execute(
        """SELECT i.study_instance_uid FROM instance i WHERE NOT i.noticed
           GROUP BY i.study_instance_uid
           HAVING min(i.received_at) <= now() - %s::interval OR NOT EXISTS (
               SELECT 1 FROM instance k
                WHERE k.study_instance_uid = i.study_instance_uid AND k.noticed AND k.origin = 'received')
           ORDER BY min(i.received_at) LIMIT %s""",
        (gather_for, limit),
    )
    return tuple(row[0] for row in await rows.fetchall())


async def are_waiting(conn: Connection, study_instance_uid: str) -> bool:
    """Whether the study has instances that nobody has taken yet."""
    found = await conn.execute(
        "SELECT 1 FROM instance WHERE study_instance_uid = %s AND NOT noticed LIMIT 1", (study_instance_uid,)
    )
    return await found.fetchone() is not None


@dataclass(frozen=True, slots=True)
class Taken:
    """Instances in the order of their arrival, and when the last of them came."""

    instances: tuple[InstanceFacts, ...]
    last_at: datetime


async def take(conn: Connection, study_instance_uid: str) -> Taken | None:
    """The study's instances that nobody has taken yet, or None; taken when the transaction commits."""
    rows = await conn.execute(
        """WITH taken AS (
               UPDATE instance SET noticed = true WHERE study_instance_uid = %s AND NOT noticed
               RETURNING facts, received_at, sop_instance_uid
           ) SELECT facts, received_at FROM taken ORDER BY received_at, sop_instance_uid""",
        (study_instance_uid,),
    )
    found = await rows.fetchall()
    return Taken(tuple(facts_of(row[0]) for row in found), found[-1][1]) if found else None


async def of_study(conn: Connection, reader: Reader, study_instance_uid: str) -> tuple[InstanceFacts, ...]:
    """All instances of a study, received and produced, by series and instance number. Empty when there is none."""
    return await _where(conn, reader, "study_instance_uid = %s", study_instance_uid)


async def received_of_study(conn: Connection, reader: Reader, study_instance_uid: str) -> tuple[InstanceFacts, ...]:
    """The instances of a study that came from outside: what there is to read."""
    return await _where(conn, reader, "origin = 'received' AND study_instance_uid = %s", study_instance_uid)


async def data(conn: Connection, reader: Reader, blobs: LocalBlobs, sop_instance_uid: str) -> bytes:
    """The Part 10 file as stored. Raises NotFound."""
    reader.require("r", _RESOURCE)
    rows = await conn.execute("SELECT blob_key FROM instance WHERE sop_instance_uid = %s", (sop_instance_uid,))
    row = await rows.fetchone()
    if row is None:
        raise NotFound("no instance with this SOP Instance UID")
    return await asyncio.to_thread(blobs.get, row[0])


async def keys_of_series(conn: Connection, reader: Reader, series_instance_uid: str) -> tuple[tuple[str, str], ...]:
    """SOP Instance UID and blob key of each instance of a series, by instance number."""
    reader.require("r", _RESOURCE)
    rows = await conn.execute(
        f"SELECT sop_instance_uid, blob_key FROM instance WHERE series_instance_uid = %s ORDER BY {_ORDER}",
        (series_instance_uid,),
    )
    return tuple((row[0], row[1]) for row in await rows.fetchall())


_ORDER = """(facts ->> 'series_number')::bigint NULLS LAST, series_instance_uid,
            (facts ->> 'instance_number')::bigint NULLS LAST, sop_instance_uid"""


async def _where(conn: Connection, reader: Reader, condition: str, value: str) -> tuple[InstanceFacts, ...]:
    reader.require("r", _RESOURCE)
    rows = await conn.execute(f"SELECT facts FROM instance WHERE {condition} ORDER BY {_ORDER}", (value,))
    return tuple(facts_of(row[0]) for row in await rows.fetchall())


def _row(
    facts: InstanceFacts,
    data: bytes | bytearray | memoryview,
    *,
    source: str,
    origin: str,
    run_id: str | None = None,
) -> _Row:
    # Another sender writes another file meta information; the instance is the same, so it does not count.
    digest = hashlib.sha256(memoryview(data)[data_set_start(data) :])
    name = digest.hexdigest()
    # A key is never used twice, so that a sweep of abandoned blobs cannot meet one that is coming back to life.
    key = f"dicom/{name[:2]}/{name}-{secrets.token_hex(4)}"
    return _Row(
        key,
        {
            "sop": facts.sop_instance_uid,
            "class": facts.sop_class_uid,
            "syntax": facts.transfer_syntax_uid,
            "study": facts.study_instance_uid,
            "series": facts.series_instance_uid,
            "size": len(data),
            "digest": digest.digest(),
            "key": key,
            "facts": Jsonb(_to_json(facts)),
            "source": source,
            "origin": origin,
            "noticed": origin == "produced",
            "run": run_id,
        },
    )


def _require_same(stored: tuple[Any, ...] | None, row: _Row) -> None:
    if stored is None or bytes(stored[0]) != row.values["digest"]:
        raise Conflict(
            "another data set is stored under this SOP Instance UID; give a changed instance a new UID (PS3.4 B.2.3)",
            location="SOPInstanceUID",
        )


def _to_json(facts: InstanceFacts) -> dict[str, Any]:
    return {name: value for name, value in asdict(facts).items() if value != _DEFAULTS[name]}


def facts_of(json: dict[str, Any]) -> InstanceFacts:
    """The facts from their column."""
    codes = tuple(Coded(**code) for code in json.get("procedure_codes", ()))
    return InstanceFacts(**{**json, "image_type": tuple(json.get("image_type", ())), "procedure_codes": codes})
