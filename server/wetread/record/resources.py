"""Resources and their versions. Every committed version writes its history row, its index and one event, together.

What is stored and served is the text that was accepted; only `id`, `meta.versionId` and `meta.lastUpdated` are ours.
Content is not validated here: faces call `validate.check` before they open a transaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

from wetread.domain.reader import SYSTEM, Reader
from wetread.errors import Forbidden, InvalidInput, MethodNotAllowed, PreconditionFailed
from wetread.record import lossless, splice
from wetread.record.aside import aside
from wetread.record.compartment import visible
from wetread.record.condition import TRUE, Condition, any_of
from wetread.record.matches import conditions as conditions
from wetread.record.matches import held_match as held_match
from wetread.record.matches import match as match
from wetread.record.matches import only_match as only_match
from wetread.record.reads import current as current
from wetread.record.reads import find as find
from wetread.record.reads import locked
from wetread.record.reads import read as read
from wetread.record.reads import read_of_patients as read_of_patients
from wetread.record.reads import vread as vread
from wetread.record.search import index
from wetread.record.versions import Accepted as Accepted
from wetread.record.versions import Resource as Resource
from wetread.record.versions import Version as Version
from wetread.record.versions import accept as accept
from wetread.record.versions import is_id, present, require_stored, says
from wetread.record.versions import require_identity as require_identity
from wetread.record.versions import require_version as require_version
from wetread.store.database import Connection


async def put(conn: Connection, resource: Resource, *, if_match: int | None = None) -> Version:
    """Creates or updates a resource under its own id.

    Content that equals the current version's, `meta.versionId` and `meta.lastUpdated` apart, writes nothing and gives
    the current version: doing a step twice is safe. Raises InvalidInput, Unsupported for a type not stored here, and
    PreconditionFailed where `if_match` is not the current version.
    """
    version, _ = await update(conn, SYSTEM, resource, if_match=if_match)
    return version


async def update(
    conn: Connection,
    reader: Reader,
    resource: Resource,
    *,
    if_match: int | None = None,
    only_new: bool = False,
    may_create: bool = True,
    is_judged: bool = True,
) -> tuple[Version, bool]:
    """`put` by a reader, and whether the resource was not there before.

    To a reader who may update a part of the type only, what is outside of it is as what never was; and nobody but who
    may update all of a type creates under an id of the client's: that an id is taken would tell what is there. With
    `is_judged` false the caller sees to `require_within`. Raises PreconditionFailed where `only_new` and it is there,
    MethodNotAllowed where it never was and may not be created under an id of the client's, Forbidden where the result
    is outside of what the reader may update.
    """
    accepted = accept(resource)
    resource_type, resource_id = accepted.content["resourceType"], accepted.content.get("id")
    if not is_id(resource_id):
        raise InvalidInput("a resource needs an id of 1 to 64 letters, digits, - or .", location=f"{resource_type}.id")
    limit = visible(reader, resource_type, "u")
    current = await _held(conn, reader, "u", resource_type, resource_id)
    if current is None and not (may_create and limit == TRUE):
        raise MethodNotAllowed("there is no such resource, and ids are given by this server: POST it", location="GET")
    if current is None and if_match is None:
        created = await _insert(conn, accepted, resource_id, "PUT")
        if created is not None:
            return created, True
        current = await locked(conn, resource_type, resource_id)  # someone else created it meanwhile
    require_version(current, if_match)
    assert current is not None  # noqa: S101
    if only_new and not current.deleted:
        raise PreconditionFailed("the resource is there already", location="http.If-None-Match")
    if not current.deleted and await aside(len(current.body), lambda: says(current, accepted.content)):
        return current, False
    version = await _replace(conn, current, accepted, "PUT")
    if is_judged:
        await require_within(conn, reader, "u", version)
    return version, current.deleted


async def patch(
    conn: Connection,
    reader: Reader,
    resource_type: str,
    resource_id: str,
    change: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]],
    *,
    if_match: int | None = None,
    is_judged: bool = True,
) -> Version:
    """The resource as `change` makes it of the current content, while nobody else can write it.

    `change` keeps the type and the id; `is_judged` is as for `update`. Raises NotFound, Gone, PreconditionFailed,
    Forbidden where the result is outside of what the reader may update, and what `change` raises.
    """
    require_identity(resource_type, resource_id)
    current = present(await _held(conn, reader, "u", resource_type, resource_id), resource_type)
    require_version(current, if_match)
    size = len(current.body)
    after = await change(await aside(size, current.resource))
    if await aside(size, lambda: says(current, after)):
        return current
    text = await aside(size, lambda: lossless.dump(after))
    version = await _replace(conn, current, Accepted(text, after), "PUT")
    if is_judged:
        await require_within(conn, reader, "u", version)
    return version


async def create(
    conn: Connection, resource: Resource, *, if_none_exist: str | None = None, reader: Reader
) -> tuple[Version, bool]:
    """Creates a resource under a new id; true when it did.

    With `if_none_exist` (a query string, FHIR R4 3.1.0.8.1) one match gives that resource and false, and several raise
    PreconditionFailed. Two transactions with the same query wait for one another, so only one of them creates.
    Raises Forbidden where the result is outside of what the reader may create.
    """
    accepted = accept(resource)
    if if_none_exist is not None:
        existing = await only_match(conn, reader, accepted.content["resourceType"], if_none_exist)
        if existing is not None:
            return existing, False
    made = new(accepted, str(uuid.uuid4()), conn.bases)
    await make(conn, [made])
    version = made.version
    await require_within(conn, reader, "c", version)
    return version, True


@dataclass(frozen=True, slots=True)
class New:
    """A first version that is yet to be written, and what it can be found by."""

    version: Version
    entries: index.Entries


def new(accepted: Accepted, resource_id: str, bases: Sequence[str]) -> New:
    """What is to be created under an id that was made up for it; `bases` as in `Connection`.

    Raises InvalidInput, Unsupported.
    """
    require_stored(accepted.content.get("resourceType"))
    return New(_first(accepted, resource_id), index.extract(accepted.content, bases))


async def make(conn: Connection, made: Sequence[New]) -> None:
    """Creates resources, in their order, in two statements; the caller sees to `require_within`."""
    if not made:
        return
    versions = [each.version for each in made]
    columns = [[getattr(version, name) for version in versions] for name in _OF_NEW]
    rows = await conn.execute(_MAKE + _RECORD, {**dict(zip(_OF_NEW, columns, strict=True)), **_CREATED})
    keys = {(row[0], row[1]): row[2] async for row in rows}
    written = [(keys[each.version.resource_type, each.version.id], each) for each in made]
    await index.write_all(conn, [(key, n.version.resource_type, n.entries) for key, n in written], replace=False)


async def require_within(conn: Connection, reader: Reader, letter: str, version: Version) -> None:
    """Raises Forbidden where a version, written in this transaction and current, is outside of what the reader's scopes
    open to the interaction (c or u): nobody writes what they could then not write."""
    limit = visible(reader, version.resource_type, letter)
    if limit != TRUE and not await _is_seen(conn, version.resource_type, version.id, limit):
        raise Forbidden(f"the token's scopes do not allow a {version.resource_type} with this content")


async def lock(conn: Connection, identities: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Holds these resources, (type, id), for the rest of the transaction, in an order that cannot deadlock.

    Gives the version of each that is there.
    """
    if not identities:
        return {}
    types, ids = zip(*identities, strict=True)
    rows = await conn.execute(_LOCK, (list(types), list(ids)))
    return {(row[0], row[1]): row[2] async for row in rows}


async def delete(
    conn: Connection, reader: Reader, resource_type: str, resource_id: str, *, if_match: int | None = None
) -> Version | None:
    """Marks a resource deleted, as a version of its own; one already deleted stays as it is, None where none was that
    the reader may delete."""
    require_identity(resource_type, resource_id)
    current = await _held(conn, reader, "d", resource_type, resource_id)
    require_version(current, if_match)
    if current is None or current.deleted:
        return current
    return await _replace(conn, current, None, "DELETE")


_LOCK = """
    SELECT resource_type, id, version_id FROM resource
    WHERE (resource_type, id) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
    ORDER BY resource_type, id FOR UPDATE
"""
_INSERT = """
    WITH made AS (
        INSERT INTO resource (resource_type, id, version_id, last_updated, deleted, body)
        VALUES (%(resource_type)s, %(id)s, %(version_id)s, %(last_updated)s, %(deleted)s, %(body)s)
        ON CONFLICT DO NOTHING
        RETURNING *
    )
"""
_UPDATE = """
    WITH made AS (
        UPDATE resource SET version_id = %(version_id)s, last_updated = %(last_updated)s, deleted = %(deleted)s,
            body = %(body)s
        WHERE resource_type = %(resource_type)s AND id = %(id)s
        RETURNING *
    )
"""
_RECORD = """
    , kept AS (
        INSERT INTO resource_version (resource_type, id, version_id, last_updated, deleted, body, method)
        SELECT resource_type, id, version_id, last_updated, deleted, body, %(method)s FROM made
    ), told AS (
        INSERT INTO event (resource_type, resource_id, version_id, kind)
        SELECT resource_type, id, version_id, %(kind)s FROM made
    )
    SELECT resource_type, id, key FROM made
"""
_MAKE = """
    WITH made AS (
        INSERT INTO resource (resource_type, id, version_id, last_updated, deleted, body)
        SELECT resource_type, id, 1, last_updated, false, body
        FROM unnest(%(resource_type)s::text[], %(id)s::text[], %(last_updated)s::timestamptz[], %(body)s::text[])
            WITH ORDINALITY AS given (resource_type, id, last_updated, body, place)
        ORDER BY place
        RETURNING *
    )
"""
_OF_NEW = ("resource_type", "id", "last_updated", "body")
_CREATED = {"kind": "create", "method": "POST"}


async def _held(conn: Connection, reader: Reader, letter: str, resource_type: str, resource_id: str) -> Version | None:
    """The current version, held until the transaction ends; None where the reader has no scope on it.

    That is asked by statements of their own, which see the index rows of whoever was waited for. Raises Forbidden where
    the reader may see the resource, but not do this.
    """
    found = await locked(conn, resource_type, resource_id)
    limit = visible(reader, resource_type, letter)
    if found is None or limit == TRUE or await _is_seen(conn, resource_type, resource_id, limit):
        return found
    shown = any_of([visible(reader, resource_type, "r"), visible(reader, resource_type, "s")])
    if await _is_seen(conn, resource_type, resource_id, shown):
        raise Forbidden(f"the token's scopes do not allow this on this {resource_type}")
    return None


async def _is_seen(conn: Connection, resource_type: str, resource_id: str, limit: Condition) -> bool:
    sql: LiteralString = "SELECT FROM resource r WHERE r.resource_type = %s AND r.id = %s AND NOT r.deleted AND ("
    rows = await conn.execute(sql + limit.sql + ")", (resource_type, resource_id, *limit.args))
    return await rows.fetchone() is not None


def _first(accepted: Accepted, resource_id: str) -> Version:
    now = _now()
    body = splice.with_identity(accepted.text, resource_id, 1, now)
    return Version(accepted.content["resourceType"], resource_id, 1, now, body, deleted=False)


async def _insert(conn: Connection, accepted: Accepted, resource_id: str, method: str) -> Version | None:
    """Version 1; None when another transaction has made the resource."""
    version = _first(accepted, resource_id)
    return version if await _record(conn, _INSERT, version, "create", method, accepted.content) else None


async def _replace(conn: Connection, current: Version, accepted: Accepted | None, method: str) -> Version:
    """The next version; `accepted` None is a deletion."""
    version_id = current.version_id + 1
    at = max(_now(), current.last_updated + timedelta(milliseconds=1))
    body = splice.with_identity(accepted.text, current.id, version_id, at) if accepted is not None else ""
    version = Version(current.resource_type, current.id, version_id, at, body, deleted=accepted is None)
    kind = "delete" if accepted is None else "create" if current.deleted else "update"
    await _record(conn, _UPDATE, version, kind, method, accepted.content if accepted is not None else None)
    return version


async def _record(
    conn: Connection, change: str, version: Version, kind: str, method: str, content: dict[str, Any] | None
) -> bool:
    entries = index.Entries()
    if content is not None:
        entries = await aside(len(version.body), lambda: index.extract(content, conn.bases))
    row = {name: getattr(version, name) for name in Version.__slots__}
    made = await (await conn.execute(change + _RECORD, {**row, "kind": kind, "method": method})).fetchone()
    if made is None:
        return False
    await index.write(conn, made[2], version.resource_type, entries, replace=version.version_id > 1)
    return True


def _now() -> datetime:
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
