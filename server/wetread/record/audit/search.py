"""Reading the audit record: one AuditEvent, a search, an export. Pages go by key, so none shifts.

What is for governance only is shown to the roles `governance` and `administrator`, whatever a token's FHIR scopes say.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import urlencode

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, NotFound
from wetread.record.audit.search_conditions import SEARCH_PARAMETERS as SEARCH_PARAMETERS
from wetread.record.audit.search_conditions import Condition, condition
from wetread.store.database import Connection

_MAY_SEE_ALL = frozenset({"governance", "administrator"})
_DEFAULT_COUNT = 50
_MOST = 1000
_NOT_FILTERS = frozenset({"_count", "_page", "_sort", "_total", "_format", "_pretty"})


async def read(conn: Connection, reader: Reader, id: str) -> str:
    """The AuditEvent's JSON text. Raises Forbidden, NotFound."""
    reader.require("r", "AuditEvent")
    conditions = [_visible(reader), condition("_id", id, "")]
    async for body in _bodies(conn, conditions, "LIMIT 1"):
        return body
    raise NotFound("no AuditEvent with this id")


async def search(conn: Connection, reader: Reader, params: Sequence[tuple[str, str]], base_url: str) -> str:
    """A searchset Bundle (R4 3.1.1) for the query parameters `params`, as JSON text.

    Filters are those of `search_conditions`; commas mean or, repetition means and. Also _count, _total=accurate,
    _sort=-date (as it is without) or date. Raises Forbidden, InvalidInput.
    """
    reader.require("s", "AuditEvent")
    filters = [(name, value) for name, value in params if name not in _NOT_FILTERS and value]
    conditions = [_visible(reader), *(condition(name, value, base_url) for name, value in filters)]
    given = dict(params)
    sort = given.get("_sort", "-date")
    if sort.removeprefix("-") not in ("date", "_lastUpdated"):
        raise InvalidInput("AuditEvents are sorted by date; ask for _sort=date or _sort=-date", location="_sort")
    newest_first = sort.startswith("-")
    count = min(_number(given.get("_count", str(_DEFAULT_COUNT)), "_count"), _MOST)
    echoed = [*filters, ("_count", str(count))]
    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset"}
    if given.get("_total") == "accurate" or count == 0:
        bundle["total"] = await _total(conn, conditions)
        echoed.append(("_total", "accurate"))
    if not newest_first:
        echoed.append(("_sort", sort))
    address = f"{base_url}/AuditEvent"
    bundle["link"] = [{"relation": "self", "url": f"{address}?{urlencode(echoed)}"}]

    beyond = "position < %s" if newest_first else "position > %s"
    page = [Condition(beyond, (_number(given["_page"], "_page"),))] if "_page" in given else []
    found = conn.cursor()
    where, values = _where([*conditions, *page])
    order = "position DESC" if newest_first else "position"
    await found.execute(
        f"SELECT position, id::text, body FROM audit_event WHERE {where} ORDER BY {order} LIMIT %s",
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


async def _bodies(conn: Connection, conditions: Sequence[Condition], tail: str) -> AsyncIterator[str]:
    where, values = _where(conditions)
    async with conn.cursor(name=f"audit_{uuid.uuid4().hex}") as rows:
        await rows.execute(f"SELECT body FROM audit_event WHERE {where} {tail}", values)
        async for (body,) in rows:
            yield body


async def _total(conn: Connection, conditions: Sequence[Condition]) -> int:
    where, values = _where(conditions)
    row = await (await conn.execute(f"SELECT count(*) FROM audit_event WHERE {where}", values)).fetchone()
    return int(row[0]) if row else 0


def _where(conditions: Sequence[Condition]) -> tuple[str, tuple[Any, ...]]:
    sql = " AND ".join(f"({condition.sql})" for condition in conditions)
    return sql, tuple(value for condition in conditions for value in condition.values)


def _visible(reader: Reader) -> Condition:
    return Condition("true" if reader.roles & _MAY_SEE_ALL else "NOT governance_only")


def _number(text: str, name: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise InvalidInput(f"{name} is a whole number, 0 or more", location=name)
    return int(text)
