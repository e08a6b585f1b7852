"""Searches of a type, of several, of a compartment: a searchset Bundle, page by page (FHIR R4 3.1.1).

The union of the pages is the unpaged set, also while others write: see `paging`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, NotFound, TooCostly
from wetread.record.aside import aside
from wetread.record.compartment import member, visible_of
from wetread.record.condition import TRUE, Condition, all_of
from wetread.record.cursors import OF_THIS_PROCESS, Cursors
from wetread.record.page import MOST_BYTES, PAGE_BYTES
from wetread.record.search import includes, paging, query, searchset
from wetread.record.search.found import Found
from wetread.record.search.parameters import resource_types
from wetread.record.search.plan import Plan, planned
from wetread.record.time_limit import time_limit
from wetread.store.database import Connection

TIME_LIMIT_S = 30.0
_ADVICE = "make it more specific"
_COUNTED = 10_000
"""An estimated total is exact up to here, and the planner's guess above."""


@dataclass(frozen=True, slots=True)
class SearchSet:
    """A searchset Bundle as text. `patient_ids` are the patients whom it is about, for the audit."""

    body: str
    patient_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What is searched for: `resource_type` is empty for a search over several types, those of `_type` or else all that
    the reader may search. `base_url` is that of the FHIR face, `compartment` a type and an id."""

    resource_type: str
    params: Sequence[tuple[str, str]]
    base_url: str
    compartment: tuple[str, str] | None = None
    strict: bool = False
    """Whether a parameter that the type has not is an error, rather than ignored and told of (FHIR R4 3.1.1.3.1)."""
    time_limit_s: float = TIME_LIMIT_S
    cursors: Cursors = OF_THIS_PROCESS

    @property
    def url(self) -> str:
        """Where it is asked."""
        path = (*(self.compartment or ()), self.resource_type or ("*" if self.compartment else ""))
        return "/".join((self.base_url, *(part for part in path if part)))


async def search(conn: Connection, reader: Reader, request: SearchRequest) -> SearchSet:
    """One page.

    Raises Forbidden, also where the reader may search nothing, NotFound for an unknown type, InvalidInput for a bad
    value or modifier, or when `strict` an unknown parameter, Unsupported, TooCostly.
    """
    types = (_named if request.resource_type else _several)(reader, request)
    async with time_limit(request.time_limit_s, "search", _ADVICE):
        return await _search(query.Question(conn, reader, request.base_url), types, request)


def _named(reader: Reader, request: SearchRequest) -> tuple[str, ...]:
    if request.resource_type not in resource_types():
        raise NotFound("no such resource type here; see GET metadata")
    reader.require_some("s", request.resource_type)
    return (request.resource_type,)


def _several(reader: Reader, request: SearchRequest) -> tuple[str, ...]:
    named = [t for name, value in request.params if name == "_type" for t in value.split(",") if t]
    if unknown := [t for t in named if t not in resource_types()]:
        raise InvalidInput(f"{unknown[0][:64]!r} is no type that is searched here", location="http._type")
    for resource_type in named:
        reader.require_some("s", resource_type)
    types = tuple(dict.fromkeys(named)) or tuple(t for t in sorted(resource_types()) if reader.may_some("s", t))
    if not types:
        reader.require_some("s", "Patient")
    return types


async def _search(question: query.Question, types: tuple[str, ...], request: SearchRequest) -> SearchSet:
    conn, reader, base_url, url = question.conn, question.reader, request.base_url, request.url
    plan = await planned(question, types, request.params, strict=request.strict)
    inside = member(*request.compartment, types) if request.compartment else TRUE
    seen = visible_of(reader, types, "s")
    where = all_of([Condition("NOT r.deleted"), seen, inside, *plan.conditions])
    if plan.only_count:
        counted = await _total(conn, where)
        return SearchSet(searchset.bundle(_told(plan), counted, [plan.link("self", url, "")]), ())

    began = datetime.now(UTC)
    cursor = None
    if plan.cursor_text:
        cursor = paging.placed(request.cursors.opened(reader, url, plan.applied, plan.cursor_text), plan.sort)
    is_broad = plan.is_broad and request.compartment is None and seen == query.of_types("r", types)
    rows, more = await paging.page(conn, types, where, plan.sort, cursor, plan.count, is_broad=is_broad)
    page, included = await _with_includes(conn, reader, rows, plan)
    more = more or len(page) < len(rows)
    matches = [row.found for row in page]

    links = [plan.link("self", url, plan.cursor_text)]
    if more:
        place = paging.place(await _next(conn, page[-1], plan, cursor, began))
        links.append(plan.link("next", url, request.cursors.sealed(reader, url, plan.applied, place)))
    qualified = _qualified(plan.elements)
    entries = await aside(
        sum(len(each.version.body) for each in (*matches, *included)),
        lambda: [
            *(searchset.entry(m.version, base_url, "match", plan.summary, plan.elements) for m in matches),
            *(searchset.entry(i.version, base_url, "include", plan.summary, qualified) for i in included),
            *_told(plan),
        ],
    )
    total = await _asked_total(conn, where, plan, None if more or cursor else len(matches))
    patient_ids = dict.fromkeys(patient_id for each in (*matches, *included) for patient_id in each.patient_ids)
    return SearchSet(searchset.bundle(entries, total, links), tuple(patient_ids))


def _told(plan: Plan) -> list[str]:
    """What was ignored."""
    return searchset.told(("not-supported", reason, f"http.{name}") for name, reason in plan.ignored)


async def _with_includes(
    conn: Connection, reader: Reader, page: list[paging.Row], plan: Plan
) -> tuple[list[paging.Row], list[Found]]:
    """The matches and what they include; fewer matches, for the next page to go on, where that would be too much."""
    while True:
        left = MOST_BYTES if len(page) == 1 else PAGE_BYTES - sum(len(row.found.version.body) for row in page)
        try:
            versions = [row.found.version for row in page]
            return page, await includes.included(conn, reader, versions, plan.includes, left)
        except includes.TooMany as error:
            if len(page) == 1:
                text = "one match includes too much, or by too long a chain; search for what it includes instead"
                raise TooCostly(text, location="http._include") from error
            page = page[: len(page) // 2]


async def _next(
    conn: Connection, last: paging.Row, plan: Plan, cursor: paging.Cursor | None, began: datetime
) -> paging.Cursor:  # fmt: skip
    if not paging.is_mutable(plan.sort):
        return paging.Cursor(last.key, last.values)
    if cursor is not None:
        return paging.Cursor(last.key, last.values, cursor.began, cursor.last_key)
    return paging.Cursor(last.key, last.values, began, await paging.last_key(conn))


def _qualified(elements: tuple[str, ...]) -> tuple[str, ...]:
    """For an included resource: of `_elements` only those that name their type."""
    return tuple(element for element in elements if "." in element)


async def _asked_total(conn: Connection, where: Condition, plan: Plan, at_hand: int | None) -> int | None:
    if plan.total == "none":
        return None
    if at_hand is not None:
        return at_hand
    match plan.total:
        case "accurate":
            return await _total(conn, where)
        case "estimate":
            return await _estimate(conn, where)
    return None


async def _total(conn: Connection, where: Condition) -> int:
    row = await (
        await conn.execute("SELECT count(*) FROM resource r WHERE " + where.sql, where.args, prepare=False)
    ).fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])


async def _estimate(conn: Connection, where: Condition) -> int:
    some = "SELECT count(*) FROM (SELECT FROM resource r WHERE " + where.sql + " LIMIT %s) AS counted"
    row = await (await conn.execute(some, (*where.args, _COUNTED + 1), prepare=False)).fetchone()
    assert row is not None  # noqa: S101
    if row[0] <= _COUNTED:
        return int(row[0])
    explained = await conn.execute("EXPLAIN (FORMAT JSON) SELECT FROM resource r WHERE " + where.sql, where.args)
    plan = await explained.fetchone()
    assert plan is not None  # noqa: S101
    return max(int(plan[0][0]["Plan"]["Plan Rows"]), _COUNTED + 1)
