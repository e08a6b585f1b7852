"""The FHIR R4 face: authorise, call the record, render (FHIR R4 http.html)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from wetread.api import fhir_http as http
from wetread.api import fhir_operations
from wetread.api.credentials import Authenticate
from wetread.api.fhir_audit import AuditHook as AuditHook
from wetread.api.fhir_audit import visit
from wetread.api.fhir_bundles import Bundles
from wetread.api.fhir_face import Face
from wetread.api.fhir_face import OnWrite as OnWrite
from wetread.api.fhir_metadata import capability_statement, terminology_capabilities
from wetread.api.fhir_outcome import MEDIA_TYPE, OutcomeRoute
from wetread.api.fhir_reads import Reads
from wetread.api.fhir_writes import Writes
from wetread.errors import InvalidInput, MethodNotAllowed, NotFound
from wetread.record import lossless
from wetread.store.database import Database

_Route: TypeAlias = tuple[str, Callable[..., Awaitable[Response]], list[str]]
_EVERY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


def router(
    database: Database,
    authenticate: Authenticate,
    audit: AuditHook,
    base_url: str,
    *,
    on_write: OnWrite,
    max_body_bytes: int = 16 * 1024 * 1024,
    update_create: bool = True,
    topics: Sequence[str] = (),
) -> APIRouter:
    """The routes under /fhir. `base_url` is what the world calls that path, without a slash at its end.

    `on_write` is told, in the transaction of each write by a client, what was written: type, id, and its version
    (None for a deletion). What it raises undoes the write. `update_create` lets a PUT make a
    resource under an id of the client's. `topics` are the canonicals that clients may subscribe to.
    """
    face = Face(database, authenticate, audit, base_url.rstrip("/"), on_write, max_body_bytes, update_create)
    own = _Own(face, _metadata(face, topics))
    routes = APIRouter(prefix="/fhir", route_class=OutcomeRoute, include_in_schema=False)
    operations = fhir_operations.router(database, authenticate, audit, face.base_url, max_body_bytes=max_body_bytes)
    routes.include_router(operations)
    reads, writes, bundles = Reads(face), Writes(face), Bundles(face)
    fixed: list[_Route] = [
        ("/metadata", own.metadata, ["GET"]),
        ("/_search", reads.search_system, ["POST"]),
        ("/_history", reads.history_of_system, ["GET"]),
        ("/{resource_type}/_search", reads.search, ["POST"]),
        ("/{resource_type}/_history", reads.history_of_type, ["GET"]),
        ("/{resource_type}/{resource_id}/_history", reads.history_of_resource, ["GET"]),
        ("/{resource_type}/{resource_id}/_history/{version_id}", reads.vread, ["GET"]),
        ("/{resource_type}/{resource_id}/{inner}/_search", reads.search_compartment, ["POST"]),
    ]
    for path, endpoint, methods in fixed:
        routes.add_api_route(path, endpoint, methods=_with_head(methods), response_model=None)
        routes.add_api_route(path, own.nothing, methods=_EVERY, response_model=None)
    general: list[_Route] = [
        ("", bundles.process, ["POST"]),
        ("/", bundles.process, ["POST"]),
        ("", reads.search_system, ["GET"]),
        ("/", reads.search_system, ["GET"]),
        ("/{resource_type}", reads.search, ["GET"]),
        ("/{resource_type}", writes.create, ["POST"]),
        ("/{resource_type}", writes.update_by_condition, ["PUT"]),
        ("/{resource_type}", writes.patch_by_condition, ["PATCH"]),
        ("/{resource_type}", writes.delete_by_condition, ["DELETE"]),
        ("/{resource_type}/{resource_id}", reads.read, ["GET"]),
        ("/{resource_type}/{resource_id}", writes.update, ["PUT"]),
        ("/{resource_type}/{resource_id}", writes.patch, ["PATCH"]),
        ("/{resource_type}/{resource_id}", writes.delete, ["DELETE"]),
        ("/{resource_type}/{resource_id}/{inner}", reads.search_compartment, ["GET"]),
        ("", own.nothing, _EVERY),
        ("/{rest:path}", own.nothing, _EVERY),
    ]
    for path, endpoint, methods in general:
        routes.add_api_route(path, endpoint, methods=_with_head(methods), response_model=None)
    return routes


def _metadata(face: Face, topics: Sequence[str]) -> dict[str, str]:
    """By mode (3.1.0.8): what is not normative is not held apart."""
    now = datetime.now(UTC)
    capabilities = capability_statement(face.base_url, now, update_create=face.update_create, topics=topics)
    full = lossless.dump(capabilities)
    return {
        "full": full,
        "normative": full,
        "terminology": lossless.dump(terminology_capabilities(face.base_url, now)),
    }


@dataclass(frozen=True, slots=True)
class _Own:
    face: Face
    capabilities: Mapping[str, str]
    """The answer to each `mode`."""

    async def metadata(self, request: Request) -> Response:
        async with visit(request, "capabilities", self.face.database, self.face.audit) as one:
            http.require_acceptable(request)
            body = self.capabilities.get(request.query_params.get("mode", "full"))
            if body is None:
                raise InvalidInput(f"mode is one of {', '.join(self.capabilities)}", location="http.mode")
            async with self.face.database.transaction() as conn:
                await one.record(conn)
        return Response(body, media_type=MEDIA_TYPE)

    async def nothing(self, request: Request) -> Response:
        """What no other route takes: the wrong method on a path of ours, or no path of ours."""
        async with self.face.visit(request, "operation"):
            allowed = _allowed(request.url.path.partition("/fhir")[2].strip("/").split("/"))
            if allowed:
                raise MethodNotAllowed(f"this path takes {allowed}", location=allowed)
            raise NotFound("there is nothing at this path; see GET metadata")


def _with_head(methods: list[str]) -> list[str]:
    return ["GET", "HEAD"] if methods == ["GET"] else methods


def _allowed(path: list[str]) -> str:
    match path:
        case [""]:
            return "GET, HEAD, POST"
        case ["metadata"] | ["_history"] | [_, "_history"] | [_, _, "_history"] | [_, _, "_history", _]:
            return "GET, HEAD"
        case ["_search"] | [_, "_search"] | [_, _, _, "_search"]:
            return "POST"
        case [_]:
            return "GET, HEAD, POST, PUT, PATCH, DELETE"
        case [_, _]:
            return "GET, HEAD, PUT, PATCH, DELETE"
        case [_, _, _]:
            return "GET, HEAD"
    return ""
