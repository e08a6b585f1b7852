"""Every error of the FHIR face as an OperationOutcome (FHIR R4 http.html 3.1.0.1.7)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from wetread.errors import MethodNotAllowed, NotFound, Unauthorized, WetreadError
from wetread.record import lossless
from wetread.record.validate import InvalidResource, Issue

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/fhir+json"
_Handler = Callable[[Request, Any], Awaitable[Response]]


def outcome(error: WetreadError) -> dict[str, Any]:
    """The OperationOutcome of an error: one issue, or each that validation found."""
    if isinstance(error, InvalidResource):
        return _outcome([("error", issue) for issue in error.issues])
    return _outcome([("error", Issue(error.fhir_issue, error.location or "", error.message))])


def _outcome(issues: list[tuple[str, Issue]]) -> dict[str, Any]:
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": severity,
                "code": issue.code,
                "diagnostics": issue.text,
                **({"expression": [issue.expression]} if issue.expression else {}),
            }
            for severity, issue in issues
        ],
    }


def success(text: str) -> dict[str, Any]:
    """For `Prefer: return=OperationOutcome`."""
    return _outcome([("information", Issue("informational", "", text))])


def response(error: WetreadError) -> Response:
    headers = {"WWW-Authenticate": 'Bearer realm="wetread"'} if isinstance(error, Unauthorized) else {}
    if isinstance(error, MethodNotAllowed) and error.location:
        headers["Allow"] = error.location
    body = lossless.dump(outcome(error))
    return Response(body, error.http_status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI, prefix: str = "/fhir") -> None:
    """Makes the app answer every error under `prefix` with an OperationOutcome; other paths keep their handlers."""

    async def known(request: Request, error: WetreadError) -> Response:
        return response(error)

    async def http(request: Request, error: HTTPException) -> Response:
        known_error = MethodNotAllowed if error.status_code == 405 else NotFound
        return response(known_error("there is nothing of this kind at this path; see GET metadata"))

    async def unexpected(request: Request, error: Exception) -> Response:
        return response(WetreadError("an unexpected fault; it was logged, please tell the operator when it happened"))

    for kind, handler in ((WetreadError, known), (HTTPException, http), (Exception, unexpected)):
        app.add_exception_handler(kind, _under(prefix, handler, app.exception_handlers.get(kind)))


def _under(prefix: str, handler: _Handler, other: Any) -> _Handler:
    """The handler for paths under the prefix; what was installed before for the rest."""

    async def choose(request: Request, error: Any) -> Response:
        path = request.url.path
        if path == prefix or path.startswith(f"{prefix}/"):
            return await handler(request, error)
        if other is None:
            raise error
        answer: Response = await other(request, error)
        return answer

    return choose
