"""FHIR operations over HTTP: `$name` at system, type and instance level (FHIR R4 operations.html 3.2.0)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from wetread.api import fhir_http as http
from wetread.api import fhir_subscriptions
from wetread.api.fhir_face import Face, patients, require_writable
from wetread.api.fhir_outcome import MEDIA_TYPE, OutcomeRoute
from wetread.domain.reader import Reader
from wetread.errors import MethodNotAllowed
from wetread.record import lossless, resources
from wetread.record.aside import aside
from wetread.record.compartment import patients_of
from wetread.record.operations import everything, lastn, meta_operation, operations
from wetread.record.operations import input as operation_input
from wetread.record.operations.input import Given
from wetread.record.subscriptions.questions import Told
from wetread.record.terminology import code_checks, expansion, translation
from wetread.record.terminology.definitions import Definition
from wetread.record.time_limit import time_limit
from wetread.record.validation import operation as validate_operation
from wetread.store.database import Connection

TIME_LIMIT_S = 60.0
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation. `resource_id` is empty unless it is on instance level."""

    face: Face
    reader: Reader
    resource_type: str
    resource_id: str
    given: Given


@dataclass(frozen=True, slots=True)
class Answer:
    """The body, and the patients whom it is about, for the audit."""

    body: str
    patient_ids: tuple[str, ...] = ()


Perform: TypeAlias = Callable[[Connection, Call], Awaitable[Answer]]


def router(face: Face) -> APIRouter:
    """Routes of every `$name`, to be included under /fhir after those of operations that have a router of their own:
    a name that is no operation here is answered with 404."""
    own = _Operations(face)
    routes = APIRouter(route_class=OutcomeRoute, include_in_schema=False)
    for path, endpoint in (
        ("/${code}", own.of_system),
        ("/{resource_type}/${code}", own.of_type),
        ("/{resource_type}/{resource_id}/${code}", own.of_instance),
    ):
        routes.add_api_route(path, endpoint, methods=_METHODS, response_model=None)
    return routes


@dataclass(frozen=True, slots=True)
class _Operations:
    face: Face

    async def of_system(self, request: Request, code: str) -> Response:
        return await self._operate(request, code, "system")

    async def of_type(self, request: Request, code: str, resource_type: str) -> Response:
        return await self._operate(request, code, "type", resource_type)

    async def of_instance(self, request: Request, code: str, resource_type: str, resource_id: str) -> Response:
        return await self._operate(request, code, "instance", resource_type, resource_id)

    async def _operate(
        self, request: Request, code: str, level: str, resource_type: str = "", resource_id: str = ""
    ) -> Response:
        what = (resource_type, resource_id) if resource_id else ()
        async with self.face.visit(request, "operation", *what) as (one, reader):
            operation = operations.called(code, resource_type, level)
            allowed = ("POST",) if operation.affects_state else ("GET", "POST")
            if request.method not in allowed:
                raise MethodNotAllowed(f"this operation takes {', '.join(allowed)}", location=", ".join(allowed))
            body = await self._body(request) if request.method == "POST" else None
            call = Call(
                self.face,
                reader,
                resource_type,
                resource_id,
                operation_input.read(operation, http.query(request), body),
            )

            async def work(conn: Connection) -> Answer:
                answer = await _PERFORM[operation.url](conn, call)
                await one.record(conn, patient_ids=answer.patient_ids)
                return answer

            async with time_limit(TIME_LIMIT_S, "operation", "ask for less"):
                answer = await self.face.database.retried(work)
            return Response(answer.body, media_type=MEDIA_TYPE)

    async def _body(self, request: Request) -> Mapping[str, Any] | None:
        """None for a POST without a body, whose parameters all stand in the URL."""
        if request.headers.get("content-length") == "0" and "content-type" not in request.headers:
            return None
        text = await http.resource_text(request, self.face.max_body_bytes)
        return await aside(len(text), lambda: lossless.parse(text))


Define: TypeAlias = Callable[[Connection, Given, Definition | None], Awaitable[dict[str, Any]]]


def _defined(define: Define) -> Perform:
    """An operation on a definition: of the terminology, on a resource of this server or on what the call names."""

    async def perform(conn: Connection, call: Call) -> Answer:
        call.reader.require("r", call.resource_type)
        instance = None
        if call.resource_id:
            version = await resources.read(conn, call.reader, call.resource_type, call.resource_id)
            instance = version.resource()
        return Answer(lossless.dump(await define(conn, call.given, instance)))

    return perform


async def _validate(conn: Connection, call: Call) -> Answer:
    found = await validate_operation.validated(conn, call.reader, call.resource_type, call.resource_id, call.given)
    about = await patients_of(conn, call.resource_type, [call.resource_id]) if call.resource_id else ()
    return Answer(lossless.dump(validate_operation.outcome(found)), about)


async def _everything(conn: Connection, call: Call) -> Answer:
    page = await everything.everything(
        conn,
        call.reader,
        call.resource_type,
        call.resource_id,
        call.given,
        call.face.base_url,
        cursors=call.face.cursors,
    )
    return Answer(page.body, page.patient_ids)


async def _lastn(conn: Connection, call: Call) -> Answer:
    page = await lastn.lastn(conn, call.reader, call.given, call.face.base_url, cursors=call.face.cursors)
    return Answer(page.body, page.patient_ids)


async def _meta(conn: Connection, call: Call) -> Answer:
    version = await resources.read(conn, call.reader, call.resource_type, call.resource_id)
    return Answer(lossless.dump(meta_operation.answer(version)), await patients(version, conn.bases))


def _meta_changed(*, add: bool) -> Perform:
    async def perform(conn: Connection, call: Call) -> Answer:
        require_writable(call.resource_type)
        version = await meta_operation.changed(
            conn, call.reader, call.resource_type, call.resource_id, call.given.one("meta"), add=add
        )
        await call.face.on_write(conn, call.reader, version.resource_type, version.id, version)
        return Answer(lossless.dump(meta_operation.answer(version)), await patients(version, conn.bases))

    return perform


Ask: TypeAlias = Callable[[Connection, Reader, Face, str, Given], Awaitable[Told]]


def _asked(ask: Ask) -> Perform:
    """An operation on subscriptions."""

    async def perform(conn: Connection, call: Call) -> Answer:
        told = await ask(conn, call.reader, call.face, call.resource_id, call.given)
        return Answer(told.body.decode(), told.patient_ids)

    return perform


_CORE = "http://hl7.org/fhir/OperationDefinition"
_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/backport-subscription"
_PERFORM: Mapping[str, Perform] = {
    f"{_CORE}/CodeSystem-lookup": _defined(code_checks.lookup),
    f"{_CORE}/CodeSystem-subsumes": _defined(code_checks.subsumes),
    f"{_CORE}/CodeSystem-validate-code": _defined(code_checks.validate_in_code_system),
    f"{_CORE}/ConceptMap-translate": _defined(translation.translate),
    f"{_CORE}/Encounter-everything": _everything,
    f"{_CORE}/Observation-lastn": _lastn,
    f"{_CORE}/Patient-everything": _everything,
    f"{_CORE}/Resource-meta": _meta,
    f"{_CORE}/Resource-meta-add": _meta_changed(add=True),
    f"{_CORE}/Resource-meta-delete": _meta_changed(add=False),
    f"{_CORE}/Resource-validate": _validate,
    f"{_CORE}/ValueSet-expand": _defined(expansion.expand),
    f"{_CORE}/ValueSet-validate-code": _defined(code_checks.validate_in_value_set),
    f"{_BACKPORT}-events": _asked(fhir_subscriptions.events),
    f"{_BACKPORT}-get-ws-binding-token": _asked(fhir_subscriptions.binding_token),
    f"{_BACKPORT}-status": _asked(fhir_subscriptions.status),
}
