"""What a client asks for: a Subscription to a topic (R5 Backport IG 1.1.0) or by criteria (FHIR R4), read and checked.
The form of `criteria` tells one from the other: a canonical, or a search such as `Observation?category=imaging`. What
we cannot keep, we refuse (422) when it is created; nothing that is accepted is silently left out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import Refused, Unsupported
from wetread.record.search.index import date_range
from wetread.record.subscriptions import channel
from wetread.record.subscriptions.channel import Channel
from wetread.record.subscriptions.criteria import Test, parsed
from wetread.record.subscriptions.extensions import extensions
from wetread.record.subscriptions.topics import Topic, of_criteria

NOT_UNDERSTOOD = (Refused, LookupError, TypeError, ValueError, AttributeError)
"""What reading a stored subscription raises where another version has written it."""

_WHERE = "Subscription.criteria"
_SEARCH = re.compile(r"/?[A-Z][A-Za-z]+(\?.*)?", re.DOTALL)
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


def read(
    resource: Mapping[str, Any], topics: Mapping[str, Topic], allowed: AllowedEndpoints, bases: Sequence[str]
) -> Request:
    """`bases` are the addresses that mean this server. Raises Unsupported, with the element at fault and what to do."""
    text = str(resource.get("criteria", "")).strip()
    ends = resource.get("end")
    ends_at = date_range(ends)[1] if ends else None
    if _SEARCH.fullmatch(text):
        extensions(resource.get("_criteria"), set(), _WHERE)
        with _at(_WHERE):
            topic, filters = of_criteria(text)
        asked = channel.read(resource["channel"], allowed, by_criteria=True)
        return Request(topic, filters, asked, ends_at, criteria=text)
    found = _served(text, topics)
    if found is None:
        message = (
            "criteria must be the URL of a topic of this server, which its CapabilityStatement lists, or a search such"
            " as Observation?category=imaging"
        )
        raise Unsupported(message, location=_WHERE)
    criteria = extensions(resource.get("_criteria"), {"filter-criteria"}, _WHERE)
    with _at(f"{_WHERE}.extension"):
        narrowed = [each for e in criteria for each in _filters(str(e.get("valueString", "")), found, bases)]
    return Request(found, tuple(narrowed), channel.read(resource["channel"], allowed), ends_at)


def topic_of(url: str, criteria: str, topics: Mapping[str, Topic]) -> Topic | None:
    """The topic that a subscription is to; None where it is no longer served."""
    if not criteria:
        return topics.get(url)
    try:
        return of_criteria(criteria)[0]
    except Unsupported:
        return None


def tests(filters: Iterable[Sequence[str]], bases: Sequence[str]) -> list[Test]:
    """The filters of a Request as tests on a version. Raises Unsupported on what this version cannot evaluate."""
    return [test for resource_type, query in filters for test in parsed(resource_type, query, bases)]


def _served(text: str, topics: Mapping[str, Topic]) -> Topic | None:
    """The topic of a canonical, which may name the version."""
    url, _, version = text.partition("|")
    topic = topics.get(url)
    return topic if topic is not None and version in ("", topic.version) else None


def _filters(text: str, topic: Topic, bases: Sequence[str]) -> list[tuple[str, str]]:
    """`Type?param=value`, `Type.param=value` or `param=value`, each with or without a modifier (Backport IG 1.1, 1.2).
    Without a type it narrows all that the topic tells of."""
    found = _TYPE_AND_PARAM.fullmatch(text)
    query = found["rest"] if found else text
    pairs = parse_qsl(query, keep_blank_values=True)
    if not pairs:
        raise Unsupported("a filter is written Type?param=value, Type.param=value or param=value")
    narrowed = [found["type"]] if found else sorted(topic.resource_types)
    for resource_type in narrowed:
        for name, value in pairs:
            topic.filter(resource_type, name, value, bases)
    return [(resource_type, query) for resource_type in narrowed]


@contextlib.contextmanager
def _at(where: str) -> Iterator[None]:
    """Gives a refusal its place in the Subscription."""
    try:
        yield
    except Unsupported as refusal:
        raise Unsupported(refusal.message, location=where) from refusal
