"""The channel of a Subscription: which way, where to, and how much is told (Backport IG 1.1 channels.html).

What we cannot keep, we refuse; nothing that is accepted is silently left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from wetread.domain.codes import WETREAD
from wetread.domain.endpoint import AllowedEndpoints, is_loopback_host
from wetread.errors import Unsupported
from wetread.record.subscriptions.extensions import extensions

REST_HOOK, WEBSOCKET, MESSAGE, EMAIL, MLLP, NATS = "rest-hook", "websocket", "message", "email", "mllp", "nats"
KINDS = (REST_HOOK, WEBSOCKET, MESSAGE, EMAIL, MLLP, NATS)
"""Of R4's channel types and of our own (`CUSTOM`) those that have a sender; email and nats where the operator has set
them up."""
CUSTOM = {(WETREAD, MLLP): MLLP, (WETREAD, NATS): NATS}
"""Custom channels: system and code of the extension backport-channel-type."""
CONTENTS = ("empty", "id-only", "full-resource")
XML = "application/fhir+xml"
HL7V2 = "x-application/hl7-v2+er7"
LONGEST_TIMEOUT_S = 60
LEAST_HEARTBEAT_S = 10
MOST_EVENTS = 100
"""Of one notification, whatever larger number a client lets us send."""

_JSON = ("application/fhir+json", "application/json")
_PAYLOADS = dict.fromkeys(KINDS, _JSON) | {REST_HOOK: (*_JSON, XML), EMAIL: ("text/plain",), MLLP: (HL7V2,)}
_SERVED = dict.fromkeys(KINDS, CONTENTS) | {EMAIL: ("empty", "id-only"), MLLP: ("full-resource",)}
_BY_CRITERIA = (REST_HOOK, WEBSOCKET, MLLP)
_DEFAULT_TIMEOUT_S = 10
_LONGEST_HEARTBEAT_S = 24 * 3600
_WHERE = "Subscription.channel"
_HEADER = re.compile(r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(?P<value>[^\x00-\x1f\x7f]*)")
# No `%`: to many relays a%b@c is a@b, whatever domain the operator has allowed.
_MAIL = re.compile(r"mailto:[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_SUBJECT = re.compile(r"nats:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_HOP_HEADERS = {"connection", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"}
_SIGNATURE = {"webhook-id", "webhook-timestamp", "webhook-signature"}
_OUR_HEADERS = _HOP_HEADERS | _SIGNATURE | {"content-length", "content-type", "idempotency-key"}


@dataclass(frozen=True, slots=True)
class Channel:
    """`kind` is rest-hook, websocket or the name of another way out. `content` is empty, id-only or full-resource; of a
    criteria-based subscription ping (no payload) or resource. `headers` go out as they stand; those of mllp are MSH-5
    and MSH-6. Of one notification, `max_count` events at most; after `heartbeat_s` seconds of silence a heartbeat, with
    0 none."""

    kind: str
    endpoint: str
    content_type: str
    content: str
    headers: tuple[tuple[str, str], ...]
    timeout_s: int
    max_count: int = 1
    heartbeat_s: int = 0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Channel:
        """As it stands in the database."""
        return cls(**{**row, "headers": tuple((name, value) for name, value in row["headers"])})


def read(channel: Mapping[str, Any], allowed: AllowedEndpoints, *, by_criteria: bool = False) -> Channel:
    """`by_criteria` says that it is of a criteria-based Subscription (FHIR R4 subscription.html), which has none of the
    Backport's payloads. Raises Unsupported, with the element at fault and what to do."""
    kind = _kind(channel)
    most = 1 if kind == MLLP else 2**31 - 1
    known = {"timeout"} if by_criteria else {"timeout", "max-count", "heartbeat-period"}
    extensions(channel, known, _WHERE)
    content_type, content = _bare_payload(channel, kind) if by_criteria else _payload(channel, kind)
    return Channel(
        kind,
        _endpoint(channel, kind, allowed),
        content_type,
        content,
        _headers(channel, kind),
        _number(channel, "timeout", "valueUnsignedInt", 1, LONGEST_TIMEOUT_S) or _DEFAULT_TIMEOUT_S,
        min(_number(channel, "max-count", "valuePositiveInt", 1, most) or 1, MOST_EVENTS),
        _number(channel, "heartbeat-period", "valueUnsignedInt", LEAST_HEARTBEAT_S, _LONGEST_HEARTBEAT_S) or 0,
    )


def _kind(channel: Mapping[str, Any]) -> str:
    where = f"{_WHERE}.type"
    codings = [e.get("valueCoding") for e in extensions(channel.get("_type"), {"channel-type"}, where)]
    if len(codings) > 1:
        raise Unsupported("a channel has one type", location=where)
    if codings:
        coding = codings[0] if isinstance(codings[0], dict) else {}
        kind = CUSTOM.get((str(coding.get("system")), str(coding.get("code"))), "")
    else:
        kind = str(channel.get("type", ""))
        kind = "" if kind in CUSTOM.values() else kind
    if kind not in KINDS:
        own = ", ".join(f"{system}|{code}" for system, code in CUSTOM)
        known = ", ".join(k for k in KINDS if k not in CUSTOM.values())
        message = f"of the channel types this server has {known}, and by the extension backport-channel-type {own}"
        raise Unsupported(message, location=where)
    return kind


def _endpoint(channel: Mapping[str, Any], kind: str, allowed: AllowedEndpoints) -> str:
    where = f"{_WHERE}.endpoint"
    endpoint = str(channel.get("endpoint", ""))
    if kind == WEBSOCKET:
        if endpoint:
            raise Unsupported("a websocket is opened by the client; leave the endpoint out", location=where)
        return ""
    try:
        if kind == MLLP:
            _check_mllp(endpoint, allowed)
        elif kind == EMAIL:
            _check_mail(endpoint)
        elif kind == NATS:
            _check_subject(endpoint)
        else:
            allowed.check(endpoint)
    except Unsupported as refusal:
        raise Unsupported(refusal.message, location=where) from refusal
    return endpoint


def _check_mllp(endpoint: str, allowed: AllowedEndpoints) -> None:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    is_whole = host and port and parts.username is None and not parts.query and not parts.fragment
    if not is_whole or parts.scheme not in ("mllp", "mllps") or parts.path not in ("", "/"):
        raise Unsupported("the endpoint of this channel is written mllp://host:port, or mllps://host:port for TLS")
    allowed.check_listed(host)
    if parts.scheme == "mllp" and not allowed.plain and not is_loopback_host(host):
        raise Unsupported("beyond loopback the endpoint must be mllps; the operator can allow more by outbound.plain")


def _check_mail(endpoint: str) -> None:
    if not _MAIL.fullmatch(endpoint):
        raise Unsupported("the endpoint of this channel is one address, mailto:somebody@example.org")


def _check_subject(endpoint: str) -> None:
    if not _SUBJECT.fullmatch(endpoint):
        raise Unsupported("the endpoint of this channel is a subject without wildcards, nats:wetread.findings")


def _headers(channel: Mapping[str, Any], kind: str) -> tuple[tuple[str, str], ...]:
    where = f"{_WHERE}.header"
    lines = channel.get("header", ())
    if kind == MLLP:
        return tuple(_receiver(str(line), where) for line in lines)
    if lines and kind not in (REST_HOOK, MESSAGE):
        raise Unsupported("headers go with HTTP only; leave them out", location=where)
    return tuple(_header(str(line), where) for line in lines)


def _receiver(line: str, where: str) -> tuple[str, str]:
    """To whom a message is addressed: the receiving application and facility (v2.5.1 2.14.9.5, 2.14.9.6)."""
    found = _HEADER.fullmatch(line)
    if not found or found["name"] not in ("MSH-5", "MSH-6"):
        raise Unsupported("a header of this channel is `MSH-5: application` or `MSH-6: facility`", location=where)
    return found["name"], found["value"].rstrip()


def _header(line: str, where: str) -> tuple[str, str]:
    found = _HEADER.fullmatch(line)
    if not found or not found["value"].isascii():
        raise Unsupported("a header is one line of ASCII, `Name: value`", location=where)
    if found["name"].lower() in _OUR_HEADERS:
        raise Unsupported(f"the header {found['name']} is set by this server; leave it out", location=where)
    return found["name"], found["value"].rstrip()


def _payload(channel: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """MIME type and content of a topic-based subscription (payloads.html)."""
    where = f"{_WHERE}.payload"
    content_type = _content_type(str(channel.get("payload", "")), _PAYLOADS[kind], where)
    contents = [e.get("valueCode") for e in extensions(channel.get("_payload"), {"payload-content"}, where)]
    served = _SERVED[kind]
    if len(contents) != 1 or contents[0] not in served:
        message = f"payload needs the extension backport-payload-content: {' or '.join(served)} on this channel"
        raise Unsupported(message, location=where)
    return content_type, str(contents[0])


def _bare_payload(channel: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """Of a criteria-based subscription: nothing but a sign where no payload is named (R4 subscription.html 2.46.6)."""
    where = f"{_WHERE}.payload"
    if kind not in _BY_CRITERIA:
        message = f"by criteria this server has {', '.join(_BY_CRITERIA)}; name a topic instead"
        raise Unsupported(message, location=f"{_WHERE}.type")
    extensions(channel.get("_payload"), set(), where)
    if "payload" not in channel:
        if kind == MLLP:
            raise Unsupported(f"on this channel payload must be {HL7V2}", location=where)
        return "", "ping"
    if kind == WEBSOCKET:
        message = "by criteria a websocket tells that something matched, not what; leave the payload out"
        raise Unsupported(message, location=where)
    return _content_type(str(channel["payload"]), _PAYLOADS[kind], where), "resource"


def _content_type(text: str, served: tuple[str, ...], where: str) -> str:
    mime, *parameters = (part.strip() for part in text.split(";"))
    if mime.lower() not in served:
        raise Unsupported(f"on this channel payload must be {' or '.join(served)}", location=where)
    for parameter in parameters:
        name, _, value = (part.strip() for part in parameter.partition("="))
        if name.lower() == "fhirversion" and value.strip('"') not in ("4.0", "4.0.1"):
            raise Unsupported("this server speaks FHIR R4; fhirVersion must be 4.0", location=where)
        if name.lower() == "charset" and value.strip('"').lower() != "utf-8":
            raise Unsupported("this server writes UTF-8; leave the charset out", location=where)
        if name.lower() == "version" and mime.lower() == HL7V2:
            if value.strip('"') != "2.5.1":
                raise Unsupported("this server writes HL7 v2.5.1; leave the version out", location=where)
        elif name.lower() == "attach" and mime.lower() == "text/plain":
            if value.strip('"').lower() not in _JSON:
                raise Unsupported("what is attached is application/fhir+json", location=where)
        elif name.lower() not in ("fhirversion", "charset"):
            raise Unsupported("of the parameters of a payload this server has fhirVersion and charset", location=where)
    return text


def _number(channel: Mapping[str, Any], name: str, value: str, least: int, most: int) -> int | None:
    """The one number of an extension; None where it is not there."""
    numbers = [e.get(value) for e in extensions(channel, None, _WHERE, name)]
    if not numbers:
        return None
    [number, *more] = numbers
    if more or isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        said = f"{least} to {most}" if most < 2**31 - 1 else f"{least} or more"
        raise Unsupported(f"backport-{name} is given once, {said}", location=f"{_WHERE}.extension")
    return number
