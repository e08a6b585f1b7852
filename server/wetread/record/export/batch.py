"""Batches of an export: stored texts of one type as lines, bounded by bytes, as they stood at one moment.

An export shows the store as it was at its transaction time T, and holds no snapshot meanwhile: each batch is a short
transaction of its own. What has not changed since T is taken as it stands. What was changed or deleted after T is taken
from its versions: the one that stood at T, judged by index rows that are made of it for the purpose and rolled back.
So a batch is a function of T and its first key, however often and whenever it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import class_row

from wetread.record import lossless
from wetread.record.condition import TRUE, Condition, all_of
from wetread.record.export.selection import Selection
from wetread.record.search import index
from wetread.store.database import Connection

SEPARATOR = b"\x1e"
"""Between two texts of a block: a control character, which no JSON text holds raw."""
_MOST_LATE = 500

# A page is the ordered texts of a type; its block is as many of them as the bytes allow, joined by the server. Nothing
# between the ordered rows and the aggregate disturbs their order.
_PAGE: LiteralString = """
    SELECT r.key, r.body FROM resource r WHERE r.resource_type = %s AND r.key > %s AND NOT r.deleted AND """
_BLOCK: tuple[LiteralString, LiteralString] = (
    """
    SELECT count(*), max(key), coalesce(sum(size), 0), convert_to(string_agg(body, E'\\x1e'), 'UTF8') FROM (
        SELECT key, body, size, sum(size) OVER (ORDER BY key) - size AS before FROM (
            SELECT key, body, octet_length(body) AS size FROM (""",
    """) AS page) AS sized) AS counted WHERE before < %s""",
)
_LATE: LiteralString = """
    SELECT r.key, r.id, v.version_id, v.last_updated, v.body FROM (
        SELECT * FROM resource WHERE resource_type = %(type)s AND NOT deleted AND last_updated > %(at)s
        UNION ALL
        SELECT * FROM resource WHERE resource_type = %(type)s AND deleted AND last_updated > %(at)s) r
    CROSS JOIN LATERAL (
        SELECT version_id, last_updated, deleted, body FROM resource_version v
        WHERE v.resource_type = r.resource_type AND v.id = r.id AND v.last_updated <= %(at)s
        ORDER BY version_id DESC LIMIT 1) v
    WHERE r.key > %(after)s AND r.key <= coalesce(%(upto)s, r.key) AND NOT v.deleted ORDER BY r.key LIMIT %(most)s
"""
_DELETED: LiteralString = """
    SELECT r.key, r.id, v.version_id, r.last_updated, v.body FROM resource r
    CROSS JOIN LATERAL (
        SELECT version_id, body FROM resource_version v
        WHERE v.resource_type = r.resource_type AND v.id = r.id AND NOT v.deleted
        ORDER BY version_id DESC LIMIT 1) v
    WHERE r.resource_type = %s AND r.deleted AND r.key > %s AND """


@dataclass(frozen=True, slots=True)
class Batch:
    """`block` holds `resources` texts with SEPARATOR between them. `last_key` None: there is nothing after them."""

    block: bytes
    resources: int
    last_key: int | None


@dataclass(frozen=True, slots=True)
class _Version:
    key: int
    id: str
    version_id: int
    last_updated: datetime
    body: str


async def texts(
    conn: Connection, selection: Selection, resource_type: str, after_key: int, *, rows: int, most_bytes: int
) -> Batch:
    """The next texts of a type in the order of their keys: at most `rows`, and not more than `most_bytes` before the
    last of them. Begins the caller's transaction: it must be its first statement."""
    await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    wanted = await selection.of(conn, resource_type)
    chosen = all_of([selection.changed(resource_type), wanted])
    page = Condition(
        _PAGE + "(" + chosen.sql + ") ORDER BY r.key LIMIT %s", (resource_type, after_key, *chosen.args, rows)
    )
    resources, last_key, size, block = await _block(conn, page, most_bytes)
    last = None if resources == 0 or (resources < rows and size < most_bytes) else last_key
    late = await _late(conn, selection, resource_type, after_key, last)
    if not late:
        return Batch(block, resources, last)
    if len(late) == _MOST_LATE:
        last = late[-1].key
    kept = await _judged(conn, chosen, resource_type, late, by_index=wanted != TRUE)
    upto = TRUE if last is None else Condition("r.key <= %s", (last,))
    inside = all_of([upto, chosen])
    merged = Condition(
        "SELECT key, body FROM (" + _PAGE + "(" + inside.sql + ")"
        " UNION ALL SELECT * FROM unnest(%s::bigint[], %s::text[])) AS merged(key, body) ORDER BY key",
        (resource_type, after_key, *inside.args, [v.key for v in kept], [v.body for v in kept]),
    )
    resources, _, _, block = await _block(conn, merged, None)
    return Batch(block, resources, last)


async def deletions(conn: Connection, selection: Selection, resource_type: str, after_key: int, *, rows: int) -> Batch:
    """The ids of what of a type was deleted in the export's window, as `texts` gives bodies.

    What was deleted and made anew since counts as changed, not as deleted.
    """
    window = selection.changed(resource_type)
    rest: LiteralString = "(" + window.sql + ") ORDER BY r.key LIMIT %s"
    async with conn.cursor(row_factory=class_row(_Version)) as cursor:
        await cursor.execute(_DELETED + rest, (resource_type, after_key, *window.args, rows))
        gone = await cursor.fetchall()
    whose = selection.member(resource_type)
    kept = gone if whose == TRUE else await _judged(conn, whose, resource_type, gone, by_index=True)
    last = gone[-1].key if len(gone) == rows else None
    return Batch(SEPARATOR.join(version.id.encode() for version in kept), len(kept), last)


async def _block(conn: Connection, page: Condition, most_bytes: int | None) -> tuple[int, int, int, bytes]:
    sql: LiteralString = _BLOCK[0] + page.sql + _BLOCK[1]
    async with conn.cursor(binary=True) as cursor:
        await cursor.execute(sql, (*page.args, 2**62 if most_bytes is None else most_bytes))
        row = await cursor.fetchone()
    assert row is not None  # noqa: S101
    return int(row[0]), int(row[1] or 0), int(row[2]), row[3] or b""


async def _late(
    conn: Connection, selection: Selection, resource_type: str, after_key: int, upto: int | None
) -> list[_Version]:
    args: dict[str, Any] = {
        "type": resource_type,
        "at": selection.transaction_time,
        "after": after_key,
        "upto": upto,
        "most": _MOST_LATE,
    }
    async with conn.cursor(row_factory=class_row(_Version)) as cursor:
        await cursor.execute(_LATE, args)
        return await cursor.fetchall()


async def _judged(
    conn: Connection, chosen: Condition, resource_type: str, versions: Sequence[_Version], *, by_index: bool
) -> list[_Version]:
    """Those of former versions that a condition is true of. Where it asks the index, their rows stand there meanwhile,
    under negated keys."""
    sql: LiteralString = (
        "SELECT -r.key FROM (SELECT key, id, last_updated, body, %s AS resource_type, false AS deleted"
        " FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[], %s::text[]) AS v(key, id, last_updated, body)) r"
        " WHERE " + chosen.sql
    )
    columns = [
        [-v.key for v in versions],
        [v.id for v in versions],
        [v.last_updated for v in versions],
        [v.body for v in versions],
    ]
    async with conn.transaction(force_rollback=True):
        for version in versions if by_index else ():
            entries = index.extract(lossless.parse(version.body), conn.bases)
            await index.write(conn, -version.key, resource_type, entries, replace=False)
        rows = await conn.execute(sql, (resource_type, *columns, *chosen.args))
        keys = {int(row[0]) async for row in rows}
    return [version for version in versions if version.key in keys]
