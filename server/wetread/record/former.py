"""Former versions as a reader may see them: by their own content, whatever became of the resource since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString, Protocol

from wetread.domain.reader import Reader
from wetread.record import lossless
from wetread.record.compartment import BY_WHAT_THEY_REFER_TO, visible
from wetread.record.condition import FALSE, TRUE
from wetread.record.search import index
from wetread.store.database import Connection


class Kept(Protocol):
    """A version as it was stored."""

    @property
    def resource_type(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def body(self) -> str: ...
    @property
    def deleted(self) -> bool: ...


async def seen(conn: Connection, reader: Reader, letter: str, versions: Sequence[Kept]) -> list[bool]:
    """Of each version, whether the reader's scopes open its content to an interaction.

    A deletion has no content, so only who may see the whole type sees it. What is decided by other resources
    (Provenance, Binary) is not known of the past: to any other reader those versions are closed, too.
    """
    limits = {v.resource_type: visible(reader, v.resource_type, letter) for v in versions}
    open_ = [limits[v.resource_type] == TRUE for v in versions]
    for resource_type, limit in limits.items():
        if limit in (TRUE, FALSE) or resource_type in BY_WHAT_THEY_REFER_TO:
            continue
        places = [n for n, v in enumerate(versions) if v.resource_type == resource_type and not v.deleted]
        if not places:
            continue
        entries = {place: index.extract(lossless.parse(versions[place].body)) for place in places}
        tables, args = _as_tables(resource_type, entries)
        given: LiteralString = "SELECT %s AS resource_type, * FROM unnest(%s::bigint[], %s::text[]) AS v (key, id)"
        rows = await conn.execute(
            "WITH " + tables + " SELECT r.key FROM (" + given + ") r WHERE " + limit.sql,
            (*args, resource_type, places, [versions[place].id for place in places], *limit.args),
        )
        for (place,) in await rows.fetchall():
            open_[place] = True
    return open_


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
