"""Bulk Data Access over HTTP: kick-off, status, files, cancel (Bulk Data 2.0 export.html, with 3.0's parameters)."""

from __future__ import annotations

import asyncio
import contextlib
import re
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from wetread.api import fhir_http as http
from wetread.api.credentials import Authenticate
from wetread.api.fhir_audit import AuditHook, Visit, visit
from wetread.api.fhir_outcome import MEDIA_TYPE, OutcomeRoute, outcome
from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, NotFound, WetreadError
from wetread.record import lossless
from wetread.record.audit.audit import Asker, AuditEntry, Entity
from wetread.record.export import jobs as export_jobs
from wetread.record.export import request as export_request
from wetread.record.export.jobs import Throttled
from wetread.store.database import Connection, Database
from wetread.work.jobs import Work

_CHUNK = 1 << 20
_MOST_BODY_BYTES = 4 * 1024 * 1024
_VALUE = re.compile(r"value[A-Z]\w*")


@dataclass(frozen=True, slots=True)
class Export:
    """What the face needs. `root` is the folder of all exports' files."""

    database: Database
    work: Work
    root: Path
    base_url: str
    most_jobs: int


def router(export: Export, authenticate: Authenticate, audit: AuditHook) -> APIRouter:
    """The routes of exports under /fhir. They stand before the FHIR face, whose last routes take every path."""
    face = _Face(export, authenticate, audit)
    routes = APIRouter(prefix="/fhir", route_class=OutcomeRoute, include_in_schema=False)
    for path, methods, endpoint in (
        ("/$export", ["GET", "POST"], face.system),
        ("/Patient/$export", ["GET", "POST"], face.patients),
        ("/Group/{group_id}/$export", ["GET", "POST"], face.group),
        ("/$export/{job_id}", ["GET"], face.status),
        ("/$export/{job_id}", ["DELETE"], face.cancel),
        ("/$export/{job_id}/{number}", ["GET"], face.file),
    ):
        routes.add_api_route(path, endpoint, methods=methods, response_model=None)
    return routes


class _Face:
    def __init__(self, export: Export, authenticate: Authenticate, audit: AuditHook) -> None:
        self._export = export
        self._authenticate = authenticate
        self._audit = audit

    @contextlib.asynccontextmanager
    async def _visit(self, request: Request, kind: str) -> AsyncIterator[tuple[Visit, Reader]]:
        async with visit(request, kind, self._export.database, self._audit) as one:
            one.reader = await self._authenticate(request)
            yield one, one.reader

    async def _told(self, conn: Connection, one: Visit, job_id: UUID, **detail: str) -> None:
        """Adds what was done to the audit, with the job that it was done to."""
        entry = AuditEntry(
            kind=one.interaction,
            action="E",
            outcome="0",
            principal="",
            network=one.request.client.host if one.request.client else "",
            entities=(Entity(type_code="2", role_code="24", query=one.query),) if one.query else (),
            detail={"export": str(job_id), **detail},
            request_id=one.request_id,
        )
        await one.write(conn, [Asker.of(one.reader).said_of(entry)])

    async def system(self, request: Request) -> Response:
        return await self._kick_off(request, "system")

    async def patients(self, request: Request) -> Response:
        return await self._kick_off(request, "patient")

    async def group(self, request: Request, group_id: str) -> Response:
        return await self._kick_off(request, "group", group_id)

    async def _kick_off(self, request: Request, level: str, group_id: str = "") -> Response:
        try:
            async with self._visit(request, "export-started") as (one, reader):
                http.require_acceptable(request)
                if not _prefers_async(request):
                    raise InvalidInput(
                        "an export runs in the background: send Prefer: respond-async", location="Prefer"
                    )
                params = http.query(request)
                if request.method == "POST":
                    body = await _body(request)
                    one.query = body.encode()
                    params = [*params, *_parameters(body)]
                lenient = http.prefers(request, "handling") == "lenient"
                asked = export_request.read(
                    reader, level, params, self._export.base_url, group_id=group_id, lenient=lenient
                )
                url = self._export.base_url + request.url.path.removeprefix("/fhir")
                if request.url.query:
                    url += f"?{request.url.query}"
                async with self._export.database.transaction() as conn:
                    job_id = await export_jobs.start(
                        conn,
                        self._export.work,
                        reader,
                        asked,
                        url,
                        self._export.base_url,
                        most_jobs=self._export.most_jobs,
                    )
                    await self._told(conn, one, job_id, level=level)
                location = f"{self._export.base_url}/$export/{job_id}"
                return Response(status_code=202, headers={"Content-Location": location})
        except Throttled as error:
            return _come_again(error)

    async def status(self, request: Request, job_id: str) -> Response:
        try:
            async with self._visit(request, "operation") as (one, reader):
                http.require_acceptable(request)
                async with self._export.database.transaction() as conn:
                    job = await export_jobs.of(conn, reader, _uuid(job_id))
                    await self._told(conn, one, job.id)
                    if job.state == "complete":
                        body = await export_jobs.manifest(conn, job, self._export.base_url)
                        assert job.expires_at is not None  # noqa: S101
                        headers = {"Expires": http.http_date(job.expires_at)}
                        return Response(lossless.dump(body), headers=headers, media_type="application/json")
                    if job.state == "failed":
                        failure = outcome(WetreadError(f"the export failed: {job.failure}"))
                        return Response(lossless.dump(failure), 500, media_type=MEDIA_TYPE)
                    wait_s = await export_jobs.polled(conn, job)
                progress = f"{job.resources} resources, {job.part} of {len(job.parts)} parts"
                return Response(status_code=202, headers={"Retry-After": str(wait_s), "X-Progress": progress})
        except Throttled as error:
            return _come_again(error)

    async def cancel(self, request: Request, job_id: str) -> Response:
        async with self._visit(request, "export-cancelled") as (one, reader):
            async with self._export.database.transaction() as conn:
                job = await export_jobs.of(conn, reader, _uuid(job_id))
                await export_jobs.cancel(conn, self._export.work, job)
                await self._told(conn, one, job.id)
            return Response(status_code=202)

    async def file(self, request: Request, job_id: str, number: str) -> Response:
        async with self._visit(request, "export-downloaded") as (one, reader):
            if not (number.isascii() and number.isdigit() and len(number) < 8):
                raise NotFound("no such file in this export")
            async with self._export.database.transaction() as conn:
                job = await export_jobs.of(conn, reader, _uuid(job_id))
                found = await export_jobs.file(conn, job, int(number))
                path = self._export.root / found.blob_key
                if not path.is_file():
                    raise NotFound("this file of the export is gone; start the export again")
                detail = {"file": number, "type": found.resource_type, "resources": str(found.resources)}
                await self._told(conn, one, job.id, **detail)
            if "gzip" in request.headers.get("accept-encoding", ""):
                headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
                return StreamingResponse(_gzipped(path), headers=headers, media_type=_NDJSON)
            return _File(path, media_type=_NDJSON, headers={"Vary": "Accept-Encoding"})


_NDJSON = "application/fhir+ndjson"


class _File(FileResponse):
    chunk_size = _CHUNK


async def _gzipped(path: Path) -> AsyncIterator[bytes]:
    """The file compressed as it goes, in memory of one chunk."""
    packer = zlib.compressobj(1, wbits=31)

    def next_part(file: BinaryIO) -> bytes | None:
        packed = b""
        while not packed:
            data = file.read(_CHUNK)
            if not data:
                return None
            packed = packer.compress(data)
        return packed

    with path.open("rb") as file:
        while (part := await asyncio.to_thread(next_part, file)) is not None:
            yield part
        yield packer.flush()


def _come_again(error: Throttled) -> Response:
    headers = {"Retry-After": str(error.retry_after_s)}
    return Response(lossless.dump(outcome(error)), error.http_status, headers=headers, media_type=MEDIA_TYPE)


def _prefers_async(request: Request) -> bool:
    return any(
        part.strip().lower() == "respond-async"
        for part in re.split("[,;]", ",".join(request.headers.getlist("prefer")))
    )


async def _body(request: Request) -> str:
    if not request.headers.get("content-type") and request.headers.get("content-length", "0") == "0":
        return ""
    return await http.resource_text(request, _MOST_BODY_BYTES)


def _parameters(text: str) -> Sequence[tuple[str, str]]:
    """The parameters of a kick-off by POST: simple values, and references by their text. Raises InvalidInput."""
    if not text.strip():
        return []
    content = lossless.parse(text)
    parameters = content.get("parameter", [])
    if content.get("resourceType") != "Parameters" or not isinstance(parameters, list):
        raise InvalidInput("the body of an export is a Parameters resource", location="resourceType")
    found = []
    for number, parameter in enumerate(parameters):
        if not isinstance(parameter, dict) or not isinstance(parameter.get("name"), str):
            raise InvalidInput("a parameter has a name", location=f"Parameters.parameter[{number}]")
        match [value for key, value in parameter.items() if _VALUE.fullmatch(key)]:
            case [str(value)]:
                found.append((parameter["name"], value))
            case [bool(value)]:
                found.append((parameter["name"], "true" if value else "false"))
            case [{"reference": str(reference)}]:
                found.append((parameter["name"], reference))
            case _:
                raise InvalidInput(
                    "a parameter has one simple value, or a reference", location=f"Parameters.parameter[{number}]"
                )
    return found


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound("no such export; it was cancelled, has expired or never was") from error
