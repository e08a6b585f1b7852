"""The FHIR R4 face: authorise, call the record, render (FHIR R4 http.html)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TypeAlias

from fastapi import APIRouter
from starlette.convertors import Convertor, register_url_convertor
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
from wetread.api.fhir_openapi import document
from wetread.api.fhir_outcome import MEDIA_TYPE, OutcomeRoute, answering
from wetread.api.fhir_reads import Reads
from wetread.api.fhir_writes import Writes
from wetread.errors import InvalidInput, MethodNotAllowed, NotFound
from wetread.record import lossless
from wetread.record.audit.groups import Groups
from wetread.record.cursors import OF_THIS_PROCESS, Cursors
from wetread.record.subscriptions.topics import Topic
from wetread.store.database import Database

Endpoint: TypeAlias = Callable[..., Awaitable[Response]]
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
    topics: Mapping[str, Topic] = MappingProxyType({}),
    cursors: Cursors = OF_THIS_PROCESS,
) -> APIRouter:
    """The routes under /fhir. `base_url` is what the world calls that path, without a slash at its end.

    `on_write` is told, in the transaction of each write by a client, what was written: type, id, and its version
    (None for a deletion). What it raises undoes the write. `update_create` lets a PUT make a
    resource under an id of the client's. `topics` are what clients may subscribe to, by canonical. `cursors` are those
    of all processes that answer under this address.
    """
    groups = Groups(database, audit)
    base_url = base_url.rstrip("/")
    face = Face(
        database, authenticate, audit, groups, base_url, on_write, max_body_bytes, update_create, cursors, topics
    )
    table = _table(face)
    openapi = lossless.dump(document(face.base_url, table))
    statements = _Metadata(face, _statements(face, sorted(topics)))
    described = _Metadata(face, {"full": openapi}, "application/openapi+json")
    paths = _Paths(face, {"metadata": {"GET": statements}, "openapi.json": {"GET": described}, **table})
    routes = APIRouter(prefix="/fhir", route_class=OutcomeRoute, include_in_schema=False)
    # Not by FastAPI's routes: to look through two dozen of them costs as much as to read a resource.
    routes.add_route("/fhir{rest:fhir_rest}", answering(paths.dispatch), methods=_EVERY, include_in_schema=False)
    operations = fhir_operations.router(face)
    routes.include_router(operations)
    routes.add_api_route("/{rest:path}", paths.nowhere, methods=_EVERY, response_model=None)
    return routes


class _Rest(Convertor[str]):
    """What follows /fhir, where it names no operation."""

    regex = "(?:/[^$]*)?"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("fhir_rest", _Rest())


def _table(face: Face) -> dict[str, dict[str, Endpoint]]:
    """What stands at each path, by method; the first that fits is taken. What is in braces goes to the endpoint."""
    reads, writes, bundles = Reads(face), Writes(face), Bundles(face)
    return {
        "": {"GET": reads.search_system, "POST": bundles.process},
        "_search": {"POST": reads.search_system},
        "_history": {"GET": reads.history_of_system},
        "{type}": {
            "GET": reads.search,
            "POST": writes.create,
            "PUT": writes.update_by_condition,
            "PATCH": writes.patch_by_condition,
            "DELETE": writes.delete_by_condition,
        },
        "{type}/_search": {"POST": reads.search},
        "{type}/_history": {"GET": reads.history_of_type},
        "{type}/{id}": {"GET": reads.read, "PUT": writes.update, "PATCH": writes.patch, "DELETE": writes.delete},
        "{type}/{id}/_history": {"GET": reads.history_of_resource},
        "{type}/{id}/_history/{version}": {"GET": reads.vread},
        "{type}/{id}/{inner}": {"GET": reads.search_compartment},
        "{type}/{id}/{inner}/_search": {"POST": reads.search_compartment},
    }


def _statements(face: Face, topics: Sequence[str]) -> dict[str, str]:
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
class _Metadata:
    face: Face
    statements: Mapping[str, str]
    """The answer to each `mode`."""
    media_type: str = MEDIA_TYPE

    async def __call__(self, request: Request) -> Response:
        async with visit(request, "capabilities", self.face.database, self.face.audit) as one:
            http.require_acceptable(request)
            body = self.statements.get(request.query_params.get("mode", "full"))
            if body is None:
                raise InvalidInput(f"mode is one of {', '.join(self.statements)}", location="http.mode")
            async with self.face.database.statements() as conn:
                await one.record(conn)
        return Response(body, media_type=self.media_type)


class _Paths:
    """Finds what stands at a path."""

    def __init__(self, face: Face, table: Mapping[str, Mapping[str, Endpoint]]) -> None:
        self._face = face
        self._known = [([None if s.startswith("{") else s for s in path.split("/")], table[path]) for path in table]

    async def dispatch(self, request: Request) -> Response:
        steps = request.path_params["rest"].strip("/").split("/")
        for wanted, methods in self._known:
            if len(wanted) == len(steps) and all(w in (None, s) for w, s in zip(wanted, steps, strict=True)):
                endpoint = methods.get("GET" if request.method == "HEAD" else request.method)
                if endpoint is None:
                    return await self._refused(request, methods)
                return await endpoint(request, *(s for w, s in zip(wanted, steps, strict=True) if w is None))
        return await self.nowhere(request)

    async def nowhere(self, request: Request) -> Response:
        async with self._face.visit(request, "operation"):
            raise NotFound("there is nothing at this path; see GET metadata")

    async def _refused(self, request: Request, methods: Iterable[str]) -> Response:
        async with self._face.visit(request, "operation"):
            allowed = ", ".join(method if method != "GET" else "GET, HEAD" for method in methods)
            raise MethodNotAllowed(f"this path takes {allowed}", location=allowed)
