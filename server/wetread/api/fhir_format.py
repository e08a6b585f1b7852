"""Which form a caller sends and takes, JSON or XML (FHIR R4 http.html 3.1.0.1.9), and the one place that makes XML.

Within the server a resource is JSON text; it becomes XML as the answer leaves.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from wetread.errors import NotAcceptable
from wetread.record import xml_form
from wetread.record.aside import aside

JSON = "application/fhir+json"
XML = "application/fhir+xml"
JSON_NAMES = frozenset({JSON, "application/json", "text/json"})
XML_NAMES = frozenset({XML, "application/xml", "text/xml"})
READS = (JSON, "application/json", *sorted(XML_NAMES))
"""The media types of a body."""
FORMATS = ("json", "xml", JSON, XML)
"""As CapabilityStatement.format tells."""
_ANY = frozenset({"application/*", "*/*"})
_FOUND = "wetread.fhir_format"


def media(text: str) -> tuple[str, dict[str, str]]:
    """The media type and its parameters, both in lower case."""
    name, *rest = (part.strip() for part in text.split(";"))
    return name.lower(), {k.strip().lower(): v.strip() for k, _, v in (part.partition("=") for part in rest)}


def wanted(request: Request) -> str:
    """The form of the answer: JSON or XML. `_format` wins over Accept; who takes any gets the form that was sent.

    Raises NotAcceptable. It is found once a request.
    """
    found = request.scope.get(_FOUND)
    if found is None:
        found = request.scope[_FOUND] = _named(request) or _accepted(request)
    return str(found)


def name_in_form(request: Request, format_: str) -> None:
    """Takes the `_format` of a form, which counts as if it stood in the URL. Raises NotAcceptable."""
    request.scope[_FOUND] = _of_name(format_)


def _named(request: Request) -> str:
    """By `_format`; empty where there is none."""
    if not request.scope["query_string"] or (format_ := request.query_params.get("_format")) is None:
        return ""
    return _of_name(format_)


def _of_name(format_: str) -> str:
    name = format_.split(";")[0].strip().lower().replace(" ", "+")
    if name == "json" or name in JSON_NAMES:
        return JSON
    if name == "xml" or name in XML_NAMES:
        return XML
    raise NotAcceptable(f"this server answers in {JSON} and {XML}", location="http._format")


def _accepted(request: Request) -> str:
    """By the Accept header (RFC 9110 12.5.1)."""
    accept = request.headers.get("accept", "*/*")
    if accept == JSON:
        return JSON
    best, weight = "", 0.0
    for part in accept.split(","):
        name, parameters = media(part)
        if parameters.get("fhirversion", "4.0") != "4.0" or (one := _weight(parameters)) <= weight:
            continue
        if name in _ANY:
            sent = media(request.headers.get("content-type", ""))[0]
            best, weight = XML if sent in XML_NAMES else JSON, one
        elif name in JSON_NAMES or name in XML_NAMES:
            best, weight = JSON if name in JSON_NAMES else XML, one
    if not best:
        raise NotAcceptable(f"this server answers in {JSON} and {XML} of R4", location="http.Accept")
    return best


def _weight(parameters: dict[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 0.0


def _takes_xml(request: Request) -> bool:
    try:
        return wanted(request) == XML
    except NotAcceptable:
        return False


async def as_taken(request: Request, answer: Response) -> Response:
    """The answer in XML where it is a resource and the caller takes XML. Raises NotAcceptable where XML cannot hold it,
    but for an error's outcome and the answer to a write, which then stay JSON."""
    body = getattr(answer, "body", None)
    if not body or not isinstance(body, bytes) or answer.media_type != JSON or not _takes_xml(request):
        return answer
    pretty = request.query_params.get("_pretty") == "true"
    try:
        xml = await aside(len(body), lambda: xml_form.to_xml(body.decode(), pretty=pretty))
    except NotAcceptable:
        # What was written is written: a refusal would make the caller write it again.
        if answer.status_code < 400 and request.method in ("GET", "HEAD"):
            raise
        return answer
    answer.body = xml.encode()
    answer.media_type = XML
    answer.headers["Content-Type"] = XML
    answer.headers["Content-Length"] = str(len(answer.body))
    return answer


async def as_json(text: str, media_type: str) -> str:
    """A body as JSON. Raises InvalidInput."""
    if media_type not in XML_NAMES:
        return text
    return await aside(len(text), lambda: xml_form.to_json(text))
