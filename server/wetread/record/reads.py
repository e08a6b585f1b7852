"""Resources as a reader may see them: the current version, a former one, those that match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.record import former
from wetread.record.compartment import visible, visible_or_gone
from wetread.record.condition import TRUE, all_of
from wetread.record.search import query
from wetread.record.versions import Version, present, require_identity, require_stored
from wetread.store.database import Connection


async def read(conn: Connection, reader: Reader, resource_type: str, resource_id: str) -> Version:
    """The current version. Raises Forbidden, NotFound, Gone: NotFound alike for what is not there and what the reader
    may not see."""
    reader.require_some("r", resource_type)
    require_identity(resource_type, resource_id)
    seen = visible_or_gone(reader, resource_type, "r")
    version = await one(conn, SELECT + " AND (" + seen.sql + ")", (resource_type, resource_id, *seen.args))
    return present(version, resource_type)


async def read_of_patients(
    conn: Connection, reader: Reader, resource_type: str, resource_id: str
) -> tuple[Version, tuple[str, ...]]:
    """`read`, and the patients whom the resource is about by its index: its text need not be parsed for that."""
    reader.require_some("r", resource_type)
    require_identity(resource_type, resource_id)
    seen = visible_or_gone(reader, resource_type, "r")
    rows = await conn.execute(_SELECT_READ + seen.sql + ")", (resource_type, resource_id, *seen.args))
    row = await rows.fetchone()
    version = present(Version(*row[:6]) if row is not None else None, resource_type)
    assert row is not None  # noqa: S101
    return version, (resource_id,) if resource_type == "Patient" else tuple(row[6])


async def current(
    conn: Connection, reader: Reader, letter: str, resource_type: str, resource_id: str
) -> Version | None:
    """The current version, a deletion too; None where there never was one that the reader's scopes open to the
    interaction. For who is about to write."""
    seen = visible_or_gone(reader, resource_type, letter)
    return await one(conn, SELECT + " AND (" + seen.sql + ")", (resource_type, resource_id, *seen.args))


async def vread(conn: Connection, reader: Reader, resource_type: str, resource_id: str, version_id: int) -> Version:
    """One version. Raises Forbidden, NotFound, and Gone for the version that is a deletion.

    A reader of a part of the type sees a version where both its content and the current one are of that part.
    """
    reader.require_some("r", resource_type)
    require_identity(resource_type, resource_id)
    seen = visible_or_gone(reader, resource_type, "r")
    version = await one(conn, _SELECT_VERSION + seen.sql + ")", (resource_type, resource_id, version_id, *seen.args))
    if version is not None and seen != TRUE:
        [is_seen] = await former.seen(conn, reader, "r", [version])
        version = version if is_seen else None
    return present(version, resource_type)


async def find(
    conn: Connection,
    reader: Reader,
    resource_type: str,
    params: Sequence[tuple[str, str]],
    *,
    most: int | None = None,
) -> list[Version]:
    """The current resources that the reader may search and that match every parameter, oldest first: all of them, or
    the first `most`.

    Raises Forbidden, and InvalidInput for a parameter that the type has not.
    """
    reader.require_some("s", resource_type)
    require_stored(resource_type)
    asked = await query.matching(conn, reader, resource_type, params)
    where = all_of([visible(reader, resource_type, "s"), asked])
    async with conn.cursor(row_factory=class_row(Version)) as cursor:
        await cursor.execute(
            _FIND + "(" + where.sql + ") ORDER BY r.key LIMIT %s", (resource_type, *where.args, most), prepare=False
        )
        return await cursor.fetchall()


async def locked(conn: Connection, resource_type: str, resource_id: str) -> Version | None:
    return await one(conn, SELECT + " FOR UPDATE", (resource_type, resource_id))


async def one(conn: Connection, sql: LiteralString, args: tuple[Any, ...]) -> Version | None:
    async with conn.cursor(row_factory=class_row(Version)) as cursor:
        await cursor.execute(sql, args)
        return await cursor.fetchone()


SELECT: LiteralString = """
    SELECT r.resource_type, r.id, r.version_id, r.last_updated, r.body, r.deleted
    FROM resource r WHERE r.resource_type = %s AND r.id = %s
"""
_SELECT_READ: LiteralString = """
    SELECT r.resource_type, r.id, r.version_id, r.last_updated, r.body, r.deleted, ARRAY (
        SELECT DISTINCT i.target_id FROM index_reference i
        WHERE i.resource_key = r.key AND i.param IN ('patient', 'subject') AND i.target_type = 'Patient'
            AND i.target_id <> '' AND i.url = '')
    FROM resource r WHERE r.resource_type = %s AND r.id = %s AND (
"""
_SELECT_VERSION: LiteralString = """
    SELECT v.resource_type, v.id, v.version_id, v.last_updated, v.body, v.deleted FROM resource_version v
    JOIN resource r ON r.resource_type = v.resource_type AND r.id = v.id
    WHERE v.resource_type = %s AND v.id = %s AND v.version_id = %s AND (
"""
_FIND = """
    SELECT r.resource_type, r.id, r.version_id, r.last_updated, r.body, r.deleted FROM resource r
    WHERE r.resource_type = %s AND NOT r.deleted AND
"""
