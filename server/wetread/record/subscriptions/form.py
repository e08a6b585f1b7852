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
from wetread.record.subscriptions import channel
from wetread.record.subscriptions.channel import Channel
from wetread.record.subscriptions.extensions import extensions
from wetread.record.subscriptions.topics import Test, Topic

_TYPE_AND_PARAM = re.compile(r"(?P<type>[A-Z][A-Za-z]+)[.?](?P<rest>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Request:
    """A Subscription that this server can keep. `filters` must all pass."""

    topic: Topic
    filters: tuple[tuple[str, str], ...]
    """Type and query, such as `("Observation", "patient=123")`."""
    channel: Channel
    ends_at: datetime | None
    criteria: str = ""
    """The search of a criteria-based subscription (FHIR R4), else empty."""


def read(resource: Mapping[str, Any], topics: Mapping[str, Topic], allowed: AllowedEndpoints, base_url: str) -> Request:
    """Raises Unsupported, with the element at fault and what to do."""
    topic = topics.get(resource.get("criteria", ""))
    if topic is None:
        message = "criteria must be the URL of a topic of this server; its CapabilityStatement lists them"
        raise Unsupported(message, location="Subscription.criteria")
    criteria = extensions(resource.get("_criteria"), {"filter-criteria"}, "Subscription.criteria")
    filters = [_filter(str(e.get("valueString", "")), topic, base_url) for e in criteria]
    ends = resource.get("end")
    return Request(
        topic, tuple(filters), channel.read(resource["channel"], allowed), date_range(ends)[1] if ends else None
    )


def topic_of(url: str, criteria: str, topics: Mapping[str, Topic]) -> Topic | None:
    """The topic that a subscription is to; None where it is no longer served."""
    return topics.get(url)


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
