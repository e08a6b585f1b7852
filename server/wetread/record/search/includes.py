"""_include and _revinclude (FHIR R4 3.1.1.5.4): what the matches refer to, and what refers to the matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg.rows import tuple_row

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record.compartment import visible_of
from wetread.record.condition import FALSE, TRUE, Condition, all_of, any_of
from wetread.record.page import cut
from wetread.record.search import found
from wetread.record.search.found import Found
from wetread.record.search.parameters import parameters_of, resource_types
from wetread.record.versions import Version
from wetread.store.database import Connection

MOST_INCLUDED = 5000
"""Resources that one page may include; a page that would include more gets fewer matches."""
_MOST_ROUNDS = 50


class TooMany(Exception):
    """The matches include more than MOST_INCLUDED resources, longer ones than fit, or by a longer chain than is
    followed."""


@dataclass(frozen=True, slots=True)
class Include:
    """`source:param[:target]`, forwards or in reverse; an empty `source`, `param` or `target` is any."""

    reverse: bool
    iterate: bool
    source: str
    param: str
    target: str


def parse(name: str, value: str) -> Include:
    """`Type:parameter[:Target]`, `Type:*`, or `*`. Raises InvalidInput."""
    word, _, modifier = name.partition(":")
    if modifier not in ("", "iterate", "recurse"):
        raise InvalidInput(f"the modifier :{modifier} is not one of {word}", location=f"http.{name}")
    reverse, iterate = word == "_revinclude", bool(modifier)
    if value == "*":
        return Include(reverse, iterate, "", "", "")
    source, _, rest = value.partition(":")
    param, _, target = rest.partition(":")
    param = "" if param == "*" else param
    parameter = parameters_of(source).get(param) if source in resource_types() else None
    if (
        not rest
        or source not in resource_types()
        or (param and (parameter is None or parameter.kind != "reference"))
        or (target and target not in resource_types())
    ):
        raise InvalidInput("expected Type:reference-parameter[:TargetType], Type:* or *", location=f"http.{name}")
    return Include(reverse, iterate, source, param, target)


async def included(
    conn: Connection, reader: Reader, matches: Sequence[Version], includes: Sequence[Include], most_bytes: int
) -> list[Found]:
    """The included resources that the reader may see, each once, none of the matches among them; of at most so many
    bytes together.

    Includes that iterate are followed from what was included, until nothing new is found. Raises TooMany.
    """
    seen = {(m.resource_type, m.id) for m in matches}
    all_found: list[Found] = []
    latest, wanted = list(matches), list(includes)
    forward = _allowed(reader, "r") if includes else TRUE
    # What refers to a match is found by a search, and shown as by a read.
    reverse = all_of([forward, _allowed(reader, "s")]) if any(i.reverse for i in includes) else FALSE
    for _ in range(_MOST_ROUNDS):
        if not latest or not wanted:
            break
        fresh: list[Found] = []
        for include in wanted:
            allowed = reverse if include.reverse else forward
            for each in await _step(conn, allowed, latest, include, most_bytes):
                identity = each.version.resource_type, each.version.id
                if identity not in seen:
                    seen.add(identity)
                    fresh.append(each)
                    most_bytes -= len(each.version.body)
            if len(all_found) + len(fresh) > MOST_INCLUDED or most_bytes < 0:
                raise TooMany
        all_found += fresh
        latest, wanted = [each.version for each in fresh], [i for i in includes if i.iterate]
    else:
        raise TooMany
    return all_found


def _allowed(reader: Reader, letter: str) -> Condition:
    """What the reader's scopes open of every type, as a condition on `resource r`."""
    return visible_of(reader, [t for t in sorted(resource_types()) if reader.may_some(letter, t)], letter)


_SELECT: LiteralString = "SELECT " + found.COLUMNS + " FROM resource r WHERE NOT r.deleted AND ("
_AROUND: LiteralString = "(SELECT * FROM unnest(%s::text[], %s::text[]))"


async def _step(
    conn: Connection, allowed: Condition, around: Sequence[Version], include: Include, most_bytes: int
) -> list[Found]:
    """What one include gives, up to and with the one that goes beyond `most_bytes`; raises TooMany where that is not
    all. What was found before counts again, so that a page may be shorter than it need be, never longer."""
    wanted_type = include.target if include.reverse else include.source
    around = [v for v in around if wanted_type in ("", v.resource_type)]
    if not around:
        return []
    types, ids = [v.resource_type for v in around], [v.id for v in around]
    linked = [_referring(include, types, ids)] if include.reverse else _referred(include, types, ids)
    rows: list[Found] = []
    for condition in linked:
        sql = _SELECT + condition.sql + ") AND (" + allowed.sql + ") ORDER BY r.key LIMIT %s"
        async with conn.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(
                cut(sql), (*condition.args, *allowed.args, MOST_INCLUDED + 1, max(most_bytes, 1)), prepare=False
            )
            found_rows = await cursor.fetchall()
        if found_rows and len(found_rows) < found_rows[0][-2]:
            raise TooMany
        rows += [Found.of(row) for row in found_rows]
    return rows


def _referred(include: Include, types: list[str], ids: list[str]) -> list[Condition]:
    """What these refer to: by type and id, or as canonicals by the url of what is meant."""
    rows = _rows(include)
    by_key: LiteralString = (
        " AND i.resource_key IN (SELECT s.key FROM resource s WHERE (s.resource_type, s.id) IN " + _AROUND + ")"
    )
    target = Condition("i.target_type = %s", (include.target,)) if include.target else TRUE
    local = Condition(
        "(r.resource_type, r.id) IN (SELECT i.target_type, i.target_id FROM index_reference i WHERE " + rows.sql
        + by_key + " AND i.url = '' AND i.target_id <> '' AND (" + target.sql + "))",
        (*rows.args, types, ids, *target.args),
    )  # fmt: skip
    canonical_types = _canonical_targets(include)
    if not canonical_types:
        return [local]
    by_url = Condition(
        "r.resource_type = ANY (%s) AND r.key IN (SELECT u.resource_key FROM index_uri u"
        " WHERE u.resource_type = ANY (%s) AND u.param = 'url' AND u.uri IN"
        " (SELECT i.url FROM index_reference i WHERE " + rows.sql + by_key
        + " AND i.url <> ''))",
        (canonical_types, canonical_types, *rows.args, types, ids),
    )  # fmt: skip
    return [local, by_url]


def _referring(include: Include, types: list[str], ids: list[str]) -> Condition:
    rows = _rows(include)
    by_id = Condition(
        "r.key IN (SELECT i.resource_key FROM index_reference i WHERE " + rows.sql
        + " AND i.url = '' AND i.target_id <> '' AND (i.target_type, i.target_id) IN " + _AROUND + ")",
        (*rows.args, types, ids),
    )  # fmt: skip
    if not _canonical_targets(include):
        return by_id
    by_url = Condition(
        "r.key IN (SELECT i.resource_key FROM index_reference i WHERE " + rows.sql
        + " AND i.url <> '' AND i.url IN (SELECT u.uri FROM index_uri u JOIN resource s ON s.key = u.resource_key"
        " WHERE u.param = 'url' AND (s.resource_type, s.id) IN " + _AROUND + "))",
        (*rows.args, types, ids),
    )  # fmt: skip
    return any_of([by_id, by_url])


def _rows(include: Include) -> Condition:
    return all_of(
        [
            Condition("i.resource_type = %s", (include.source,)) if include.source else TRUE,
            Condition("i.param = %s", (include.param,)) if include.param else TRUE,
        ]
    )


def _canonical_targets(include: Include) -> list[str]:
    """The types that a reference of this parameter may name by canonical url: those that have one."""
    if not include.source or not include.param:
        return []
    targets = [include.target] if include.target else parameters_of(include.source)[include.param].targets
    with_url = [t for t in targets if t in resource_types() and "url" in parameters_of(t)]
    return with_url if len(with_url) == len(targets) else []
