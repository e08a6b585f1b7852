"""The channel of a Subscription: which way, where to, and how much is told. What we cannot keep, we refuse."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import Unsupported
from wetread.record.subscriptions.extensions import extensions

_CONTENTS = ("empty", "id-only", "full-resource")
_PAYLOADS = ("application/fhir+json", "application/json")
_DEFAULT_TIMEOUT_S = 10
_LONGEST_TIMEOUT_S = 60
_HEADER = re.compile(r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(?P<value>[^\x00-\x1f\x7f]*)")
_HOP_HEADERS = {"connection", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"}
_OUR_HEADERS = _HOP_HEADERS | {"content-length", "content-type", "idempotency-key"}


@dataclass(frozen=True, slots=True)
class Channel:
    """`kind` is rest-hook, websocket or the name of another way out. `content` is empty, id-only or full-resource; of a
    criteria-based subscription ping (no payload) or resource. `headers` go out as they stand. Of one notification,
    `max_count` events at most; after `heartbeat_s` seconds of silence a heartbeat, with 0 none."""

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


def read(channel: Mapping[str, Any], allowed: AllowedEndpoints) -> Channel:
    """Raises Unsupported, with the element at fault and what to do."""
    where = "Subscription.channel"
    if channel.get("type") != "rest-hook" or channel.get("_type"):
        raise Unsupported("of the channel types, this server has rest-hook", location=f"{where}.type")
    endpoint = str(channel.get("endpoint", ""))
    try:
        allowed.check(endpoint)
    except Unsupported as refusal:
        raise Unsupported(refusal.message, location=f"{where}.endpoint") from refusal
    if extensions(channel, {"timeout", "max-count", "heartbeat-period"}, where, "heartbeat-period"):
        raise Unsupported("heartbeats are not sent by this server yet; leave heartbeat-period out", location=where)
    timeouts = [e.get("valueUnsignedInt") for e in extensions(channel, None, where, "timeout")]
    contents = [e.get("valueCode") for e in extensions(channel.get("_payload"), {"payload-content"}, where)]
    if len(contents) != 1 or contents[0] not in _CONTENTS:
        message = "payload needs the extension backport-payload-content: empty, id-only or full-resource"
        raise Unsupported(message, location=f"{where}.payload")
    return Channel(
        "rest-hook",
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
