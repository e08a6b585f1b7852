"""Reading the audit record: one AuditEvent, a search, an export. Newest first; pages by key, so none shifts.

What is for governance only is shown to the roles `governance` and `administrator`, whatever a token's FHIR scopes say.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, NotFound
from wetread.record.audit.kinds import kinds_with
from wetread.record.search import index
from wetread.store.database import Connection

_MAY_SEE_ALL = frozenset({"governance", "administrator"})
_DEFAULT_COUNT = 50
_MOST = 1000
_PREFIXES = frozenset({"eq", "ne", "gt", "lt", "ge", "le", "sa", "eb"})
_NOT_FILTERS = frozenset({"_count", "_page", "_sort", "_total", "_format", "_pretty"})


@dataclass(frozen=True, slots=True)
class _Condition:
    sql: str
    values: tuple[Any, ...] = ()


async def read(conn: Connection, reader: Reader, id: str) -> str:
    """The AuditEvent's JSON text. Raises Forbidden, NotFound."""
    reader.require("r", "AuditEvent")
    conditions = [_visible(reader), _by_id(id)]
    async for body in _bodies(conn, conditions, "LIMIT 1"):
        return body
    raise NotFound("no AuditEvent with this id")


async def search(conn: Connection, reader: Reader, params: Sequence[tuple[str, str]], base_url: str) -> str:
    """A searchset Bundle (R4 3.1.1) for the query parameters `params`, as JSON text.

    Filters: _id, patient, entity, entity:identifier, agent, type, subtype, action, outcome, date, _lastUpdated;
    commas mean or, repetition means and. Also _count, _total=accurate, _sort=-date. Raises Forbidden, InvalidInput.
    """
    reader.require("s", "AuditEvent")
    filters = [(name, value) for name, value in params if name not in _NOT_FILTERS and value]
    conditions = [_visible(reader), *(_condition(name, value) for name, value in filters)]
    given = dict(params)
    if given.get("_sort", "-date") not in ("-date", "-_lastUpdated"):
        raise InvalidInput("AuditEvents are sorted newest first; leave _sort out, or ask for -date")
    count = min(_number(given.get("_count", str(_DEFAULT_COUNT)), "_count"), _MOST)
    echoed = [*filters, ("_count", str(count))]
    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset"}
    if given.get("_total") == "accurate" or count == 0:
        bundle["total"] = await _total(conn, conditions)
        echoed.append(("_total", "accurate"))
    address = f"{base_url}/AuditEvent"
    bundle["link"] = [{"relation": "self", "url": f"{address}?{urlencode(echoed)}"}]

    page = [_Condition("position < %s", (_number(given["_page"], "_page"),))] if "_page" in given else []
    found = conn.cursor()
    where, values = _where([*conditions, *page])
    await found.execute(
        f"SELECT position, id::text, body FROM audit_event WHERE {where} ORDER BY position DESC LIMIT %s",
        (*values, count + 1),
    )
    rows = await found.fetchall()
    if len(rows) > count > 0:
        last_position = rows[count - 1][0]
        bundle["link"].append(
            {"relation": "next", "url": f"{address}?{urlencode([*echoed, ('_page', str(last_position))])}"}
        )
    entries = ",".join(
        f'{{"fullUrl":"{address}/{audit_id}","resource":{body},"search":{{"mode":"match"}}}}'
        for _, audit_id, body in rows[:count]
    )
    head = json.dumps(bundle, separators=(",", ":"))
    return f'{head[:-1]},"entry":[{entries}]}}' if entries else head


async def export(conn: Connection, reader: Reader) -> AsyncIterator[str]:
    """Every AuditEvent that the reader may see, oldest first, one JSON line each. Raises Forbidden."""
    reader.require("r", "AuditEvent")
    reader.require("s", "AuditEvent")
    async for body in _bodies(conn, [_visible(reader)], "ORDER BY position"):
        yield body + "\n"


async def _bodies(conn: Connection, conditions: Sequence[_Condition], tail: str) -> AsyncIterator[str]:
    where, values = _where(conditions)
    async with conn.cursor(name=f"audit_{uuid.uuid4().hex}") as rows:
        await rows.execute(f"SELECT body FROM audit_event WHERE {where} {tail}", values)
        async for (body,) in rows:
            yield body


async def _total(conn: Connection, conditions: Sequence[_Condition]) -> int:
    where, values = _where(conditions)
    row = await (await conn.execute(f"SELECT count(*) FROM audit_event WHERE {where}", values)).fetchone()
    return int(row[0]) if row else 0


def _where(conditions: Sequence[_Condition]) -> tuple[str, tuple[Any, ...]]:
    sql = " AND ".join(f"({condition.sql})" for condition in conditions)
    return sql, tuple(value for condition in conditions for value in condition.values)


def _visible(reader: Reader) -> _Condition:
    return _Condition("true" if reader.roles & _MAY_SEE_ALL else "NOT governance_only")


def _condition(name: str, value: str) -> _Condition:
    make = _CONDITIONS.get(name)
    if make is None:
        known = ", ".join(sorted(_CONDITIONS))
        raise InvalidInput(f"AuditEvent has no search parameter of this name here; there are {known}", location=name)
    alternatives = [make(part) for part in value.split(",") if part]
    return _Condition(
        " OR ".join(f"({one.sql})" for one in alternatives) or "true",
        tuple(value for one in alternatives for value in one.values),
    )


def _by_id(value: str) -> _Condition:
    try:
        return _Condition("id = %s", (uuid.UUID(value),))
    except ValueError:
        return _Condition("false")


def _by_patient(value: str) -> _Condition:
    return _Condition("patient_id = %s", (value.rpartition("/")[2],))


def _by_entity(value: str) -> _Condition:
    if re.fullmatch(r"Patient/[^/]+", value):
        return _Condition("patient_id = %s OR entities @> ARRAY[%s]", (value.removeprefix("Patient/"), value))
    return _Condition("entities @> ARRAY[%s]", (value,))


def _by_agent(value: str) -> _Condition:
    return _Condition("principal = %s OR acting_user = %s", (value, value))


def _by_coding(field: str) -> Callable[[str], _Condition]:
    def condition(value: str) -> _Condition:
        system, bar, code = value.rpartition("|")
        return _Condition("kind = ANY(%s)", (kinds_with(field, system if bar else None, code),))

    return condition


def _by_code(column: str) -> Callable[[str], _Condition]:
    return lambda value: _Condition(f"{column} = %s", (value.rpartition("|")[2],))


def _by_date(value: str) -> _Condition:
    prefix, text = (value[:2], value[2:]) if value[:2] in _PREFIXES else ("eq", value)
    try:
        low, high = index.date_range(text)
    except ValueError as error:
        raise InvalidInput(
            "a date is expected: [prefix]YYYY[-MM[-DD[Thh:mm[:ss[.fff]][zone]]]]", location="date"
        ) from error
    if prefix in ("gt", "sa"):
        return _Condition("recorded >= %s", (high,))
    if prefix in ("lt", "eb"):
        return _Condition("recorded < %s", (low,))
    if prefix == "ge":
        return _Condition("recorded >= %s", (low,))
    if prefix == "le":
        return _Condition("recorded < %s", (high,))
    inside = _Condition("recorded >= %s AND recorded < %s", (low, high))
    return inside if prefix == "eq" else _Condition(f"NOT ({inside.sql})", inside.values)


def _number(text: str, name: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise InvalidInput(f"{name} is a whole number, 0 or more", location=name)
    return int(text)


_CONDITIONS: dict[str, Callable[[str], _Condition]] = {
    "_id": _by_id,
    "patient": _by_patient,
    "entity": _by_entity,
    "entity:identifier": lambda value: _by_entity(value.rpartition("|")[2]),
    "agent": _by_agent,
    "type": _by_coding("type"),
    "subtype": _by_coding("subtype"),
    "action": _by_code("action"),
    "outcome": _by_code("outcome"),
    "date": _by_date,
    "_lastUpdated": _by_date,
}
SEARCH_PARAMETERS = tuple(name for name in _CONDITIONS if ":" not in name)
"""What the CapabilityStatement tells of them."""
