"""The FHIR R4 face: authorise, call the record, render (FHIR R4 http.html)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeAlias

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from wetread.api import fhir_http as http
from wetread.api.credentials import Authenticate
from wetread.api.fhir_audit import AuditHook, Visit, visit
from wetread.api.fhir_metadata import capability_statement
from wetread.api.fhir_outcome import MEDIA_TYPE, OutcomeRoute, outcome
from wetread.domain.reader import SYSTEM, Reader
from wetread.errors import InvalidInput, MethodNotAllowed, NotFound, WetreadError
from wetread.record import audit as audit_record
from wetread.record import bundle, lossless, resources, validate
from wetread.record.compartment import patient_of, patients_of
from wetread.record.history import history
from wetread.record.parameters import resource_types
from wetread.record.search import search
from wetread.store.database import Connection, Database

_AUDIT_EVENT = "AuditEvent"


OnWrite: TypeAlias = Callable[[Connection, Reader, str, str, resources.Version | None], Awaitable[None]]


def router(
    database: Database,
    authenticate: Authenticate,
    audit: AuditHook,
    base_url: str,
    *,
    on_write: OnWrite,
    max_body_bytes: int = 16 * 1024 * 1024,
) -> APIRouter:
    """The routes under /fhir. `base_url` is what the world calls that path, without a slash at its end.

    `on_write` is told, in the transaction of each write by a client, what was written: type, id, and its version
    (None for a deletion). What it raises undoes the write.
    """
    face = _Face(database, authenticate, audit, base_url.rstrip("/"), on_write, max_body_bytes)
    routes = APIRouter(prefix="/fhir", route_class=OutcomeRoute, include_in_schema=False)
    for path, method, endpoint in (
        ("/metadata", "GET", face.metadata),
        ("", "POST", face.process),
        ("/", "POST", face.process),
        ("/{resource_type}", "GET", face.search),
        ("/{resource_type}/_search", "POST", face.search),
        ("/{resource_type}", "POST", face.create),
        ("/{resource_type}/{resource_id}", "GET", face.read),
        ("/{resource_type}/{resource_id}", "PUT", face.update),
        ("/{resource_type}/{resource_id}", "DELETE", face.delete),
        ("/{resource_type}/{resource_id}/_history", "GET", face.history),
        ("/{resource_type}/{resource_id}/_history/{version_id}", "GET", face.vread),
    ):
        routes.add_api_route(path, endpoint, methods=[method], response_model=None)
    everything = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
    for path in ("", "/{rest:path}"):
        routes.add_api_route(path, face.nothing, methods=everything, response_model=None)
    return routes


class _Face:
    def __init__(
        self,
        database: Database,
        authenticate: Authenticate,
        audit: AuditHook,
        base_url: str,
        on_write: OnWrite,
        max_body_bytes: int,
    ) -> None:
        self._database = database
        self._authenticate = authenticate
        self._audit = audit
        self._base_url = base_url
        self._on_write = on_write
        self._max_body_bytes = max_body_bytes
        self._capabilities = lossless.dump(capability_statement(base_url, datetime.now(UTC)))

    @contextlib.asynccontextmanager
    async def _visit(self, request: Request, interaction: str, *what: str) -> AsyncIterator[tuple[Visit, Reader]]:
        async with visit(request, interaction, self._database, self._audit, what="/".join(what)) as one:
            one.reader = await self._authenticate(request)
            http.require_acceptable(request)
            yield one, one.reader

    async def metadata(self, request: Request) -> Response:
        async with visit(request, "capabilities", self._database, self._audit) as one:
            http.require_acceptable(request)
            async with self._database.transaction() as conn:
                await one.record(conn)
        return Response(self._capabilities, media_type=MEDIA_TYPE)

    async def read(self, request: Request, resource_type: str, resource_id: str) -> Response:
        async with self._visit(request, "read", resource_type, resource_id) as (one, reader):
            async with self._database.transaction() as conn:
                if resource_type == _AUDIT_EVENT:
                    body = await audit_record.read(conn, reader, resource_id)
                    await one.record(conn)
                    return Response(body, media_type=MEDIA_TYPE)
                version = await resources.read(conn, reader, resource_type, resource_id)
                await one.record(conn, patient_ids=_patients(version))
            return http.read_response(request, version)

    async def vread(self, request: Request, resource_type: str, resource_id: str, version_id: str) -> Response:
        what = (resource_type, resource_id, "_history", version_id)
        async with self._visit(request, "vread", *what) as (one, reader):
            if not (version_id.isascii() and version_id.isdigit() and len(version_id) < 10):
                raise NotFound("no such version here; versions are whole numbers")
            async with self._database.transaction() as conn:
                version = await resources.vread(conn, reader, resource_type, resource_id, int(version_id))
                await one.record(conn, patient_ids=_patients(version))
            return http.read_response(request, version)

    async def history(self, request: Request, resource_type: str, resource_id: str) -> Response:
        async with self._visit(request, "history-instance", resource_type, resource_id) as (one, reader):
            async with self._database.transaction() as conn:
                params = http.query(request)
                body = await history(conn, reader, resource_type, resource_id, params, self._base_url)
                await one.record(conn, patient_ids=await patients_of(conn, resource_type, [resource_id]))
            return Response(body, media_type=MEDIA_TYPE)

    async def search(self, request: Request, resource_type: str) -> Response:
        async with self._visit(request, "search-type") as (one, reader):
            params = http.query(request)
            if request.method == "POST":
                form, one.query = await http.form(request, self._max_body_bytes)
                params = [*params, *form]
            strict = http.prefers(request, "handling") == "strict"
            async with self._database.transaction() as conn:
                if resource_type == _AUDIT_EVENT:
                    body = await audit_record.search(conn, reader, params, self._base_url)
                    await one.record(conn)
                else:
                    found = await search(conn, reader, resource_type, params, self._base_url, strict=strict)
                    body = found.body
                    await one.record(conn, patient_ids=found.patient_ids)
            return Response(body, media_type=MEDIA_TYPE)

    async def create(self, request: Request, resource_type: str) -> Response:
        async with self._visit(request, "create", resource_type) as (one, reader):
            _require_writable(resource_type)
            reader.require("c", resource_type)
            text = await http.resource_text(request, self._max_body_bytes)
            _require_type(await validate.parsed(text), resource_type)
            async with self._database.transaction() as conn:
                condition = request.headers.get("if-none-exist")
                version, created = await resources.create(conn, text, if_none_exist=condition, reader=reader)
                if created:
                    await self._on_write(conn, reader, resource_type, version.id, version)
                await one.record(conn, _reference(version), _patients(version))
            return http.written_response(request, version, created=created, base_url=self._base_url)

    async def update(self, request: Request, resource_type: str, resource_id: str) -> Response:
        async with self._visit(request, "update", resource_type, resource_id) as (one, reader):
            _require_writable(resource_type)
            reader.require("u", resource_type)
            text = await http.resource_text(request, self._max_body_bytes)
            content = await validate.parsed(text)
            _require_type(content, resource_type)
            if content.get("id") != resource_id:
                raise InvalidInput("the resource's id is not that of the URL", location=f"{resource_type}.id")
            async with self._database.transaction() as conn:
                version, created = await resources.update(conn, text, if_match=http.if_match(request))
                await self._on_write(conn, reader, resource_type, resource_id, version)
                await one.record(conn, patient_ids=_patients(version))
            return http.written_response(request, version, created=created, base_url=self._base_url)

    async def delete(self, request: Request, resource_type: str, resource_id: str) -> Response:
        async with self._visit(request, "delete", resource_type, resource_id) as (one, reader):
            _require_writable(resource_type)
            reader.require("d", resource_type)
            async with self._database.transaction() as conn:
                patient_ids = await patients_of(conn, resource_type, [resource_id])
                version = await resources.delete(conn, resource_type, resource_id, if_match=http.if_match(request))
                await self._on_write(conn, reader, resource_type, resource_id, None)
                await one.record(conn, patient_ids=patient_ids)
            return Response(status_code=204, headers={"ETag": http.etag(version)})

    async def process(self, request: Request) -> Response:
        async with self._visit(request, "batch") as (one, reader):
            text = await http.resource_text(request, self._max_body_bytes)
            asked = await bundle.read(text)
            one.interaction = "transaction" if asked.is_transaction else "batch"
            texts = await (self._transaction if asked.is_transaction else self._batch)(asked, one, reader)
            body = bundle.response(texts, is_transaction=asked.is_transaction)
            return Response(body, media_type=MEDIA_TYPE)

    async def _transaction(self, asked: bundle.Request, one: Visit, reader: Reader) -> list[str]:
        entries = [entry for entry in asked.entries if isinstance(entry, bundle.Entry)]
        async with self._database.transaction() as conn:
            done = await bundle.transact(conn, reader, entries, self._base_url)
            await one.record(conn)
            for each in done:
                await self._tell(conn, reader, each)
                await one.entry(each.entry.interaction, each.what).record(conn, patient_ids=each.patient_ids)
        return [each.text for each in done]

    async def _batch(self, asked: bundle.Request, one: Visit, reader: Reader) -> list[str]:
        """Each entry is a unit of work of its own, and fails alone."""
        texts = []
        for entry in asked.entries:
            try:
                if isinstance(entry, WetreadError):
                    raise entry
                async with self._database.transaction() as conn:
                    done = await bundle.perform(conn, reader, entry, self._base_url)
                    await self._tell(conn, reader, done)
                    await one.entry(entry.interaction, done.what).record(conn, patient_ids=done.patient_ids)
                texts.append(done.text)
            except WetreadError as error:
                failed = one.entry(entry.interaction, entry.what) if isinstance(entry, bundle.Entry) else one
                async with self._database.transaction() as conn:
                    await failed.record_failure(conn, error)
                response = {"status": str(error.http_status), "outcome": outcome(error)}
                texts.append(lossless.dump({"response": response}))
        async with self._database.transaction() as conn:
            await one.record(conn)
        return texts

    async def _tell(self, conn: Connection, reader: Reader, done: bundle.Done) -> None:
        """Tells `on_write` what an entry of a Bundle wrote."""
        resource_type, _, resource_id = done.what.partition("/")
        if done.entry.method == "DELETE" and resource_id:
            await self._on_write(conn, reader, resource_type, resource_id, None)
        elif done.entry.method in ("POST", "PUT"):
            version = await resources.read(conn, SYSTEM, resource_type, resource_id)
            await self._on_write(conn, reader, resource_type, resource_id, version)

    async def nothing(self, request: Request) -> Response:
        """What no other route takes: the wrong method on a path of ours, or no path of ours."""
        async with self._visit(request, "operation"):
            allowed = _allowed(request.url.path.partition("/fhir")[2].strip("/").split("/"))
            if allowed:
                raise MethodNotAllowed(f"this path takes {allowed}", location=allowed)
            raise NotFound("there is nothing at this path; see GET metadata")


def _allowed(path: list[str]) -> str:
    match path:
        case [""]:
            return "POST"
        case ["metadata"]:
            return "GET"
        case [_, "_search"]:
            return "POST"
        case [_]:
            return "GET, POST"
        case [_, _]:
            return "GET, PUT, DELETE"
        case [_, _, "_history"] | [_, _, "_history", _]:
            return "GET"
    return ""


def _reference(version: resources.Version) -> str:
    return f"{version.resource_type}/{version.id}"


def _patients(version: resources.Version) -> tuple[str, ...]:
    patient_id = patient_of(version.resource())
    return (patient_id,) if patient_id else ()


def _require_writable(resource_type: str) -> None:
    if resource_type == _AUDIT_EVENT:
        raise MethodNotAllowed("audit events are read, not written", location="GET")
    if resource_type not in resource_types():
        raise NotFound("no such resource type here; see GET metadata")


def _require_type(content: dict[str, object], resource_type: str) -> None:
    if content["resourceType"] != resource_type:
        raise InvalidInput("the resource's type is not that of the URL", location="resourceType")
