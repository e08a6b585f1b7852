"""What a client asks for: a Subscription of the R5 Backport IG 1.1.0 (R4), read and checked. What we cannot keep, we
refuse (422) when it is created; nothing that is accepted is silently left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import Unsupported
from wetread.record.search.index import date_range
from wetread.record.subscriptions.topics import Test, Topic

_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
_CONTENTS = ("empty", "id-only", "full-resource")
_PAYLOADS = ("application/fhir+json", "application/json")
_DEFAULT_TIMEOUT_S = 10
_LONGEST_TIMEOUT_S = 60
_TYPE_AND_PARAM = re.compile(r"(?P<type>[A-Z][A-Za-z]+)[.?](?P<rest>.+)", re.DOTALL)
_HEADER = re.compile(r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(?P<value>[^\x00-\x1f\x7f]*)")
_HOP_HEADERS = {"connection", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"}
_OUR_HEADERS = _HOP_HEADERS | {"content-length", "content-type", "idempotency-key"}


@dataclass(frozen=True, slots=True)
class Channel:
    """A rest-hook. `content` is empty, id-only or full-resource; `headers` go out as they stand."""

    endpoint: str
    content_type: str
    content: str
    headers: tuple[tuple[str, str], ...]
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Request:
    """A Subscription that this server can keep. `filters` must all pass."""

    topic: Topic
    filters: tuple[tuple[str, str], ...]
    """Type and query, such as `("Observation", "patient=123")`."""
    channel: Channel
    ends_at: datetime | None


def read(resource: Mapping[str, Any], topics: Mapping[str, Topic], allowed: AllowedEndpoints, base_url: str) -> Request:
    """Raises Unsupported, with the element at fault and what to do."""
    topic = topics.get(resource.get("criteria", ""))
    if topic is None:
        message = "criteria must be the URL of a topic of this server; its CapabilityStatement lists them"
        raise Unsupported(message, location="Subscription.criteria")
    criteria = _extensions(resource.get("_criteria"), {"filter-criteria"}, "Subscription.criteria")
    filters = [_filter(str(e.get("valueString", "")), topic, base_url) for e in criteria]
    ends = resource.get("end")
    return Request(topic, tuple(filters), _channel(resource["channel"], allowed), date_range(ends)[1] if ends else None)


def tests(filters: Iterable[Sequence[str]], base_url: str) -> list[Test]:
    """The filters of a Request as tests on a resource's index entries."""
    return [
        Test.parse(resource_type, name, value, base_url)
        for resource_type, query in filters
        for name, value in parse_qsl(query, keep_blank_values=True)
    ]


def _filter(text: str, topic: Topic, base_url: str) -> tuple[str, str]:
    """`Type?param=value`, `param=value`, `Type.param=value`, each with or without a modifier (Backport IG 1.1, 1.2)."""
    where = "Subscription.criteria.extension"
    found = _TYPE_AND_PARAM.fullmatch(text)
    resource_type, query = (found["type"], found["rest"]) if found else ("", text)
    if not resource_type and len(topic.resource_types) == 1:
        [resource_type] = topic.resource_types
    known = topic.filters.get(resource_type, frozenset())
    for name, value in (pairs := parse_qsl(query, keep_blank_values=True)):
        if name.partition(":")[0] not in known:
            allowed = ", ".join(f"{t}.{p}" for t, params in topic.filters.items() for p in sorted(params))
            raise Unsupported(f"the topic cannot be filtered by {name!r}; it can by {allowed}", location=where)
        Test.parse(resource_type, name, value, base_url)
    if not pairs:
        raise Unsupported("a filter is written Type?param=value, Type.param=value or param=value", location=where)
    return resource_type, query


def _channel(channel: Mapping[str, Any], allowed: AllowedEndpoints) -> Channel:
    where = "Subscription.channel"
    if channel.get("type") != "rest-hook" or channel.get("_type"):
        raise Unsupported("of the channel types, this server has rest-hook", location=f"{where}.type")
    endpoint = str(channel.get("endpoint", ""))
    try:
        allowed.check(endpoint)
    except Unsupported as refusal:
        raise Unsupported(refusal.message, location=f"{where}.endpoint") from refusal
    if _extensions(channel, {"timeout", "max-count", "heartbeat-period"}, where, "heartbeat-period"):
        raise Unsupported("heartbeats are not sent by this server yet; leave heartbeat-period out", location=where)
    timeouts = [e.get("valueUnsignedInt") for e in _extensions(channel, None, where, "timeout")]
    contents = [e.get("valueCode") for e in _extensions(channel.get("_payload"), {"payload-content"}, where)]
    if len(contents) != 1 or contents[0] not in _CONTENTS:
        message = "payload needs the extension backport-payload-content: empty, id-only or full-resource"
        raise Unsupported(message, location=f"{where}.payload")
    return Channel(
        endpoint,
        _content_type(str(channel.get("payload", "")), f"{where}.payload"),
        str(contents[0]),
        tuple(_header(str(line), f"{where}.header") for line in channel.get("header", ())),
        min(max(int(timeouts[0] or 0), 1), _LONGEST_TIMEOUT_S) if timeouts else _DEFAULT_TIMEOUT_S,
    )


def _content_type(text: str, where: str) -> str:
    mime, *parameters = (part.strip() for part in text.split(";"))
    if mime.lower() not in _PAYLOADS:
        raise Unsupported("payload must be application/fhir+json or application/json", location=where)
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "fhirversion" and value.strip(' "') not in ("4.0", "4.0.1"):
            raise Unsupported("this server speaks FHIR R4; fhirVersion must be 4.0", location=where)
    return text


def _header(line: str, where: str) -> tuple[str, str]:
    found = _HEADER.fullmatch(line)
    if not found or not found["value"].isascii():
        raise Unsupported("a header is one line of ASCII, `Name: value`", location=where)
    if found["name"].lower() in _OUR_HEADERS:
        raise Unsupported(f"the header {found['name']} is set by this server; leave it out", location=where)
    return found["name"], found["value"].rstrip()


def _extensions(
    element: Mapping[str, Any] | None, known: set[str] | None, where: str, name: str | None = None
) -> list[Mapping[str, Any]]:
    """The element's Backport extensions, those called `name` only where it is given. One outside `known` is refused."""
    extensions = (element or {}).get("extension", ())
    for extension in extensions:
        if known is not None and str(extension.get("url")).removeprefix(_BACKPORT) not in known:
            message = f"this server does not know the extension {extension.get('url')} here; leave it out"
            raise Unsupported(message, location=f"{where}.extension")
    return [e for e in extensions if name is None or e.get("url") == f"{_BACKPORT}{name}"]
