"""The definitions that the site stores, each version parsed once.

What is asked of the database at every call is only which versions there are: so a write counts at once, in every
process, and its transaction sees it before others do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, LiteralString, TypeAlias, TypeVar

from wetread.record import lossless
from wetread.record.aside import aside
from wetread.record.search.index import bounded
from wetread.store.database import Connection

Definition: TypeAlias = Mapping[str, Any]
Stamp: TypeAlias = tuple[int, int, str, str]
"""A version by its resource's key, its number, when it was written and by which transaction: never twice the same, even
where a number is taken again after a rollback."""
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_STAMP: LiteralString = "r.key, r.version_id, r.last_updated::text, r.xmin::text"
_BY_URL: LiteralString = (
    "SELECT " + _STAMP + " FROM resource r JOIN index_uri i ON i.resource_key = r.key"
    " WHERE i.resource_type = %s AND i.param = 'url' AND i.uri = %s AND NOT r.deleted"
    " ORDER BY r.last_updated DESC, r.key DESC"
)
_SUPPLEMENTS: LiteralString = (
    "SELECT " + _STAMP + " FROM resource r JOIN index_reference i ON i.resource_key = r.key"
    " WHERE i.resource_type = 'CodeSystem' AND i.param = 'supplements' AND i.url = %s AND NOT r.deleted ORDER BY r.key"
)
_MAPS: LiteralString = (
    "SELECT " + _STAMP + " FROM resource r WHERE r.resource_type = 'ConceptMap' AND NOT r.deleted ORDER BY r.key"
)
_BODIES: LiteralString = "SELECT " + _STAMP + ", r.body FROM resource r WHERE r.key = ANY (%s) AND NOT r.deleted"


class Kept(Generic[K, T]):
    """What was made of texts, until together they are of more than `most` characters: then what nobody has asked for
    the longest goes. A character costs about 9 bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._held: OrderedDict[K, tuple[T, int]] = OrderedDict()

    def get(self, key: K) -> T | None:
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def keep(self, key: K, value: T, size: int) -> None:
        """A value made of `size` characters; one that alone is of more than `most` is not kept."""
        self._size -= self._held.pop(key, (value, 0))[1]
        if size > self._most:
            return
        self._held[key] = (value, size)
        self._size += size
        while self._size > self._most:
            _, (_, gone) = self._held.popitem(last=False)
            self._size -= gone


_definitions: Kept[Stamp, Definition] = Kept(4_000_000)


async def by_url(conn: Connection, resource_type: str, url: str) -> list[Stamp]:
    """The versions under a url that count now, the newest first."""
    return await _stamps(conn, _BY_URL, resource_type, bounded(url))


async def supplements(conn: Connection, url: str) -> list[Stamp]:
    """Those of what supplements the code system of a url."""
    return await _stamps(conn, _SUPPLEMENTS, bounded(url))


async def concept_maps(conn: Connection) -> list[Stamp]:
    return await _stamps(conn, _MAPS)


async def _stamps(conn: Connection, sql: LiteralString, *args: str) -> list[Stamp]:
    return [(key, number, at, writer) async for key, number, at, writer in await conn.execute(sql, args)]


async def definitions(conn: Connection, stamps: Sequence[Stamp]) -> list[Definition]:
    """What these versions define, in their order."""
    found: dict[int, Definition | None] = {stamp[0]: _definitions.get(stamp) for stamp in stamps}
    missing = [stamp for stamp in stamps if found[stamp[0]] is None]
    for stamp, body in await bodies(conn, missing):
        definition = await aside(len(body), partial(lossless.parse, body))
        _definitions.keep(stamp, definition, len(body))
        found[stamp[0]] = definition
    return [d for d in (found[stamp[0]] for stamp in stamps) if d is not None]


async def bodies(conn: Connection, stamps: Sequence[Stamp]) -> list[tuple[Stamp, str]]:
    """The texts of what is there now of these resources, in the order of the stamps."""
    if not stamps:
        return []
    rows = await conn.execute(_BODIES, ([stamp[0] for stamp in stamps],))
    held = {row[0]: ((row[0], row[1], row[2], row[3]), str(row[4])) async for row in rows}
    return [held[stamp[0]] for stamp in stamps if stamp[0] in held]
