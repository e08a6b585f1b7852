"""Every error of the FHIR face as an OperationOutcome (FHIR R4 http.html 3.1.0.1.7)."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from wetread.api import fhir_format
from wetread.errors import MethodNotAllowed, Unauthorized, Unreachable, WetreadError
from wetread.record import lossless
from wetread.record.aside import aside
from wetread.record.validation.validate import InvalidResource, Issue

logger = logging.getLogger(__name__)

MEDIA_TYPE = fhir_format.JSON
_METHODS = re.compile(r"[A-Z]+(, [A-Z]+)*")


def outcome(error: WetreadError) -> dict[str, Any]:
    """The OperationOutcome of an error: one issue, or each that validation found."""
    if isinstance(error, InvalidResource):
        return _outcome([("error", issue) for issue in error.issues])
    where = "" if isinstance(error, MethodNotAllowed) else error.location or ""
    return _outcome([("error", Issue(error.fhir_issue, where, error.message))])


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
    if isinstance(error, MethodNotAllowed) and _METHODS.fullmatch(error.location or ""):
        headers["Allow"] = error.location or ""
    if isinstance(error, Unreachable):
        headers["Retry-After"] = "1"
    body = lossless.dump(outcome(error))
    return Response(body, error.http_status, headers=headers, media_type=MEDIA_TYPE)


Handle: TypeAlias = Callable[[Request], Awaitable[Response]]


def answering(handle: Handle) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """`handle`, with every error as an OperationOutcome, whatever handlers the app has."""

    async def told(request: Request) -> Response:
        try:
            return await fhir_format.as_taken(request, await handle(request))
        except WetreadError as error:
            failure = response(error)
        except Exception as error:
            # Where, but not what: the message of a driver's error may repeat patient data.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("unexpected %s in the FHIR face\n%s", type(error).__name__, where)
            failure = response(WetreadError("an unexpected fault; it was logged, tell the operator when it happened"))
        return await fhir_format.as_taken(request, failure)

    async def answer(request: Request) -> Response:
        return await _finished(request, await told(request))

    return answer


class OutcomeRoute(APIRoute):
    """A route whose every error is an OperationOutcome."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return answering(super().get_route_handler())


async def _finished(request: Request, answer: Response) -> Response:
    """What goes for every answer: `_pretty`, no body for HEAD, and the request's id."""
    body = getattr(answer, "body", None)
    is_xml = answer.media_type == fhir_format.XML  # which was made pretty where that is wanted
    if isinstance(body, bytes) and body and not is_xml and request.query_params.get("_pretty") == "true":
        answer.body = await aside(len(body), lambda: lossless.pretty(body.decode()).encode())
        answer.headers["Content-Length"] = str(len(answer.body))
    if request.method == "HEAD" and isinstance(body, bytes):
        answer.body = b""  # the length stays that of what GET would give (RFC 9110 9.3.2)
    answer.headers.add_vary_header("Accept")
    if request_id := getattr(request.state, "request_id", ""):
        answer.headers["X-Request-Id"] = request_id
    return answer
