"""HTTP of FHIR: media types, bodies, version headers, preferences (FHIR R4 http.html 3.1.0.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import Response

from wetread.api import fhir_format
from wetread.api.fhir_format import media
from wetread.api.fhir_outcome import MEDIA_TYPE, success
from wetread.errors import InvalidInput, TooLarge, UnsupportedMedia
from wetread.record import lossless, patch
from wetread.record.aside import aside
from wetread.record.bundle import is_known
from wetread.record.resources import Version
from wetread.record.shape import shaped

_LONGEST_FORM_BYTES = 256 * 1024
_FORM = "application/x-www-form-urlencoded"
_MOST_PARAMETERS = 1000
_ETAG = re.compile(r'(?:W/)?"(\d{1,9})"')


def require_acceptable(request: Request) -> None:
    """Raises NotAcceptable unless the caller takes R4 in JSON or XML."""
    fhir_format.wanted(request)


async def resource_text(request: Request, limit_bytes: int) -> str:
    """The body of a create, an update or a Bundle, as JSON. Raises UnsupportedMedia, TooLarge, InvalidInput."""
    name, parameters = media(request.headers.get("content-type", ""))
    if name not in fhir_format.READS or parameters.get("fhirversion", "4.0") != "4.0":
        message = f"send Content-Type: {fhir_format.JSON} or {fhir_format.XML}"
        raise UnsupportedMedia(message, location="http.Content-Type")
    return await fhir_format.as_json(await _text(request, limit_bytes), name)


async def patch_text(request: Request, limit_bytes: int) -> tuple[str, bool]:
    """The body of a patch, and whether it is a FHIRPath Patch. Raises UnsupportedMedia, TooLarge, InvalidInput."""
    name, _ = media(request.headers.get("content-type", ""))
    if name == patch.MEDIA_TYPE:
        return await _text(request, limit_bytes), False
    if name in fhir_format.READS:
        return await fhir_format.as_json(await _text(request, limit_bytes), name), True
    message = f"send Content-Type: {patch.MEDIA_TYPE}, or a FHIRPath Patch as {fhir_format.JSON} or {fhir_format.XML}"
    raise UnsupportedMedia(message, location="http.Content-Type")


async def form(request: Request, limit_bytes: int) -> tuple[list[tuple[str, str]], bytes]:
    """The parameters in the body of a POST _search, and the body as it came."""
    name, _ = media(request.headers.get("content-type", _FORM))
    if name != _FORM:
        raise UnsupportedMedia(f"send Content-Type: {_FORM}", location="http.Content-Type")
    text = await _text(request, min(limit_bytes, _LONGEST_FORM_BYTES))
    pairs = _pairs(text)
    if "_format" in dict(pairs):
        fhir_format.name_in_form(request, dict(pairs)["_format"])
    return pairs, text.encode()


async def _text(request: Request, limit_bytes: int) -> str:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise TooLarge(f"a body has at most {limit_bytes} bytes here")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput("the body is not UTF-8") from error


def query(request: Request) -> list[tuple[str, str]]:
    """The parameters of the URL. Raises TooLarge."""
    return _pairs(request.url.query)


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError as error:
        raise TooLarge(f"a request has at most {_MOST_PARAMETERS} parameters here", location="http.url") from error


def condition(request: Request) -> str:
    """The search of a conditional interaction. Raises InvalidInput where the URL has none."""
    wanted = [(name, value) for name, value in query(request) if name not in ("_format", "_pretty")]
    if not wanted:
        raise InvalidInput("name the resource by its id, or by search parameters", location="http.url")
    return urlencode(wanted)


def prefers(request: Request, name: str) -> str:
    """A preference of the Prefer header (RFC 7240); empty where there is none."""
    for part in re.split("[,;]", ",".join(request.headers.getlist("prefer"))):
        key, _, value = part.partition("=")
        if key.strip().lower() == name:
            return value.strip().strip('"')
    return ""


def returns(request: Request) -> str:
    """What is to stand in the answer to a write (Prefer: return): representation unless one of the others is named."""
    wanted = prefers(request, "return")
    return wanted if wanted in ("minimal", "OperationOutcome") else "representation"


def if_match(request: Request) -> int | None:
    """The version of If-Match; None where there is none. Raises InvalidInput."""
    value = request.headers.get("if-match")
    if value is None:
        return None
    found = _ETAG.fullmatch(value.strip())
    if not found:
        raise InvalidInput('If-Match takes the form W/"3"', location="http.If-Match")
    return int(found.group(1))


def etag(version: Version) -> str:
    return f'W/"{version.version_id}"'


def only_new(request: Request) -> bool:
    """Whether an update is wanted only where nothing is yet (If-None-Match: *, RFC 9110 13.1.2)."""
    return request.headers.get("if-none-match", "").strip() == "*"


async def read_response(request: Request, version: Version) -> Response:
    """The version, or 304 where the caller has it already (3.1.0.5.1)."""
    headers = _version_headers(version)
    if is_known(version, request.headers.get("if-none-match"), _since(request)):
        return Response(status_code=304, headers=headers)
    elements = list(filter(None, request.query_params.get("_elements", "").split(",")))
    summary = request.query_params.get("_summary", "")
    body = await aside(len(version.body), lambda: shaped(version.body, summary, elements))
    return Response(body, headers=headers, media_type=MEDIA_TYPE)


def _since(request: Request) -> datetime | None:
    try:
        since = parsedate_to_datetime(request.headers["if-modified-since"])
        return since if since.tzinfo is not None else since.replace(tzinfo=UTC)
    except (KeyError, TypeError, ValueError):
        return None


def written_response(request: Request, version: Version, *, created: bool, base_url: str) -> Response:
    """The answer to a create or update, in the form that `Prefer: return` asks for (3.1.0.1.8)."""
    location = f"{base_url}/{version.resource_type}/{version.id}/_history/{version.version_id}"
    headers = {**_version_headers(version), "Location": location}
    status = 201 if created else 200
    match returns(request):
        case "minimal":
            return Response(status_code=status, headers=headers)
        case "OperationOutcome":
            body = lossless.dump(success("created" if created else "stored"))
            return Response(body, status, headers=headers, media_type=MEDIA_TYPE)
    return Response(version.body, status, headers=headers, media_type=MEDIA_TYPE)


def deleted_response(request: Request, version: Version | None) -> Response:
    """204, or 200 with an OperationOutcome for who prefers that (3.1.0.7). No version: there was nothing to delete."""
    headers = {"ETag": etag(version)} if version is not None else {}
    if returns(request) != "OperationOutcome":
        return Response(status_code=204, headers=headers)
    body = lossless.dump(success("deleted" if version is not None else "there was nothing to delete"))
    return Response(body, headers=headers, media_type=MEDIA_TYPE)


def status_line(status: int) -> str:
    """As in Bundle.entry.response.status: `412 Precondition Failed`."""
    return f"{status} {HTTPStatus(status).phrase}"


def _version_headers(version: Version) -> Mapping[str, str]:
    return {"ETag": etag(version), "Last-Modified": http_date(version.last_updated)}


def http_date(moment: datetime) -> str:
    return format_datetime(moment.astimezone(UTC), usegmt=True)
