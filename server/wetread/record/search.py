"""Search of one type as a searchset Bundle, spliced from stored texts, in pages by keyset cursor.

Without _sort the order is that of creation, which no later write changes: the union of the pages is the unpaged set.
"""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, LiteralString
from urllib.parse import urlencode

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, NotFound, Unsupported
from wetread.record import includes, query
from wetread.record.compartment import patients_of, visible
from wetread.record.condition import Condition, all_of
from wetread.record.lossless import dump
from wetread.record.parameters import resource_types
from wetread.record.resources import Version
from wetread.record.splice import instant
from wetread.store.database import Connection

DEFAULT_COUNT = 50
MOST_COUNT = 1000
_CURSOR = "_cursor"


@dataclass(frozen=True, slots=True)
class _Order:
    """A total order of resources. `column` None is the order of creation."""

    column: LiteralString | None = None
    descending: bool = False


_ORDERS = {
    "_id": _Order("r.id"),
    "-_id": _Order("r.id", descending=True),
    "_lastUpdated": _Order("r.last_updated"),
    "-_lastUpdated": _Order("r.last_updated", descending=True),
}


@dataclass(frozen=True, slots=True)
class SearchSet:
    """A searchset Bundle as text. `patient_ids` are the patients whom it is about, for the audit."""

    body: str
    patient_ids: tuple[str, ...]


@dataclass(slots=True)
class _Plan:
    count: int = DEFAULT_COUNT
    order: _Order = field(default_factory=_Order)
    total: str = ""
    only_count: bool = False
    cursor: str = ""
    conditions: list[Condition] = field(default_factory=list)
    includes: list[includes.Include] = field(default_factory=list)
    applied: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Keyed:
    key: int
    resource_type: str
    id: str
    version_id: int
    last_updated: datetime
    body: str
    deleted: bool

    def version(self) -> Version:
        return Version(self.resource_type, self.id, self.version_id, self.last_updated, self.body, self.deleted)


async def search(
    conn: Connection,
    reader: Reader,
    resource_type: str,
    params: Sequence[tuple[str, str]],
    base_url: str,
    *,
    compartment: tuple[str, str] | None = None,
    strict: bool = False,
) -> SearchSet:
    """One page, of a compartment (its type and id) where one is given.

    Raises Forbidden, NotFound for an unknown type, InvalidInput for a bad value or modifier; a parameter that the type
    has not is an error when `strict`, else ignored and told of (FHIR R4 3.1.1.3.1).
    """
    if resource_type not in resource_types():
        raise NotFound("no such resource type here; see GET metadata")
    reader.require("s", resource_type)
    if compartment is not None:
        raise Unsupported("compartment searches are not served yet")
    plan = _planned(resource_type, params, base_url, strict=strict)
    where = all_of(
        [
            Condition("r.resource_type = %s AND NOT r.deleted", (resource_type,)),
            visible(reader, resource_type),
            *plan.conditions,
        ]
    )
    if plan.only_count:
        return SearchSet(_bundle([], await _total(conn, where), [_link("self", base_url, resource_type, plan)]), ())

    rows = await _page(conn, where, plan)
    page, more = rows[: plan.count], len(rows) > plan.count
    matches = [row.version() for row in page]
    included = await includes.included(conn, reader, matches, plan.includes)
    total: int | None = None
    if plan.total in ("accurate", "estimate"):
        total = await _total(conn, where)
    elif plan.total == "" and not plan.cursor and not more:
        total = len(matches)

    links = [_link("self", base_url, resource_type, plan)]
    if more:
        links.append(_link("next", base_url, resource_type, plan, _position(page[-1], plan.order)))
    entries = [
        *(entry(v, base_url, "match") for v in matches),
        *(entry(v, base_url, "include") for v in included),
        *_told_of_ignored(plan.ignored),
    ]
    return SearchSet(_bundle(entries, total, links), await _patients(conn, [*matches, *included]))


async def search_system(
    conn: Connection,
    reader: Reader,
    params: Sequence[tuple[str, str]],
    base_url: str,
    *,
    compartment: tuple[str, str] | None = None,
    strict: bool = False,
) -> SearchSet:
    """One page over several types: those of `_type`, else every type that the reader may search.

    Raises as `search` does.
    """
    raise Unsupported("searches of the whole system are not served yet")


async def _patients(conn: Connection, versions: Sequence[Version]) -> tuple[str, ...]:
    of_type: dict[str, list[str]] = {}
    for version in versions:
        of_type.setdefault(version.resource_type, []).append(version.id)
    found = [await patients_of(conn, resource_type, ids) for resource_type, ids in of_type.items()]
    return tuple(dict.fromkeys(patient_id for patient_ids in found for patient_id in patient_ids))


def entry(version: Version, base_url: str, mode: str) -> str:
    """A searchset entry, the stored text within."""
    full_url = json.dumps(f"{base_url}/{version.resource_type}/{version.id}")
    return f'{{"fullUrl":{full_url},"resource":{version.body},"search":{{"mode":"{mode}"}}}}'


def _bundle(entries: Iterable[str], total: int | None, links: Sequence[Mapping[str, str]]) -> str:
    head = {
        "resourceType": "Bundle",
        "id": str(uuid.uuid4()),
        "meta": {"lastUpdated": instant(datetime.now(UTC))},
        "type": "searchset",
        **({"total": total} if total is not None else {}),
        "link": links,
    }
    inner = ",".join(entries)
    return f'{dump(head)[:-1]},"entry":[{inner}]}}' if inner else dump(head)


def _told_of_ignored(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    issues = [
        {
            "severity": "warning",
            "code": "not-supported",
            "details": {"text": "this search parameter is not supported and was ignored"},
            "expression": [f"http.{name}"],
        }
        for name in names
    ]
    outcome = {"resourceType": "OperationOutcome", "issue": issues}
    return [dump({"fullUrl": uuid.uuid4().urn, "resource": outcome, "search": {"mode": "outcome"}})]


def _planned(resource_type: str, params: Sequence[tuple[str, str]], base_url: str, *, strict: bool) -> _Plan:
    plan = _Plan()
    for name, value in params:
        if name == _CURSOR:
            plan.cursor = value
        elif _control(plan, name, value):
            plan.applied.append((name, value))
        elif name == "_has" or name.startswith("_has:") or "." in name or query.known(resource_type, name):
            plan.conditions.append(query.condition(resource_type, name, value, base_url))
            plan.applied.append((name, value))
        elif strict:
            raise InvalidInput(f"{resource_type} has no search parameter of this name", location=f"http.{name}")
        else:
            plan.ignored.append(name)
    return plan


def _control(plan: _Plan, name: str, value: str) -> bool:
    """Takes a parameter that steers the result; false for any other."""
    match name, value:
        case "_count", _:
            plan.count = min(_non_negative(value), MOST_COUNT)
            plan.only_count = plan.only_count or plan.count == 0
        case "_sort", _ if value in _ORDERS:
            plan.order = _ORDERS[value]
        case "_total", "none" | "estimate" | "accurate":
            plan.total = value
        case "_summary", "count":
            plan.only_count = True
        case "_summary", "false":
            pass
        case (("_total" | "_summary"), _):
            raise InvalidInput(f"{name} does not take this value here", location=f"http.{name}")
        case (("_format" | "_pretty"), _):
            pass
        case _ if name.partition(":")[0] in ("_include", "_revinclude"):
            plan.includes.append(includes.parse(name, value))
        case _:
            return False
    return True


def _non_negative(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise InvalidInput("_count takes a whole number", location="http._count")
    return int(value)


def _position(row: _Keyed, order: _Order) -> list[Any]:
    match order.column:
        case "r.id":
            return [row.key, row.id]
        case "r.last_updated":
            return [row.key, row.last_updated.isoformat()]
        case _:
            return [row.key]


def _sealed(position: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


def _opened(cursor: str, order: _Order) -> list[Any]:
    try:
        position = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        key, *rest = position
        if order.column == "r.last_updated":
            rest = [datetime.fromisoformat(rest[0])]
        if type(key) is int and abs(key) < 2**63 and len(rest) == (order.column is not None):
            return [key, *rest]
    except (ValueError, TypeError, IndexError, binascii.Error, RecursionError):
        pass
    raise InvalidInput("not a page of this search; follow the link that the server gave", location=f"http.{_CURSOR}")


async def _page(conn: Connection, where: Condition, plan: _Plan) -> list[_Keyed]:
    order = plan.order
    way: LiteralString = "DESC" if order.descending else "ASC"
    sign: LiteralString = "<" if order.descending else ">"
    by: LiteralString = "r.key ASC" if order.column is None else order.column + " " + way + ", r.key " + way
    if plan.cursor:
        key, *rest = _opened(plan.cursor, order)
        after = (
            Condition("r.key > %s", (key,))
            if order.column is None
            else Condition("(" + order.column + ", r.key) " + sign + " (%s, %s)", (*rest, key))
        )
        where = all_of([where, after])
    select: LiteralString = (
        "SELECT r.key, r.resource_type, r.id, r.version_id, r.last_updated, r.body, r.deleted FROM resource r WHERE "
    )
    async with conn.cursor(row_factory=class_row(_Keyed)) as cursor:
        await cursor.execute(select + where.sql + " ORDER BY " + by + " LIMIT %s", (*where.args, plan.count + 1))
        return await cursor.fetchall()


async def _total(conn: Connection, where: Condition) -> int:
    row = await (await conn.execute("SELECT count(*) FROM resource r WHERE " + where.sql, where.args)).fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])


def _link(
    relation: str, base_url: str, resource_type: str, plan: _Plan, position: list[Any] | None = None
) -> dict[str, str]:
    at = plan.cursor if position is None else _sealed(position)
    params = [*plan.applied, *([(_CURSOR, at)] if at else [])]
    return {"relation": relation, "url": f"{base_url}/{resource_type}" + (f"?{urlencode(params)}" if params else "")}
