"""Errors outside FHIR, DICOM and HL7, as RFC 9457 problem details."""

from __future__ import annotations

from starlette.responses import JSONResponse

from wetread.errors import Unauthorized, WetreadError


def problem(error: WetreadError) -> JSONResponse:
    """The answer to a request that raised `error`."""
    body: dict[str, object] = {
        "type": f"https://wetread.org/problems/{error.code}",
        "title": error.code,
        "status": error.http_status,
        "detail": error.message,
    }
    if error.location:
        body["location"] = error.location
    headers = {"WWW-Authenticate": 'Bearer realm="wetread"'} if isinstance(error, Unauthorized) else None
    return JSONResponse(body, error.http_status, headers, media_type="application/problem+json")
