"""Former versions as a reader may see them: by their own content, whatever became of the resource since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString, Protocol

from wetread.domain.reader import Reader
from wetread.record import lossless
from wetread.record.compartment import BY_WHAT_THEY_REFER_TO, visible
from wetread.record.condition import FALSE, TRUE, Condition
from wetread.record.search import index
from wetread.store.database import Connection


class Kept(Protocol):
    """A version as it was stored."""

    @property
    def resource_type(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def version_id(self) -> int: ...
    @property
    def body(self) -> str: ...
    @property
    def deleted(self) -> bool: ...


async def seen(conn: Connection, reader: Reader, letter: str, versions: Sequence[Kept]) -> list[bool]:
    """Of each version, whether the reader's scopes open its content to an interaction.

    A deletion has no content, so only who may see the whole type sees it. What is decided by other resources
    (Provenance, Binary) is not known of the past: to any other reader only their current versions are open.
    """
    limits = {v.resource_type: visible(reader, v.resource_type, letter) for v in versions}
    open_ = [limits[v.resource_type] == TRUE for v in versions]
    for resource_type, limit in limits.items():
        places = [n for n, v in enumerate(versions) if v.resource_type == resource_type and not v.deleted]
        if limit in (TRUE, FALSE) or not places:
            continue
        of_type = [versions[place] for place in places]
        judged = _current if resource_type in BY_WHAT_THEY_REFER_TO else _by_content
        rows = await conn.execute(*judged(resource_type, places, of_type, limit, conn.bases))
        for (place,) in await rows.fetchall():
            open_[place] = True
    return open_


async def shown(conn: Connection, reader: Reader, letter: str, version: Kept) -> bool:
    """Whether the reader's scopes open both a version's content and what the resource is now."""
    limit = visible(reader, version.resource_type, letter)
    if limit in (TRUE, FALSE) or not (await seen(conn, reader, letter, [version]))[0]:
        return limit == TRUE
    sql: LiteralString = "SELECT FROM resource r WHERE r.resource_type = %s AND r.id = %s AND NOT r.deleted AND ("
    rows = await conn.execute(sql + limit.sql + ")", (version.resource_type, version.id, *limit.args))
    return await rows.fetchone() is not None


def _by_content(
    resource_type: str, places: list[int], versions: Sequence[Kept], limit: Condition, bases: Sequence[str]
) -> tuple[LiteralString, tuple[Any, ...]]:
    entries = {
        place: index.extract(lossless.parse(version.body), bases)
        for place, version in zip(places, versions, strict=True)
    }
    tables, args = _as_tables(resource_type, entries)
    given: LiteralString = "SELECT %s AS resource_type, * FROM unnest(%s::bigint[], %s::text[]) AS v (key, id)"
    sql: LiteralString = "WITH " + tables + " SELECT r.key FROM (" + given + ") r WHERE " + limit.sql
    return sql, (*args, resource_type, places, [version.id for version in versions], *limit.args)


def _current(
    resource_type: str, places: list[int], versions: Sequence[Kept], limit: Condition, bases: Sequence[str]
) -> tuple[LiteralString, tuple[Any, ...]]:
    sql: LiteralString = (
        "SELECT v.place FROM unnest(%s::bigint[], %s::text[], %s::int[]) AS v (place, id, version_id) JOIN resource r"
        " ON r.resource_type = %s AND r.id = v.id AND r.version_id = v.version_id WHERE NOT r.deleted AND ("
    )
    ids, numbers = [version.id for version in versions], [version.version_id for version in versions]
    return sql + limit.sql + ")", (places, ids, numbers, resource_type, *limit.args)


def _as_tables(resource_type: str, entries: Mapping[int, index.Entries]) -> tuple[LiteralString, list[Any]]:
    """The index rows of resources, by key, as tables that stand before the stored ones in a query."""
    tables: list[LiteralString] = []
    args: list[Any] = []
    for name, columns in index.COLUMNS.items():
        rows = [(key, *row) for key, found in entries.items() for row in getattr(found, name)]
        typed: tuple[LiteralString, ...] = ("resource_key bigint", "param text", *columns)
        names: LiteralString = ", ".join(column.split()[0] for column in typed)
        arrays: LiteralString = ", ".join("%s::" + column.split()[1] + "[]" for column in typed)
        rows_of: LiteralString = "SELECT %s::text AS resource_type, * FROM unnest(" + arrays + ") AS t (" + names + ")"
        tables.append("index_" + name + " AS (" + rows_of + ")")
        args += [resource_type, *([row[number] for row in rows] for number in range(len(typed)))]
    return ", ".join(tables), args
