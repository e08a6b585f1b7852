"""A batch or transaction Bundle taken apart: what each entry asks for (FHIR R4 3.1.0.11, bundle.html)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from wetread.errors import InvalidInput, NotFound, TooLarge, Unsupported, WetreadError
from wetread.record import fhirpath_patch, lossless, patch
from wetread.record.aside import aside
from wetread.record.search.index import date_range
from wetread.record.search.index_rows import here
from wetread.record.search.parameters import resource_types
from wetread.record.validation import validate

MOST_ENTRIES = 1000
METHODS = ("DELETE", "POST", "PUT", "PATCH", "GET")
"""In the order in which a transaction does them; PUT and PATCH count as one."""
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_VERSION = re.compile(r"\d{1,9}")
_ETAG = re.compile(r'(?:W/)?"?(\d{1,9})"?')


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry's request. `content` is the resource of a POST or PUT; of a PATCH it is the Parameters of a FHIRPath
    Patch, and `operations` a JSON Patch where it is none.

    `interaction` is a restful-interaction code; `query` the search of a conditional interaction or of a GET.
    """

    number: int
    method: str
    interaction: str
    resource_type: str = ""
    id: str = ""
    version: str = ""
    query: str = ""
    compartment: tuple[str, str] | None = None
    full_url: str = ""
    if_match: int | None = None
    if_none_match: str | None = None
    if_modified_since: datetime | None = None
    if_none_exist: str | None = None
    content: dict[str, Any] | None = None
    operations: tuple[dict[str, Any], ...] = ()

    @property
    def what(self) -> str:
        """`Type/id`, or the type alone where the entry names no resource."""
        return f"{self.resource_type}/{self.id}" if self.id else self.resource_type

    @property
    def condition(self) -> str:
        """The search that decides which resource is written; empty where the id does."""
        return self.if_none_exist or "" if self.method == "POST" else self.query if self.method != "GET" else ""


@dataclass(frozen=True, slots=True)
class Request:
    """A Bundle, taken apart: `entries` in their order; for a batch, entries that are faulty carry their error."""

    is_transaction: bool
    entries: tuple[Entry | WetreadError, ...]


async def read(text: str, bases: Sequence[str] = ()) -> Request:
    """Takes a Bundle apart. Raises InvalidInput and the like; in a batch a faulty entry stands for itself.

    An entry's url may begin with one of the server's own addresses, `bases`, though R4 has it relative to them.
    Validation takes long, so it has a thread of its own.
    """
    bundle = await aside(len(text), lambda: lossless.parse(text))
    if bundle.get("resourceType") != "Bundle" or bundle.get("type") not in ("batch", "transaction"):
        raise InvalidInput("expected a Bundle of type batch or transaction", location="Bundle.type")
    entries = bundle.get("entry", [])
    if not isinstance(entries, list):
        raise InvalidInput("a Bundle has a list of entries", location="Bundle.entry")
    if len(entries) > MOST_ENTRIES:
        raise TooLarge(f"a Bundle has at most {MOST_ENTRIES} entries here", location="Bundle.entry")
    return await asyncio.to_thread(_taken_apart, entries, bases, bundle["type"] == "transaction")


def _taken_apart(items: Sequence[Any], bases: Sequence[str], is_transaction: bool) -> Request:
    entries: list[Entry | WetreadError] = []
    for number, item in enumerate(items):
        try:
            entries.append(_entry(number, item, bases))
        except WetreadError as error:
            if is_transaction:
                raise
            entries.append(error)
    return Request(is_transaction, tuple(entries))


def _entry(number: int, item: Any, bases: Sequence[str]) -> Entry:
    where = f"Bundle.entry[{number}]"
    request = item.get("request") if isinstance(item, dict) else None
    if not isinstance(request, dict) or not isinstance(request.get("url"), str):
        raise InvalidInput("an entry needs request.method and request.url", location=f"{where}.request")
    method = request.get("method")
    if method not in METHODS:
        raise Unsupported(
            "an entry's method is GET, POST, PUT, PATCH or DELETE here", location=f"{where}.request.method"
        )
    path, _, query = here(request["url"], bases).lstrip("/").partition("?")
    steps = [unquote(step) for step in path.split("/")] if path else []
    if any(step.startswith("$") for step in steps):
        raise Unsupported("operations are not done inside a Bundle; call them alone", location=f"{where}.request.url")
    entry = replace(
        _read(number, steps, query, where) if method == "GET" else _write(number, method, steps, query, where),
        full_url=_text(item, "fullUrl", where) or "",
        if_match=_if_match(request, where),
        if_none_match=_text(request, "ifNoneMatch", f"{where}.request"),
        if_modified_since=_instant(request, where),
        if_none_exist=_text(request, "ifNoneExist", f"{where}.request"),
    )
    if method in ("POST", "PUT"):
        return replace(entry, content=_content(entry, item, where))
    if method == "PATCH":
        parameters = _fhirpath_patch(item, where)
        return replace(entry, content=parameters, operations=() if parameters else _operations(item, where))
    return entry


def _read(number: int, steps: Sequence[str], query: str, where: str) -> Entry:
    match steps:
        case []:
            return Entry(number, "GET", "search-system", query=query)
        case ["_history"]:
            return Entry(number, "GET", "history-system", query=query)
    resource_type = _type(steps[0], where)
    match steps[1:]:
        case []:
            return Entry(number, "GET", "search-type", resource_type, query=query)
        case ["_history"]:
            return Entry(number, "GET", "history-type", resource_type, query=query)
        case [id_] if _ID.fullmatch(id_):
            return Entry(number, "GET", "read", resource_type, id_, query=query)
        case [id_, "_history"] if _ID.fullmatch(id_):
            return Entry(number, "GET", "history-instance", resource_type, id_, query=query)
        case [id_, "_history", version] if _ID.fullmatch(id_) and _VERSION.fullmatch(version):
            return Entry(number, "GET", "vread", resource_type, id_, version, query)
        case [id_, inner] if _ID.fullmatch(id_):
            found = _type(inner, where) if inner != "*" else ""
            return Entry(number, "GET", "search-type", found, query=query, compartment=(resource_type, id_))
    raise NotFound("there is nothing at this path; see GET metadata", location=f"{where}.request.url")


def _write(number: int, method: str, steps: Sequence[str], query: str, where: str) -> Entry:
    interaction = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[method]
    match steps:
        case [name] if method == "POST" and not query:
            return Entry(number, method, interaction, _type(name, where))
        case _ if method == "POST":
            raise InvalidInput("POST in a Bundle creates: its url is the type", location=f"{where}.request.url")
        case [name] if query:
            return Entry(number, method, interaction, _type(name, where), query=query)
        case [name, id_] if not query and _ID.fullmatch(id_):
            return Entry(number, method, interaction, _type(name, where), id_)
    raise InvalidInput(f"{method} needs Type/id, or Type?search", location=f"{where}.request.url")


def _type(name: str, where: str) -> str:
    if name not in resource_types():
        raise NotFound("no such resource type here; see GET metadata", location=f"{where}.request.url")
    return name


def _text(item: Mapping[str, Any], name: str, where: str) -> str | None:
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidInput("expected a string", location=f"{where}.{name}")
    if value == "":
        raise InvalidInput("an empty string says nothing", location=f"{where}.{name}")
    return value


def _if_match(request: Mapping[str, Any], where: str) -> int | None:
    value = _text(request, "ifMatch", f"{where}.request")
    if value is None:
        return None
    found = _ETAG.fullmatch(value)
    if not found:
        raise InvalidInput('ifMatch has the form W/"3"', location=f"{where}.request.ifMatch")
    return int(found.group(1))


def _instant(request: Mapping[str, Any], where: str) -> datetime | None:
    value = _text(request, "ifModifiedSince", f"{where}.request")
    if value is None:
        return None
    try:
        return date_range(value)[0]
    except ValueError as error:
        raise InvalidInput("expected an instant", location=f"{where}.request.ifModifiedSince") from error


def _content(entry: Entry, item: Mapping[str, Any], where: str) -> dict[str, Any]:
    content = item.get("resource")
    if not isinstance(content, dict) or content.get("resourceType") != entry.resource_type:
        raise InvalidInput("the entry's resource is not of the type in its url", location=f"{where}.resource")
    if entry.id and content.get("id") != entry.id:
        raise InvalidInput("the resource's id is not that of the url", location=f"{where}.resource.id")
    try:
        validate.check(content)
    except validate.InvalidResource as error:
        raise _moved(error, entry.resource_type, where) from error
    return content


def _fhirpath_patch(item: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    content = item.get("resource")
    if not isinstance(content, dict) or content.get("resourceType") != "Parameters":
        return None
    try:
        fhirpath_patch.parsed(content)
    except validate.InvalidResource as error:
        raise _moved(error, "Parameters", where) from error
    except WetreadError as error:
        error.location = f"{where}.resource{(error.location or '').removeprefix('Parameters')}"
        raise
    return content


def _moved(error: validate.InvalidResource, resource_type: str, where: str) -> validate.InvalidResource:
    """The faults of a resource, told where it stands in the Bundle."""
    return validate.InvalidResource(
        [replace(i, expression=f"{where}.resource{i.expression.removeprefix(resource_type)}") for i in error.issues]
    )


def _operations(item: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ...]:
    """The JSON Patch in the Binary that R4 has it travel in (3.1.0.9.1)."""
    match item.get("resource"):
        case {"resourceType": "Binary", "contentType": patch.MEDIA_TYPE, "data": str(data)}:
            try:
                text = base64.b64decode(data, validate=True).decode()
            except (binascii.Error, ValueError) as error:
                raise InvalidInput("data is base64 of UTF-8 text", location=f"{where}.resource.data") from error
            try:
                return tuple(patch.parsed(text))
            except WetreadError as error:
                error.location = f"{where}.resource.data"
                raise
    raise Unsupported(
        f"PATCH in a Bundle takes Parameters, or a Binary whose contentType is {patch.MEDIA_TYPE}",
        location=f"{where}.resource",
    )
