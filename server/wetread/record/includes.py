"""_include and _revinclude (FHIR R4 3.1.1.5.4): what the matches refer to, and what refers to the matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record.parameters import parameters_of, resource_types
from wetread.record.resources import Version
from wetread.store.database import Connection

MOST_INCLUDED = 1000
_DEEPEST = 5


@dataclass(frozen=True, slots=True)
class Include:
    """`source:param[:target]`, forwards or in reverse; an empty `param` is any."""

    reverse: bool
    iterate: bool
    source: str
    param: str
    target: str


def parse(name: str, value: str) -> Include:
    """Raises InvalidInput."""
    word, _, modifier = name.partition(":")
    source, _, rest = value.partition(":")
    param, _, target = rest.partition(":")
    if modifier not in ("", "iterate", "recurse"):
        raise InvalidInput(f"the modifier :{modifier} is not one of {word}", location=name)
    param = "" if param == "*" else param
    parameter = parameters_of(source).get(param) if source in resource_types() else None
    if source not in resource_types() or (param and (parameter is None or parameter.kind != "reference")) or not rest:
        raise InvalidInput("expected Type:reference-parameter[:TargetType]", location=name)
    return Include(word == "_revinclude", bool(modifier), source, param, target)


async def included(
    conn: Connection, reader: Reader, matches: Sequence[Version], includes: Sequence[Include]
) -> list[Version]:
    """The included resources that the reader may read, each once, none of the matches among them.

    Raises InvalidInput where there are more than MOST_INCLUDED.
    """
    seen = {(m.resource_type, m.id) for m in matches}
    found: list[Version] = []
    latest, wanted = list(matches), list(includes)
    for _ in range(_DEEPEST):
        if not latest or not wanted:
            break
        fresh: list[Version] = []
        for include in wanted:
            for version in await _step(conn, reader, latest, include):
                if (version.resource_type, version.id) not in seen:
                    seen.add((version.resource_type, version.id))
                    fresh.append(version)
        found += fresh
        if len(found) > MOST_INCLUDED:
            raise InvalidInput(f"more than {MOST_INCLUDED} resources to include; ask for a smaller _count")
        latest, wanted = fresh, [i for i in includes if i.iterate]
    return found


_FORWARD = """
    SELECT r.resource_type, r.id, r.version_id, r.last_updated, r.body, r.deleted FROM resource r
    WHERE NOT r.deleted AND (r.resource_type, r.id) IN (
        SELECT i.target_type, i.target_id FROM index_reference i
        JOIN resource s ON s.key = i.resource_key
        WHERE i.resource_type = %(source)s
            AND (s.resource_type, s.id) IN (SELECT * FROM unnest(%(types)s::text[], %(ids)s::text[]))
            AND (%(param)s = '' OR i.param = %(param)s) AND i.url = '' AND i.target_id <> ''
            AND (%(target)s = '' OR i.target_type = %(target)s) AND i.target_type = ANY (%(allowed)s)
    )
    ORDER BY r.key LIMIT %(most)s
"""
_REVERSE = """
    SELECT r.resource_type, r.id, r.version_id, r.last_updated, r.body, r.deleted FROM resource r
    WHERE NOT r.deleted AND r.resource_type = %(source)s AND r.resource_type = ANY (%(allowed)s) AND r.key IN (
        SELECT i.resource_key FROM index_reference i
        WHERE i.resource_type = %(source)s AND (%(param)s = '' OR i.param = %(param)s)
            AND i.url = '' AND i.target_id <> ''
            AND (i.target_type, i.target_id) IN (SELECT * FROM unnest(%(types)s::text[], %(ids)s::text[]))
    )
    ORDER BY r.key LIMIT %(most)s
"""


async def _step(conn: Connection, reader: Reader, around: Sequence[Version], include: Include) -> list[Version]:
    if include.reverse:
        around = [v for v in around if include.target in ("", v.resource_type)]
    else:
        around = [v for v in around if v.resource_type == include.source]
    if not around:
        return []
    args: dict[str, Any] = {
        "source": include.source,
        "param": include.param,
        "target": include.target,
        "types": [v.resource_type for v in around],
        "ids": [v.id for v in around],
        "allowed": [t for t in resource_types() if reader.may("r", t)],
        "most": MOST_INCLUDED + 1,
    }
    async with conn.cursor(row_factory=class_row(Version)) as cursor:
        await cursor.execute(_REVERSE if include.reverse else _FORWARD, args)
        return await cursor.fetchall()
