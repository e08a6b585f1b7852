"""History of one resource as a Bundle, newest version first (FHIR R4 3.1.0.15)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, NotFound
from wetread.record.index import date_range
from wetread.record.lossless import dump
from wetread.record.resources import Version, require_identity
from wetread.record.splice import instant
from wetread.store.database import Connection

_DEFAULT_COUNT = 50
_MOST_COUNT = 1000
_SELECT = """
    SELECT resource_type, id, version_id, last_updated, body, deleted FROM resource_version
    WHERE resource_type = %s AND id = %s AND last_updated >= %s AND version_id < %s
    ORDER BY version_id DESC LIMIT %s
"""


async def history(
    conn: Connection,
    reader: Reader,
    resource_type: str,
    resource_id: str,
    params: Sequence[tuple[str, str]],
    base_url: str,
) -> str:
    """One page of the versions, by `_count` and `_since`. Raises Forbidden, NotFound, InvalidInput."""
    reader.require("r", resource_type)
    require_identity(resource_type, resource_id)
    given = dict(params)
    count = _number(given, "_count", _DEFAULT_COUNT, _MOST_COUNT)
    before = _number(given, "_before", 2**31 - 1, 2**31 - 1)
    since = _since(given.get("_since"))

    total = await _total(conn, resource_type, resource_id, since)
    async with conn.cursor(row_factory=class_row(Version)) as cursor:
        await cursor.execute(_SELECT, (resource_type, resource_id, since, before, count + 1))
        rows = await cursor.fetchall()
    url = f"{base_url}/{resource_type}/{resource_id}/_history"
    links = [{"relation": "self", "url": _with(url, given)}]
    if len(rows) > count > 0:
        links.append({"relation": "next", "url": _with(url, {**given, "_before": str(rows[count - 1].version_id)})})
    head: dict[str, Any] = {
        "resourceType": "Bundle",
        "id": str(uuid.uuid4()),
        "meta": {"lastUpdated": instant(datetime.now(UTC))},
        "type": "history",
        "total": total,
        "link": links,
    }
    entries = ",".join(_entry(version, base_url) for version in rows[:count])
    return f'{dump(head)[:-1]},"entry":[{entries}]}}' if entries else dump(head)


def _entry(version: Version, base_url: str) -> str:
    path = f"{version.resource_type}/{version.id}"
    method = "DELETE" if version.deleted else "PUT"
    status = "204" if version.deleted else "201" if version.version_id == 1 else "200"
    rest = {
        "request": {"method": method, "url": path},
        "response": {
            "status": status,
            "etag": f'W/"{version.version_id}"',
            "lastModified": instant(version.last_updated),
        },
    }
    resource = f'"resource":{version.body},' if not version.deleted else ""
    return f'{{"fullUrl":{json.dumps(f"{base_url}/{path}")},{resource}{dump(rest)[1:]}'


async def _total(conn: Connection, resource_type: str, resource_id: str, since: datetime) -> int:
    rows = await conn.execute(
        "SELECT count(*), count(*) FILTER (WHERE last_updated >= %s) FROM resource_version"
        " WHERE resource_type = %s AND id = %s",
        (since, resource_type, resource_id),
    )
    row = await rows.fetchone()
    if row is None or row[0] == 0:
        raise NotFound("no such resource here, now or before")
    return int(row[1])


def _number(given: dict[str, str], name: str, default: int, most: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 11):
        raise InvalidInput(f"{name} takes a whole number", location=f"http.{name}")
    return min(int(text), most)


def _since(text: str | None) -> datetime:
    if text is None:
        return datetime.min.replace(tzinfo=UTC)
    try:
        return date_range(text.replace(" ", "+"))[0]
    except ValueError as error:
        raise InvalidInput("_since takes a FHIR instant", location="http._since") from error


def _with(url: str, params: dict[str, str]) -> str:
    return f"{url}?{urlencode(params)}" if params else url
