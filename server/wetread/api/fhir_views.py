"""Views over HTTP: the operation that SQL on FHIR calls `$run`, and `$viewdefinition-run` where it is on R4.

A ViewDefinition is no resource of R4: it is run, as it is given or by the name of one that is shipped, and not stored.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from wetread.api import fhir_http as http
from wetread.api.credentials import Authenticate
from wetread.api.fhir_audit import AuditHook, visit
from wetread.api.fhir_outcome import OutcomeRoute
from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, NotAcceptable, OutOfSpace, Unsupported
from wetread.record import lossless
from wetread.record.audit.audit import Asker, AuditEntry, Entity
from wetread.record.export import jobs
from wetread.record.time_limit import time_limit
from wetread.record.views import run
from wetread.record.views.definition import compiled
from wetread.record.views.output import MEDIA_TYPES
from wetread.record.views.run import Asked, Written
from wetread.store.database import Database

TIME_LIMIT_S = 300.0
_CHUNK = 1 << 20
_SINGLE = ("viewResource", "viewReference", "_format", "header", "patient", "_since", "_limit", "source")
_REPEATED = ("group", "resource")
_VALUE = re.compile(r"value[A-Z]\w*")
_ACCEPTED = {
    **{media_type: form for form, media_type in MEDIA_TYPES.items()},
    **{"*/*": "json", "application/*": "json", "application/fhir+json": "json", "text/*": "csv"},
    **{"application/ndjson": "ndjson", "application/octet-stream": "parquet"},
}


@dataclass(frozen=True, slots=True)
class Views:
    """What the face needs. `shipped` are views by id; `scratch` the folder where a table lies while it is made."""

    database: Database
    shipped: Mapping[str, Mapping[str, Any]]
    scratch: Path
    base_url: str
    max_body_bytes: int = 16 * 1024 * 1024


def router(views: Views, authenticate: Authenticate, audit: AuditHook) -> APIRouter:
    """The routes of views under /fhir. They stand before the FHIR face, whose last routes take every path."""
    face = _Face(views, authenticate, audit, asyncio.Semaphore(2))
    routes = APIRouter(prefix="/fhir", route_class=OutcomeRoute, include_in_schema=False)
    for path, endpoint in (
        ("/$viewdefinition-run", face.inline),
        ("/ViewDefinition/$viewdefinition-run", face.inline),
        ("/ViewDefinition/$run", face.inline),
        ("/ViewDefinition/{view_id}/$viewdefinition-run", face.named),
        ("/ViewDefinition/{view_id}/$run", face.named),
    ):
        routes.add_api_route(path, endpoint, methods=["GET", "POST"], response_model=None)
    return routes


@dataclass(frozen=True, slots=True)
class _Given:
    """The parameters of a call, by name; the values are text, or resources."""

    values: Mapping[str, list[Any]] = field(default_factory=dict)

    def one(self, name: str) -> Any:
        return self.values[name][0] if name in self.values else None


@dataclass(frozen=True, slots=True)
class _Face:
    views: Views
    authenticate: Authenticate
    audit: AuditHook
    places: asyncio.Semaphore
    """So few run at a time: each takes a core."""

    async def inline(self, request: Request) -> Response:
        return await self._run(request, "")

    async def named(self, request: Request, view_id: str) -> Response:
        return await self._run(request, view_id)

    async def _run(self, request: Request, view_id: str) -> Response:
        async with visit(request, "view-run", self.views.database, self.audit) as one:
            one.reader = reader = await self.authenticate(request)
            given = await self._given(request)
            form = _form(request, given)
            content = self._content(given, view_id)
            resources = given.values.get("resource")
            header = given.one("header") != "false"
            target = _scratch(self.views.scratch)
            deadline = time.monotonic() + TIME_LIMIT_S
            try:
                async with time_limit(TIME_LIMIT_S, "view", "ask for less, or use $export"), self.places:
                    asked = await self._asked(reader, content, given, deadline)
                    if resources is None:
                        made = await run.written(self.views.database, reader, asked, form, target, header=header)
                    else:
                        made = await asyncio.to_thread(run.written_of, resources, asked, form, target, header=header)
                entry = AuditEntry(
                    kind="view-run",
                    action="E",
                    outcome="0",
                    principal="",
                    network=request.client.host if request.client else "",
                    entities=(Entity(type_code="2", role_code="24", query=_asked_text(request, content, given)),),
                    detail=_detail(asked, form, made, of_store=resources is None),
                    request_id=one.request_id,
                    patient_id=min(asked.patients) if asked.patients and len(asked.patients) == 1 else None,
                )
                async with self.views.database.transaction() as conn:
                    await one.write(conn, [Asker.of(reader).said_of(entry)])
                size = target.tell()
            except OSError as error:
                target.close()
                raise OutOfSpace("no space for the table of a view; free space in the folder of exports") from error
            except BaseException:
                target.close()
                raise
            headers = {"Content-Length": str(size)}
            return StreamingResponse(_chunks(target), headers=headers, media_type=MEDIA_TYPES[form])

    async def _given(self, request: Request) -> _Given:
        values: dict[str, list[Any]] = {}
        for name, value in http.query(request):
            if name in ("viewResource", "resource"):
                raise InvalidInput("a resource is sent in the body", location=name)
            values.setdefault(name, []).append(value)
        if request.method == "POST" and request.headers.get("content-type"):
            text = await http.resource_text(request, self.views.max_body_bytes)
            for name, value in _parameters(lossless.parse(text)):
                values.setdefault(name, []).append(value)
        for name, each in values.items():
            if name not in (*_SINGLE, *_REPEATED, "_pretty"):
                raise InvalidInput(f"a view takes {', '.join((*_SINGLE, *_REPEATED))}", location=name)
            if name in _SINGLE and len(each) > 1:
                raise InvalidInput("given more than once", location=name)
        if "source" in values:
            raise Unsupported("views run over this server's store only", location="source")
        return _Given(values)

    def _content(self, given: _Given, view_id: str) -> Mapping[str, Any]:
        """The one view that is meant. Raises InvalidInput, NotFound."""
        inline, reference = given.one("viewResource"), given.one("viewReference")
        if sum(each not in (None, "") for each in (inline, reference, view_id)) != 1:
            message = "name one view: viewResource, or viewReference, or ViewDefinition/{id} in the URL"
            raise InvalidInput(message, location="viewResource")
        if inline is not None:
            if not isinstance(inline, dict):
                raise InvalidInput("viewResource is a resource", location="viewResource")
            return inline
        return run.named(self.views.shipped, str(view_id or reference).removeprefix(f"{self.views.base_url}/"))

    async def _asked(self, reader: Reader, content: Mapping[str, Any], given: _Given, deadline: float) -> Asked:
        """Raises Forbidden where the reader may not run the view, over resources of its own too: a run takes a core."""
        view = await asyncio.to_thread(compiled, content)
        run.require_run(reader, view)
        patients: frozenset[str] | None = None
        if (patient := given.one("patient")) is not None:
            patients = frozenset({self._id(patient, "Patient")})
        if groups := given.values.get("group"):
            async with self.views.database.transaction() as conn:
                base = self.views.base_url
                listed = [await jobs.members(conn, reader, self._id(group, "Group"), base) for group in groups]
            members = frozenset().union(*listed)
            patients = members if patients is None else patients & members
        limit = given.one("_limit")
        if limit is not None and not re.fullmatch(r"[1-9]\d{0,8}", str(limit)):
            raise InvalidInput("_limit is a number of rows, 1 or more", location="_limit")
        most_rows = int(limit) if limit is not None else None
        return Asked(view, _instant(given.one("_since")), patients, most_rows, deadline)

    def _id(self, reference: Any, resource_type: str) -> str:
        text = str(reference).removeprefix(f"{self.views.base_url}/").removeprefix(f"{resource_type}/")
        if not re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", text):
            raise InvalidInput(f"not a reference to a {resource_type} of this server", location=resource_type.lower())
        return text


def _form(request: Request, given: _Given) -> str:
    """The format: `_format` wins over Accept. Raises NotAcceptable."""
    wanted = given.one("_format")
    if wanted is not None:
        text = str(wanted).replace(" ", "+")
        form = text if text in MEDIA_TYPES else _ACCEPTED.get(text)
    else:
        offers = [part.split(";")[0].strip().lower() for part in request.headers.get("accept", "*/*").split(",")]
        form = next((_ACCEPTED[offer] for offer in offers if offer in _ACCEPTED), None)
    if form is None:
        raise NotAcceptable(f"a view is given as one of {', '.join(MEDIA_TYPES)}", location="_format")
    return form


def _parameters(content: Mapping[str, Any]) -> Sequence[tuple[str, Any]]:
    """Names and values of a Parameters resource: simple values as text, references by their text, resources."""
    rows = content.get("parameter", [])
    if content.get("resourceType") != "Parameters" or not isinstance(rows, list):
        raise InvalidInput("the body of a view's run is a Parameters resource", location="resourceType")
    found: list[tuple[str, Any]] = []
    for number, row in enumerate(rows):
        where = f"Parameters.parameter[{number}]"
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise InvalidInput("a parameter has a name", location=where)
        match [row[key] for key in row if key == "resource" or _VALUE.fullmatch(key)]:
            case [bool(value)]:
                found.append((row["name"], "true" if value else "false"))
            case [{"reference": str(reference)}]:
                found.append((row["name"], reference))
            case [str() | int() as value]:
                found.append((row["name"], str(value)))
            case [dict(value)] if "resource" in row:
                found.append((row["name"], value))
            case _:
                raise InvalidInput("a parameter has one simple value, a reference, or a resource", location=where)
        if row["name"] == "resource" and not isinstance(found[-1][1], dict):
            raise InvalidInput("resource is a resource", location=where)
    return found


def _instant(text: Any) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(str(text).replace(" ", "+"))
    except ValueError as error:
        raise InvalidInput("_since is an instant, e.g. 2026-11-21T12:00:00Z", location="_since") from error
    if moment.tzinfo is None:
        raise InvalidInput("_since tells its offset from UTC", location="_since")
    return moment


def _asked_text(request: Request, content: Mapping[str, Any], given: _Given) -> bytes:
    """What was asked, without the resources that the caller may have given."""
    simple = {name: values for name, values in given.values.items() if name not in ("viewResource", "resource")}
    return f"{request.method} {request.url.path} {lossless.dump({**simple, 'view': content})}".encode()


def _detail(asked: Asked, form: str, made: Written, *, of_store: bool) -> dict[str, str]:
    return {
        "view": asked.view.name,
        "type": asked.view.resource_type,
        "format": form,
        "source": "store" if of_store else "request",
        "resources": str(made.resources),
        "rows": str(made.rows),
    }


def _scratch(folder: Path) -> BinaryIO:
    """A file without a name: it goes with its last reader, and with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    return cast(BinaryIO, tempfile.TemporaryFile(dir=folder))


async def _chunks(target: BinaryIO) -> AsyncIterator[bytes]:
    try:
        target.seek(0)
        while chunk := await asyncio.to_thread(target.read, _CHUNK):
            yield chunk
    finally:
        target.close()
