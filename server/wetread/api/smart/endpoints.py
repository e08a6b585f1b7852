"""The endpoints that apps call from behind: token, introspection, revocation; and the start of a launch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wetread.access.clients import clients
from wetread.access.oauth import launches
from wetread.access.oauth.authorization_server import TokenService
from wetread.access.oauth.core import Authority
from wetread.access.oauth.launches import STAFF
from wetread.access.oauth.request import Answer, Asked, parameters
from wetread.api.audited import access
from wetread.api.credentials import Authenticate
from wetread.domain.reader import Reader
from wetread.errors import Forbidden, InvalidInput, NotFound, StoreUnavailable, WetreadError
from wetread.record import resources
from wetread.record.audit import audit
from wetread.record.compartment import patients_named
from wetread.store.database import Connection

_FORM = "application/x-www-form-urlencoded"
_LIMIT_BYTES = 64 * 1024
_NOT_POST = ["GET", "HEAD", "PUT", "PATCH", "DELETE"]
_NOT_KEPT = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class Launch(BaseModel):
    """What an app is started with. `user` is the person that it is for, where only they may use it."""

    model_config = ConfigDict(extra="forbid")

    client_id: str
    patient: str = ""
    encounter: str = ""
    fhir_context: list[dict[str, Any]] = Field(default=[], alias="fhirContext")
    intent: str = ""
    need_patient_banner: bool = True
    user: str = ""


def router(authority: Authority, authenticate: Authenticate) -> APIRouter:
    routes = APIRouter(tags=["SMART"])
    service = TokenService(authority)

    async def answered(request: Request, endpoint: str, work: Callable[[Asked], Awaitable[Answer]]) -> Response:
        try:
            pairs = parameters(await _form(request))
        except InvalidInput as error:
            return _json(400, {"error": "invalid_request", "error_description": error.message}, {})
        answer = await work(asked_of(request, authority.url(endpoint), pairs))
        return _json(answer.status, answer.body, dict(answer.headers))

    @routes.post("/oauth/token", include_in_schema=False)
    async def token(request: Request) -> Response:
        return await answered(request, "token", service.token)

    @routes.post("/oauth/introspect", include_in_schema=False)
    async def introspect(request: Request) -> Response:
        return await answered(request, "introspect", service.introspect)

    @routes.post("/oauth/revoke", include_in_schema=False)
    async def revoke(request: Request) -> Response:
        return await answered(request, "revoke", service.revoke)

    @routes.api_route("/oauth/token", methods=_NOT_POST, include_in_schema=False)
    @routes.api_route("/oauth/introspect", methods=_NOT_POST, include_in_schema=False)
    @routes.api_route("/oauth/revoke", methods=_NOT_POST, include_in_schema=False)
    async def not_by_post() -> Response:
        """RFC 6749 3.2, RFC 7662 2.1, RFC 7009 2.1: these endpoints take a POST."""
        told = {"error": "invalid_request", "error_description": "This endpoint takes a form by POST."}
        return _json(405, told, {"Allow": "POST"})

    @routes.post("/oauth/launch", status_code=201)
    async def launch(request: Request, wish: Launch) -> Any:
        """Begins an EHR launch: gives the opaque value, and where to send the browser."""
        reader: Reader | None = None
        try:
            reader = await authenticate(request)
            if not reader.roles & STAFF:
                raise Forbidden("launching an app needs the role of somebody of the staff, or of a service")
            async with authority.database.transaction() as conn:
                begun = await _begin(conn, reader, authority, wish)
                entry = access(request, reader, "app-launched", "E", patient_id=wish.patient or None)
                await audit.write(conn, entry)
        except WetreadError as error:
            if not isinstance(error, StoreUnavailable):
                async with authority.database.transaction() as conn:
                    await audit.write(
                        conn, access(request, reader, "app-launched", "E", outcome="4", outcome_text=error.message)
                    )
            raise
        return JSONResponse(begun, 201, _NOT_KEPT)

    return routes


async def _begin(conn: Connection, reader: Reader, authority: Authority, wish: Launch) -> dict[str, str]:
    """Raises Forbidden and NotFound for what the reader may not read: a launch shows nobody more than they may see."""
    if "\x00" in wish.client_id + wish.user:
        raise InvalidInput("client_id or user holds U+0000")
    client = await clients.by_id(conn, wish.client_id)
    if client is None or "authorization_code" not in client.grant_types:
        raise NotFound("no app that people use is registered under this client_id")
    told = launches.context(
        patient=wish.patient,
        encounter=wish.encounter,
        fhir_context=wish.fhir_context,
        intent=wish.intent,
        need_patient_banner=wish.need_patient_banner,
    )
    named = [("Patient", wish.patient), ("Encounter", wish.encounter)]
    named += [_parts(member["reference"]) for member in told.get("fhirContext", ()) if "reference" in member]
    for resource_type, resource_id in named:
        if resource_id:
            read = await resources.read(conn, reader, resource_type, resource_id)
            whose = patients_named(read.resource(), conn.bases)
            if wish.patient and whose and wish.patient not in whose:
                raise InvalidInput(f"the {resource_type} is of another patient than the one of this launch")
    value = await launches.begin(conn, client.client_id, wish.user or None, told)
    return {"launch": value, "iss": authority.fhir_base, "launch_url": _address(client, authority, value)}


def _address(client: clients.Client, authority: Authority, value: str) -> str:
    return launches.address(client, authority.fhir_base, value) if client.launch_uri else ""


def _parts(reference: str) -> tuple[str, str]:
    resource_type, _, resource_id = reference.partition("/")
    return resource_type, resource_id


def asked_of(request: Request, url: str, pairs: tuple[tuple[str, str], ...]) -> Asked:
    """A request as the authorization server takes it; `url` is that of the endpoint, as the world knows it."""
    return Asked(
        request.method,
        url,
        pairs,
        dict(request.headers),
        request.client.host if request.client else "",
        request.headers.get("x-request-id", ""),
    )


async def _form(request: Request) -> bytes:
    """Raises InvalidInput."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise InvalidInput(f"the body is {_FORM}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LIMIT_BYTES:
            raise InvalidInput(f"the body has at most {_LIMIT_BYTES} bytes")
    return bytes(body)


def _json(status: int, body: Any, headers: Mapping[str, str]) -> JSONResponse:
    """Kept by nobody (RFC 6749 5.1)."""
    kept = {name: value for name, value in headers.items() if name.lower() not in ("content-type", "content-length")}
    return JSONResponse(body, status, {**kept, **_NOT_KEPT})
