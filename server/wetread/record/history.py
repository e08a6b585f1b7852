"""Versions as a history Bundle, newest first: of one resource, of a type, of everything (FHIR R4 3.1.0.15).

The order is final, and so is what a page's `next` leads to: one resource's versions stand by their number; those of a
type or of everything by their place in the ordered log (`events`), which is the order in which they were committed.
`lastUpdated` gives neither: it is taken before the commit, and two versions may share it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from urllib.parse import urlencode

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.errors import Forbidden, InvalidInput, NotFound
from wetread.record import events, former
from wetread.record.aside import aside
from wetread.record.compartment import patients_named, visible, visible_of
from wetread.record.condition import TRUE, Condition, all_of
from wetread.record.cursors import CURSOR, OF_THIS_PROCESS, Cursors
from wetread.record.lossless import dump, parse
from wetread.record.page import PAGE_BYTES, cut
from wetread.record.search.index import date_range
from wetread.record.search.parameters import resource_types
from wetread.record.shape import shaped
from wetread.record.splice import instant
from wetread.record.versions import require_identity
from wetread.store.database import Connection

_DEFAULT_COUNT = 50
_MOST_COUNT = 1000
_BATCH = 200
"""How many versions are judged at once for a reader of a part of a type."""
_LONGEST_TRANSACTION = timedelta(hours=1)
"""How much earlier than a version's `lastUpdated` its event may be dated: clocks differ, and transactions last."""
_KNOWN = ("_count", "_since", "_at", CURSOR, "_summary", "_elements", "_format", "_pretty")


@dataclass(frozen=True, slots=True)
class History:
    """A history Bundle as text. `patient_ids` are the patients whom it is about, for the audit."""

    body: str
    patient_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A version, and its place in the order."""

    place: int
    resource_type: str
    id: str
    version_id: int
    last_updated: datetime
    body: str
    deleted: bool
    method: str
    is_new: bool
    """Whether nothing was there before it: the first version, or one after a deletion."""
    held: int
    """How many rows its query gave before it was cut by size."""
    before: int
    """The bytes of those rows that come before this one."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """`url` is that of the history; `before` and `floor` are the places between which the page lies."""

    reader: Reader
    url: str
    base_url: str
    cursors: Cursors
    applied: tuple[tuple[str, str], ...]
    count: int
    since: datetime | None
    at: tuple[datetime, datetime] | None
    before: int | None
    floor: int
    summary: str
    elements: tuple[str, ...]


async def of_resource(
    conn: Connection,
    reader: Reader,
    resource_type: str,
    resource_id: str,
    params: Sequence[tuple[str, str]],
    base_url: str,
    *,
    cursors: Cursors = OF_THIS_PROCESS,
) -> History:
    """One page of a resource's versions. Raises Forbidden, NotFound, InvalidInput."""
    reader.require_some("r", resource_type)
    require_identity(resource_type, resource_id)
    asked = _asked(reader, params, f"{base_url}/{resource_type}/{resource_id}/_history", base_url, cursors)
    one = all_of(
        [
            Condition("v.resource_type = %s AND v.id = %s", (resource_type, resource_id)),
            *_seen(reader, "r", [resource_type]),
        ]
    )
    if await _count(conn, one) == 0:
        raise NotFound("no such resource here, now or before")
    where = all_of([one, *_period(asked)])
    is_whole = visible(reader, resource_type, "r") == TRUE
    total = await _count(conn, where) if is_whole else None

    async def before(place: int | None, most: int) -> list[_Kept]:
        end = TRUE if place is None else Condition("v.version_id < %s", (place,))
        return await _rows(conn, _OF_RESOURCE, all_of([where, end]), " ORDER BY v.version_id DESC LIMIT %s", most)

    page, more = await _page(conn, "r", before, asked, is_whole=is_whole)
    return await aside(_size(page), lambda: _history(page, asked, total, more=more, bases=conn.bases))


async def of_type(
    conn: Connection,
    reader: Reader,
    resource_type: str,
    params: Sequence[tuple[str, str]],
    base_url: str,
    *,
    cursors: Cursors = OF_THIS_PROCESS,
) -> History:
    """One page of the versions of a type. Raises Forbidden, NotFound, InvalidInput."""
    if resource_type not in resource_types():
        raise NotFound("no such resource type here; see GET metadata")
    reader.require_some("s", resource_type)
    asked = _asked(reader, params, f"{base_url}/{resource_type}/_history", base_url, cursors)
    return await _of_log(conn, [resource_type], asked)


async def of_system(
    conn: Connection,
    reader: Reader,
    params: Sequence[tuple[str, str]],
    base_url: str,
    *,
    cursors: Cursors = OF_THIS_PROCESS,
) -> History:
    """One page of the versions of every type that the reader may search. Raises Forbidden, InvalidInput."""
    types = [name for name in sorted(resource_types()) if reader.may_some("s", name)]
    if not types:
        raise Forbidden("the token's scopes do not allow 's' on any type")
    return await _of_log(conn, types, _asked(reader, params, f"{base_url}/_history", base_url, cursors))


async def _of_log(conn: Connection, types: Sequence[str], asked: _Asked) -> History:
    reader, floor = asked.reader, asked.floor
    if asked.before is None and asked.since is not None:
        floor = await _first_since(conn, asked.since)
    where = [Condition("e.seq >= %s", (floor,)), *_seen(reader, "s", types), *_period(asked)]
    if len(types) == 1:
        where.append(Condition("e.resource_type = %s", (types[0],)))
    elif len(types) < len(resource_types()):
        where.append(Condition("e.resource_type = ANY (%s)", (list(types),)))
    wanted = all_of(where)

    async def before(place: int | None, most: int) -> list[_Kept]:
        end = TRUE if place is None else Condition("e.seq < %s", (place,))
        return await _rows(conn, _OF_LOG, all_of([wanted, end]), " ORDER BY e.seq DESC LIMIT %s", most)

    is_whole = all(visible(reader, name, "s") == TRUE for name in types)
    page, more = await _page(conn, "s", before, asked, is_whole=is_whole)
    return await aside(_size(page), lambda: _history(page, asked, None, floor, more=more, bases=conn.bases))


_COLUMNS: LiteralString = """
    v.resource_type, v.id, v.version_id, v.last_updated, v.body, v.deleted, v.method, v.version_id = 1 OR EXISTS (
        SELECT FROM resource_version p WHERE p.resource_type = v.resource_type AND p.id = v.id
            AND p.version_id = v.version_id - 1 AND p.deleted) AS is_new
"""
_OF_RESOURCE: LiteralString = "SELECT v.version_id AS place, " + _COLUMNS + " FROM resource_version v WHERE "
_OF_LOG: LiteralString = (
    "SELECT e.seq AS place, " + _COLUMNS + " FROM event e JOIN resource_version v"
    " ON v.resource_type = e.resource_type AND v.id = e.resource_id AND v.version_id = e.version_id WHERE "
)


async def _page(
    conn: Connection,
    letter: str,
    before: Callable[[int | None, int], Awaitable[list[_Kept]]],
    asked: _Asked,
    *,
    is_whole: bool,
) -> tuple[list[_Kept], bool]:
    """The rows of a page, and whether there are more: those whose own content the reader may see, too. Fewer where they
    are long."""
    found: list[_Kept] = []
    place, most = asked.before, asked.count + 1 if is_whole else _BATCH
    while True:
        rows = await before(place, most)
        if is_whole:
            found += rows
        else:
            shown = await former.seen(conn, asked.reader, letter, rows)
            found += [row for row, is_seen in zip(rows, shown, strict=True) if is_seen]
        fitting = _fitting(found, asked.count)
        if fitting < len(found) or not rows or len(rows) == rows[0].held < most:
            return found[:fitting], fitting < len(found)
        place = rows[-1].place


def _fitting(rows: Sequence[_Kept], most: int) -> int:
    """How many of these go on a page: the last of them may go beyond its size."""
    size = 0
    for number, row in enumerate(rows[:most]):
        if size >= PAGE_BYTES:
            return number
        size += len(row.body)
    return min(most, len(rows))


def _size(page: Sequence[_Kept]) -> int:
    return sum(len(row.body) for row in page)


def _seen(reader: Reader, letter: str, types: Sequence[str]) -> Iterator[Condition]:
    """Leaves out what of these types the reader may not see now."""
    whole = [name for name in types if visible(reader, name, letter) == TRUE]
    if len(whole) < len(types):
        limit = visible_of(reader, [name for name in types if name not in whole], letter)
        sql: LiteralString = "SELECT FROM resource r WHERE r.resource_type = v.resource_type AND r.id = v.id"
        yield Condition(
            "v.resource_type = ANY (%s) OR EXISTS (" + sql + " AND NOT r.deleted AND (" + limit.sql + "))",
            (whole, *limit.args),
        )


def _period(asked: _Asked) -> Iterator[Condition]:
    if asked.since is not None:
        yield Condition("v.last_updated >= %s", (asked.since,))
    if asked.at is not None:
        # Current at some moment of the period: begun before its end, and not followed before its start.
        yield Condition(
            """v.last_updated < %s AND NOT EXISTS (
            SELECT FROM resource_version n WHERE n.resource_type = v.resource_type AND n.id = v.id
                AND n.version_id = v.version_id + 1 AND n.last_updated <= %s)""",
            (asked.at[1], asked.at[0]),
        )


async def _first_since(conn: Connection, since: datetime) -> int:
    """A place in the log before which no version is as young as `since`."""
    try:
        earliest = since - _LONGEST_TRANSACTION
    except OverflowError:
        return 0
    row = await (await conn.execute("SELECT min(seq) FROM event WHERE at >= %s", (earliest,))).fetchone()
    return int(row[0]) if row and row[0] is not None else await events.last(conn) + 1


async def _count(conn: Connection, where: Condition) -> int:
    sql: LiteralString = "SELECT count(*) FROM resource_version v WHERE "
    row = await (await conn.execute(sql + where.sql, where.args)).fetchone()
    return int(row[0]) if row else 0


async def _rows(conn: Connection, sql: LiteralString, where: Condition, order: LiteralString, most: int) -> list[_Kept]:
    async with conn.cursor(row_factory=class_row(_Kept)) as cursor:
        await cursor.execute(cut(sql + where.sql + order), (*where.args, most, PAGE_BYTES))
        return await cursor.fetchall()


def _history(
    page: Sequence[_Kept], asked: _Asked, total: int | None, floor: int = 0, *, more: bool, bases: Sequence[str]
) -> History:
    links = [{"relation": "self", "url": _with(asked.url, asked.applied)}]
    if more and page:
        after = asked.cursors.sealed(asked.reader, asked.url, asked.applied, [page[-1].place, floor])
        rest = [pair for pair in asked.applied if pair[0] != CURSOR]
        links.append({"relation": "next", "url": _with(asked.url, [*rest, (CURSOR, after)])})
    head: dict[str, Any] = {
        "resourceType": "Bundle",
        "id": str(uuid.uuid4()),
        "meta": {"lastUpdated": instant(datetime.now(UTC))},
        "type": "history",
        **({"total": total} if total is not None else {}),
        "link": links,
    }
    entries = ",".join(_entry(row, asked) for row in page)
    body = f'{dump(head)[:-1]},"entry":[{entries}]}}' if entries else dump(head)
    return History(body, _patients(page, bases))


def _patients(page: Sequence[_Kept], bases: Sequence[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for row in page:
        if row.resource_type == "Patient":
            found[row.id] = None
        elif not row.deleted:
            found |= dict.fromkeys(patients_named(parse(row.body), bases))
    return tuple(found)


def _entry(row: _Kept, asked: _Asked) -> str:
    """An entry whose request, done again elsewhere, gives this version."""
    path = f"{row.resource_type}/{row.id}"
    rest = {
        "request": {"method": row.method, "url": row.resource_type if row.method == "POST" else path},
        "response": {
            "status": "204" if row.deleted else "201" if row.is_new else "200",
            "etag": f'W/"{row.version_id}"',
            "lastModified": instant(row.last_updated),
        },
    }
    resource = f'"resource":{shaped(row.body, asked.summary, asked.elements)},' if not row.deleted else ""
    return f'{{"fullUrl":{json.dumps(f"{asked.base_url}/{path}")},{resource}{dump(rest)[1:]}'


def _asked(
    reader: Reader, params: Sequence[tuple[str, str]], url: str, base_url: str, cursors: Cursors
) -> _Asked:  # fmt: skip
    given = {name: value for name, value in params if name in _KNOWN}
    applied = tuple(given.items())
    before, floor = cursors.opened(reader, url, applied, given[CURSOR]) if CURSOR in given else (None, 0)
    elements, summary = given.get("_elements", ""), given.get("_summary", "")
    count = _number(given.get("_count"), _DEFAULT_COUNT, _MOST_COUNT)
    return _Asked(
        reader=reader,
        url=url,
        base_url=base_url,
        cursors=cursors,
        applied=applied,
        count=0 if summary == "count" else count,
        since=_range(given, "_since")[0] if "_since" in given else None,
        at=_range(given, "_at") if "_at" in given else None,
        before=before,
        floor=floor,
        summary="" if summary == "count" else summary,
        elements=tuple(filter(None, elements.split(","))),
    )


def _number(text: str | None, default: int, most: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 11):
        raise InvalidInput("_count takes a whole number", location="http._count")
    return min(int(text), most)


def _range(given: dict[str, str], name: str) -> tuple[datetime, datetime]:
    try:
        # A plus sign that nobody escaped arrives as a blank.
        return date_range(given[name].replace(" ", "+"))
    except ValueError as error:
        raise InvalidInput(f"{name} takes a FHIR date or instant", location=f"http.{name}") from error


def _with(url: str, params: Sequence[tuple[str, str]]) -> str:
    return f"{url}?{urlencode(params)}" if params else url
