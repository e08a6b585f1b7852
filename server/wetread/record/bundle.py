"""Batch and transaction Bundles (FHIR R4 3.1.0.11).

`read` takes a Bundle apart and validates what it would store, before any transaction; `transact` does all of it on the
caller's connection, so that it commits or rolls back as one; `perform` does one entry, for a batch.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, NotFound, PreconditionFailed, Unsupported, WetreadError
from wetread.record import lossless, resources, search, validate
from wetread.record.compartment import patient_of, patients_of
from wetread.record.parameters import resource_types
from wetread.record.resources import Version
from wetread.record.splice import instant
from wetread.store.database import Connection

MOST_ENTRIES = 1000
_ORDER = ("DELETE", "POST", "PUT", "GET")
_PATH = re.compile(
    r"(?P<type>[A-Z][A-Za-z]+)(?:/(?P<id>[A-Za-z0-9\-.]{1,64}))?(?:/_history/(?P<version>\d{1,9}))?(?:\?(?P<query>.*))?"
)
_IF_MATCH = re.compile(r'(?:W/)?"?(\d{1,9})"?')
_LINKS = ("reference", "uri", "url")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry's request. `content` is the resource of a POST or PUT."""

    number: int
    method: str
    resource_type: str
    id: str = ""
    version: str = ""
    query: str = ""
    full_url: str = ""
    if_match: int | None = None
    if_none_exist: str | None = None
    content: dict[str, Any] | None = None

    @property
    def what(self) -> str:
        """`Type/id`, or the type alone where the entry names no resource."""
        return f"{self.resource_type}/{self.id}" if self.id else self.resource_type

    @property
    def interaction(self) -> str:
        """The restful-interaction code."""
        match self.method:
            case "POST":
                return "create"
            case "PUT":
                return "update"
            case "DELETE":
                return "delete"
        return "vread" if self.version else "read" if self.id else "search-type"


@dataclass(frozen=True, slots=True)
class Done:
    """What an entry did. `text` is its entry of the response Bundle; `patient_ids` whom it touched, for the audit."""

    entry: Entry
    text: str
    what: str = ""
    patient_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A Bundle, taken apart: `entries` in their order; for a batch, entries that are faulty carry their error."""

    is_transaction: bool
    entries: tuple[Entry | WetreadError, ...]


async def read(text: str) -> Request:
    """Takes a Bundle apart. Raises InvalidInput and the like; in a batch a faulty entry stands for itself.

    Validation takes long, so it has a thread of its own.
    """
    bundle = lossless.parse(text)
    if bundle.get("resourceType") != "Bundle" or bundle.get("type") not in ("batch", "transaction"):
        raise InvalidInput("expected a Bundle of type batch or transaction", location="Bundle.type")
    entries = bundle.get("entry", [])
    if not isinstance(entries, list) or len(entries) > MOST_ENTRIES:
        raise InvalidInput(f"a Bundle has a list of at most {MOST_ENTRIES} entries", location="Bundle.entry")
    return await asyncio.to_thread(_taken_apart, entries, bundle["type"] == "transaction")


def _taken_apart(items: Sequence[Any], is_transaction: bool) -> Request:
    entries: list[Entry | WetreadError] = []
    for number, item in enumerate(items):
        try:
            entries.append(_entry(number, item))
        except WetreadError as error:
            if is_transaction:
                raise
            entries.append(error)
    return Request(is_transaction, tuple(entries))


def _entry(number: int, item: Any) -> Entry:
    where = f"Bundle.entry[{number}]"
    request = item.get("request") if isinstance(item, dict) else None
    if not isinstance(request, dict) or not isinstance(request.get("url"), str):
        raise InvalidInput("an entry needs request.method and request.url", location=f"{where}.request")
    method, found = request.get("method"), _PATH.fullmatch(request["url"].lstrip("/"))
    if method not in _ORDER:
        raise Unsupported("an entry's method is GET, POST, PUT or DELETE here", location=f"{where}.request.method")
    if not found or found["type"] not in resource_types():
        raise NotFound("no such resource type here; see GET metadata", location=f"{where}.request.url")
    entry = Entry(
        number=number,
        method=method,
        resource_type=found["type"],
        id=found["id"] or "",
        version=found["version"] or "",
        query=found["query"] or "",
        full_url=str(item.get("fullUrl", "")),
        if_match=_if_match(request.get("ifMatch"), where),
        if_none_exist=_text(request.get("ifNoneExist"), f"{where}.request.ifNoneExist"),
    )
    if method in ("PUT", "DELETE") and (not (entry.id or entry.query) or entry.version):
        raise InvalidInput(f"{method} needs Type/id, or Type?search", location=f"{where}.request.url")
    if method == "POST" and (entry.id or entry.query):
        raise InvalidInput("POST in a Bundle creates: its url is the type", location=f"{where}.request.url")
    return replace(entry, content=_content(entry, item, where)) if method in ("POST", "PUT") else entry


def _text(value: Any, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidInput("expected a string", location=where)
    return value


def _if_match(value: Any, where: str) -> int | None:
    if value is None:
        return None
    found = _IF_MATCH.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise InvalidInput('ifMatch has the form W/"3"', location=f"{where}.request.ifMatch")
    return int(found.group(1))


def _content(entry: Entry, item: Mapping[str, Any], where: str) -> dict[str, Any]:
    content = item.get("resource")
    if not isinstance(content, dict) or content.get("resourceType") != entry.resource_type:
        raise InvalidInput("the entry's resource is not of the type in its url", location=f"{where}.resource")
    if entry.method == "PUT" and entry.id and content.get("id") != entry.id:
        raise InvalidInput("the resource's id is not that of the url", location=f"{where}.resource.id")
    try:
        validate.check(content)
    except validate.InvalidResource as error:
        issues = [
            replace(i, expression=f"{where}.resource{i.expression.removeprefix(entry.resource_type)}")
            for i in error.issues
        ]
        raise validate.InvalidResource(issues) from error
    return content


async def transact(conn: Connection, reader: Reader, entries: Sequence[Entry], base_url: str) -> list[Done]:
    """Does a transaction's entries in R4's order (DELETE, POST, PUT, GET); the answers stand in the Bundle's order.

    Raises what any entry raises: the caller's transaction then rolls back, and nothing was done.
    """
    conditions = [(e.resource_type, e.if_none_exist) for e in entries if e.if_none_exist is not None]
    if len(set(conditions)) < len(conditions):
        raise InvalidInput("two entries of one transaction have the same ifNoneExist", location="Bundle.entry")
    entries = [await _resolved(conn, reader, entry) for entry in _by_condition(entries)]
    changed = [(e.resource_type, e.id) for e in entries if e.method != "GET" and e.id]
    if len(set(changed)) < len(changed):
        raise InvalidInput("two entries of one transaction change the same resource", location="Bundle.entry")
    await resources.lock(conn, changed)
    targets = {e.full_url: f"{e.resource_type}/{e.id}" for e in entries if e.full_url and e.content is not None}
    done = []
    for entry in sorted(entries, key=lambda e: _ORDER.index(e.method)):
        content = await _linked(conn, reader, entry.content, targets)
        done.append(await perform(conn, reader, replace(entry, content=content), base_url))
    return sorted(done, key=lambda d: d.entry.number)


def _by_condition(entries: Sequence[Entry]) -> list[Entry]:
    """Two transactions with the same conditions ask for them in the same order, and so never block each other."""
    return sorted(entries, key=lambda e: (e.resource_type, e.if_none_exist or "", e.query))


async def _resolved(conn: Connection, reader: Reader, entry: Entry) -> Entry:
    """Gives an entry the id under which it will write, so that others can refer to it."""
    condition = entry.query if entry.method in ("PUT", "DELETE") and not entry.id else entry.if_none_exist
    match entry.method:
        case "GET":
            return entry
        case "POST" | "PUT" if condition:
            existing = await resources.only_match(conn, reader, entry.resource_type, condition)
            return replace(entry, id=existing.id if existing else str(uuid.uuid4()))
        case "POST":
            return replace(entry, id=str(uuid.uuid4()))
        case "DELETE" if condition:
            existing = await resources.only_match(conn, reader, entry.resource_type, condition)
            return replace(entry, id=existing.id if existing else "")
    return entry


async def _linked(
    conn: Connection, reader: Reader, content: dict[str, Any] | None, targets: Mapping[str, str]
) -> dict[str, Any] | None:
    """The content with references to other entries, and conditional references, made real (R4 3.1.0.11.2)."""
    if content is None:
        return None
    found = dict(targets)
    for text in set(_conditional_references(content)):
        resource_type, _, condition = text.partition("?")
        match = await resources.only_match(conn, reader, resource_type, condition)
        if match is None:
            raise PreconditionFailed("a conditional reference matches no resource")
        found[text] = f"{match.resource_type}/{match.id}"
    linked: dict[str, Any] = _rewritten(content, lambda text: found.get(text, text))
    return linked


def _conditional_references(value: Any) -> Iterator[str]:
    match value:
        case Mapping():
            reference = value.get("reference")
            if isinstance(reference, str) and re.fullmatch(r"[A-Z][A-Za-z]+\?.+", reference):
                yield reference
            for member in value.values():
                yield from _conditional_references(member)
        case list():
            for item in value:
                yield from _conditional_references(item)


def _rewritten(value: Any, link: Callable[[str], str]) -> Any:
    match value:
        case Mapping():
            return {
                key: link(member)
                if isinstance(member, str) and (key in _LINKS or key.endswith(("Uri", "Url")))
                else _rewritten(member, link)
                for key, member in value.items()
            }
        case list():
            return [_rewritten(item, link) for item in value]
    return value


async def perform(conn: Connection, reader: Reader, entry: Entry, base_url: str) -> Done:
    """Does one entry. Raises Forbidden, NotFound, Gone, PreconditionFailed, InvalidInput."""
    match entry.method:
        case "POST" | "PUT":
            return await _write(conn, reader, entry, base_url)
        case "DELETE":
            return await _delete(conn, reader, entry)
    if entry.id:
        version = (
            await resources.vread(conn, reader, entry.resource_type, entry.id, int(entry.version))
            if entry.version
            else await resources.read(conn, reader, entry.resource_type, entry.id)
        )
        return _done(entry, version, "200 OK", base_url)
    params = parse_qsl(entry.query, keep_blank_values=True)
    found = await search.search(conn, reader, entry.resource_type, params, base_url)
    return Done(entry, f'{{"resource":{found.body},"response":{{"status":"200 OK"}}}}', "", found.patient_ids)


async def _write(conn: Connection, reader: Reader, entry: Entry, base_url: str) -> Done:
    reader.require("c" if entry.method == "POST" else "u", entry.resource_type)
    entry = entry if entry.id else await _resolved(conn, reader, entry)
    content = {**(entry.content or {}), "id": entry.id}
    if entry.if_none_exist is not None:
        existing = await resources.only_match(conn, reader, entry.resource_type, entry.if_none_exist)
        if existing is not None:
            return _done(entry, existing, "200 OK", base_url)
    version, created = await resources.update(conn, content, if_match=entry.if_match)
    return _done(entry, version, "201 Created" if created else "200 OK", base_url)


async def _delete(conn: Connection, reader: Reader, entry: Entry) -> Done:
    reader.require("d", entry.resource_type)
    entry = entry if entry.id else await _resolved(conn, reader, entry)
    if not entry.id:
        return Done(entry, '{"response":{"status":"204 No Content"}}')
    patient_ids = await patients_of(conn, entry.resource_type, [entry.id])
    version = await resources.delete(conn, entry.resource_type, entry.id, if_match=entry.if_match)
    response = {"status": "204 No Content", "etag": f'W/"{version.version_id}"'}
    return Done(entry, lossless.dump({"response": response}), entry.what, patient_ids)


def _done(entry: Entry, version: Version, status: str, base_url: str) -> Done:
    what = f"{version.resource_type}/{version.id}"
    response = {
        "status": status,
        "location": f"{base_url}/{what}/_history/{version.version_id}",
        "etag": f'W/"{version.version_id}"',
        "lastModified": instant(version.last_updated),
    }
    patient_id = patient_of(version.resource())
    text = f'{lossless.dump({"fullUrl": f"{base_url}/{what}"})[:-1]},"resource":{version.body},'
    return Done(entry, text + lossless.dump({"response": response})[1:], what, (patient_id,) if patient_id else ())


def response(done: Sequence[str], *, is_transaction: bool) -> str:
    """The response Bundle of entry texts."""
    kind = "transaction-response" if is_transaction else "batch-response"
    head = lossless.dump({"resourceType": "Bundle", "id": str(uuid.uuid4()), "type": kind})
    return f'{head[:-1]},"entry":[{",".join(done)}]}}' if done else head
