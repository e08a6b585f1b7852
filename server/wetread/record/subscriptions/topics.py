"""Subscription topics: data files in the form of SubscriptionTopic (FHIR R4B), read and checked at start.

Of a trigger we evaluate `supportedInteraction`, `queryCriteria` by the search parameters of type token and reference
(equality, `:not`), and the one `fhirPathCriteria` that says that an element was set or has changed:
`%previous.empty() or (%previous.status != %current.status)`. A file that asks for more is refused at start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from wetread.errors import InvalidInput, Misconfigured, Unsupported
from wetread.record.search import paths
from wetread.record.search.index import Entries, bounded, extract, reference_parts
from wetread.record.search.parameters import parameters_of
from wetread.record.search.query import split, unescape

_CHANGED = re.compile(r"%previous\.empty\(\) or \(%previous\.(?P<path>[\w.]+) != %current\.(?P=path)\)")
_CORE = "http://hl7.org/fhir/StructureDefinition/"


@dataclass(frozen=True, slots=True)
class Test:
    """One search parameter with the values of which one must be there, or with `:not` none."""

    resource_type: str
    param: str
    modifier: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, resource_type: str, name: str, value: str, base_url: str = "") -> Test:
        """Raises Unsupported on a parameter, modifier or value that cannot be evaluated."""
        param, _, modifier = name.partition(":")
        parameter = parameters_of(resource_type).get(param)
        where = f"filter {name!r} on {resource_type}"
        if parameter is None or parameter.kind not in ("token", "reference"):
            raise Unsupported(f"{where}: the server filters by parameters of type token and reference")
        if modifier not in ("", "not") or (modifier == "not" and parameter.kind != "token"):
            raise Unsupported(f"{where}: of the modifiers, the server knows :not on a token")
        values = tuple(unescape(v).removeprefix(f"{base_url}/") for v in split(value, ",") if v)
        if not values:
            raise Unsupported(f"{where}: a value is missing")
        return cls(resource_type, param, modifier, values)

    def passes(self, entries: Entries) -> bool:
        kind = parameters_of(self.resource_type)[self.param].kind
        rows = [row[1:] for row in (entries.token if kind == "token" else entries.reference) if row[0] == self.param]
        meets = _token_meets if kind == "token" else _reference_meets
        found = any(meets(value, row) for value in self.values for row in rows)
        return found != (self.modifier == "not")


def _token_meets(value: str, row: tuple[Any, ...]) -> bool:
    system, bar, code = value.rpartition("|")
    return (not bar or bounded(system) == row[0]) and (not code or bounded(code) == row[1])


def _reference_meets(value: str, row: tuple[Any, ...]) -> bool:
    target_type, target_id, url = row[:3]
    if "/" not in value and ":" not in value:
        return bool(target_id == value and not url)
    parts = reference_parts(value)
    return bool((parts.target_type, parts.target_id, parts.url) == (target_type, target_id, url))


@dataclass(frozen=True, slots=True)
class Trigger:
    resource_type: str
    kinds: frozenset[str]
    current: tuple[Test, ...] = ()
    previous: tuple[Test, ...] = ()
    passes_on_create: bool = True
    both: bool = True
    changed: str = ""

    def fires(self, kind: str, current: Mapping[str, Any], previous: Mapping[str, Any] | None) -> bool:
        """Whether a version written as `kind` (create, update) over `previous` is an event of the topic."""
        if kind not in self.kinds:
            return False
        if self.changed and previous is not None and _at(self.changed, previous) == _at(self.changed, current):
            return False
        now = _all_pass(self.current, current)
        if not self.previous:
            return now
        before = self.passes_on_create if previous is None else _all_pass(self.previous, previous)
        return (now and before) if self.both else (now or before)


@dataclass(frozen=True, slots=True)
class Topic:
    """`filters` holds the names of the search parameters by which a subscription may narrow the topic, per type."""

    url: str
    title: str
    triggers: tuple[Trigger, ...]
    filters: Mapping[str, frozenset[str]]

    @property
    def resource_types(self) -> frozenset[str]:
        return frozenset(trigger.resource_type for trigger in self.triggers)

    def fires(
        self, resource_type: str, kind: str, current: Mapping[str, Any], previous: Mapping[str, Any] | None
    ) -> bool:
        return any(t.resource_type == resource_type and t.fires(kind, current, previous) for t in self.triggers)


def load(*folders: Path) -> Mapping[str, Topic]:
    """Topics by canonical URL, from every `*.json` of the folders; a later folder (the site's) replaces an earlier.

    Raises Misconfigured naming the file.
    """
    topics: dict[str, Topic] = {}
    for folder in folders:
        for file in sorted(folder.glob("*.json")):
            try:
                topic = _topic(json.loads(file.read_text(encoding="utf-8")))
            except (KeyError, TypeError, AttributeError, ValueError, InvalidInput, Unsupported) as error:
                raise Misconfigured(f"topic file {file.name}: {error}") from error
            topics[topic.url] = topic
    return topics


def _topic(body: Mapping[str, Any]) -> Topic:
    filters: dict[str, frozenset[str]] = {}
    for allowed in body.get("canFilterBy", ()):
        resource_type, param = allowed["resource"].removeprefix(_CORE), allowed["filterParameter"]
        Test.parse(resource_type, param, "any")
        filters[resource_type] = filters.get(resource_type, frozenset()) | {param}
    return Topic(body["url"], body["title"], tuple(_trigger(t) for t in body["resourceTrigger"]), filters)


def _trigger(body: Mapping[str, Any]) -> Trigger:
    resource_type = body["resource"].removeprefix(_CORE)
    kinds = frozenset(body["supportedInteraction"])
    if not kinds <= {"create", "update"}:
        raise Unsupported("supportedInteraction: a trigger is create or update")
    changed = ""
    if path := body.get("fhirPathCriteria"):
        found = _CHANGED.fullmatch(path)
        if not found:
            raise Unsupported("fhirPathCriteria: only `%previous.empty() or (%previous.x != %current.x)` is evaluated")
        changed = f"{resource_type}.{found['path']}"
        paths.compiled(changed)
    criteria = body.get("queryCriteria", {})
    return Trigger(
        resource_type,
        kinds,
        _tests(resource_type, criteria.get("current", "")),
        _tests(resource_type, criteria.get("previous", "")),
        criteria.get("resultForCreate", "test-passes") == "test-passes",
        criteria.get("requireBoth", False),
        changed,
    )


def _tests(resource_type: str, query: str) -> tuple[Test, ...]:
    if not query:
        return ()
    head, _, params = query.rpartition("?")
    if head not in ("", resource_type):
        raise Unsupported(f"queryCriteria: the trigger is on {resource_type}, its query on {head}")
    return tuple(Test.parse(resource_type, name, value) for name, value in parse_qsl(params))


def _all_pass(tests: tuple[Test, ...], resource: Mapping[str, Any]) -> bool:
    if not tests:
        return True
    entries = extract(dict(resource))
    return all(test.passes(entries) for test in tests)


def _at(path: str, resource: Mapping[str, Any]) -> list[Any]:
    return [node.value for node in paths.compiled(path)(dict(resource))]
