"""Subscription topics: data files in the form of SubscriptionTopic (FHIR R4B), read and checked at start.

A file that asks for what is not evaluated here is refused by its name, rather than never to fire: another topic to
derive from, event triggers, criteria that look beyond the resource, FHIRPath that is none. A retired topic is not
served, by which a site takes a shipped one away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wetread.errors import InvalidInput, Misconfigured, Unsupported
from wetread.record import fhirpath
from wetread.record.search import includes
from wetread.record.search.includes import Include
from wetread.record.search.index import Extraction
from wetread.record.search.parameters import parameters_of
from wetread.record.search.row_values import prefix_of
from wetread.record.subscriptions import criteria
from wetread.record.subscriptions.criteria import Test as Test
from wetread.record.subscriptions.triggers import Look, Resource, Trigger, trigger_of, type_of

_REFUSED = ("derivedFrom", "eventTrigger", "effectivePeriod", "modifierExtension")
_COMPARATORS = frozenset({"ne", "gt", "lt", "ge", "le", "sa", "eb", "ap"})
_PLAIN = frozenset({"=", "eq"})
_SAMPLES = {"date": "2026", "number": "1", "quantity": "1"}
_MODIFIER_SAMPLES = {"missing": "true", "of-type": "a|b|c"}


@dataclass(frozen=True, slots=True)
class Topic:
    """What may be subscribed to."""

    url: str
    """Empty of a criteria-based subscription (`of_criteria`)."""
    title: str
    triggers: tuple[Trigger, ...]
    filters: Mapping[str, Mapping[str, frozenset[str] | None]] = field(default_factory=lambda: MappingProxyType({}))
    """By type, the search parameters by which a subscription may narrow the topic, each with the modifiers and
    prefixes that it may have; None: all."""
    shape: Mapping[str, tuple[Include, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """By type, what goes with a resource of it as additional context."""
    version: str = ""

    @property
    def resource_types(self) -> frozenset[str]:
        return frozenset(trigger.resource_type for trigger in self.triggers)

    def fires(
        self,
        resource_type: str,
        kind: str,
        current: Resource | None,
        previous: Resource | None,
        look: Look = Extraction,
    ) -> bool:
        """Whether a change is an event of the topic. `kind` is create, update or delete; there is no `previous` of what
        is created, and no `current` of what is deleted. Raises fhirpath.Undecided where no trigger fires and one could
        not be decided."""
        undecided: fhirpath.Undecided | None = None
        for trigger in self.triggers:
            try:
                if trigger.resource_type == resource_type and trigger.fires(kind, current, previous, look):
                    return True
            except fhirpath.Undecided as error:
                undecided = error
        if undecided is not None:
            raise undecided
        return False

    def filter(self, resource_type: str, name: str, value: str, bases: Sequence[str] = ()) -> Test:
        """A filter of a subscription to the topic. Raises Unsupported, with what is allowed."""
        known = self.filters.get(resource_type, {})
        param, _, modifier = name.partition(":")
        if param not in known:
            allowed = ", ".join(f"{t}.{p}" for t, params in self.filters.items() for p in sorted(params))
            raise Unsupported(f"the topic cannot be filtered by {name!r}; it can by {allowed}")
        test = Test.parse(resource_type, name, value, bases)
        operators = known[param]
        asked = {modifier} if modifier else {prefix_of(v) for v in test.values if test.kind in _SAMPLES}
        if operators is not None and not asked - _PLAIN - {""} <= operators:
            told = ", ".join(sorted(operators)) or "no modifier or prefix"
            raise Unsupported(f"the topic filters by {param!r} with {told}")
        return test


def load(*folders: Path) -> Mapping[str, Topic]:
    """Topics by canonical URL, from every `*.json` of the folders; a later folder (the site's) replaces an earlier.

    Raises Misconfigured naming the file.
    """
    topics: dict[str, Topic] = {}
    for folder in folders:
        here: dict[str, str] = {}
        for file in sorted(folder.glob("*.json")):
            try:
                body = json.loads(file.read_text(encoding="utf-8"))
                topic = topic_of(body)
            except (KeyError, TypeError, AttributeError, ValueError, InvalidInput, Unsupported) as error:
                said = f"{error} is missing or has no such value" if isinstance(error, KeyError) else str(error)
                raise Misconfigured(f"topic file {file.name}: {said}") from error
            if topic.url in here:
                raise Misconfigured(f"topic file {file.name}: {here[topic.url]} defines the same url")
            here[topic.url] = file.name
            topics.pop(topic.url, None)
            if body["status"] != "retired":
                topics[topic.url] = topic
    return topics


def topic_of(body: Mapping[str, Any]) -> Topic:
    """From a SubscriptionTopic. Raises Unsupported, InvalidInput, KeyError, TypeError for one that cannot be kept."""
    if body["resourceType"] != "SubscriptionTopic":
        raise Unsupported("resourceType: a topic is a SubscriptionTopic (FHIR R4B)")
    if refused := [name for name in _REFUSED if name in body]:
        raise Unsupported(f"{refused[0]}: not evaluated here; write resource triggers")
    if body["status"] not in ("draft", "active", "retired", "unknown") or not body["url"].strip():
        raise Unsupported("a topic has a url, and a status of draft, active or retired")
    triggers = tuple(trigger_of(trigger) for trigger in body["resourceTrigger"])
    if not triggers:
        raise Unsupported("resourceTrigger: a topic without a trigger never fires")
    topic = Topic(body["url"], body.get("title", body["url"]), triggers, version=body.get("version", ""))
    filters: dict[str, dict[str, frozenset[str] | None]] = {}
    for allowed in body.get("canFilterBy", ()):
        for resource_type in _types(allowed, topic, "canFilterBy"):
            filters.setdefault(resource_type, {})[allowed["filterParameter"]] = _operators(resource_type, allowed)
    shape: dict[str, tuple[Include, ...]] = {}
    for each in body.get("notificationShape", ()):
        for resource_type in _types(each, topic, "notificationShape"):
            shape[resource_type] = shape.get(resource_type, ()) + _includes(resource_type, each)
    return Topic(topic.url, topic.title, triggers, filters, shape, topic.version)


@lru_cache(maxsize=20_000)
def of_criteria(text: str) -> tuple[Topic, tuple[tuple[str, str], ...]]:
    """The topic of a criteria-based subscription (FHIR R4 subscription.html), which fires at every creation and update
    of the type, and the filters that make it the search: `Observation?category=imaging&...`.

    Raises Unsupported for a search that cannot be evaluated on one resource.
    """
    head, _, query = text.strip().removeprefix("/").partition("?")
    resource_type = type_of(head)
    criteria.parsed(resource_type, query)
    topic = Topic("", text, (Trigger(resource_type, frozenset({"create", "update"})),))
    return topic, ((resource_type, query),) if query else ()


def _types(part: Mapping[str, Any], topic: Topic, where: str) -> list[str]:
    """The type that a part names; all of the topic where it names none."""
    if "resource" not in part:
        return sorted(topic.resource_types)
    resource_type = type_of(part["resource"])
    if resource_type not in topic.resource_types:
        raise Unsupported(f"{where}: no trigger of the topic is on {resource_type}")
    return [resource_type]


def _operators(resource_type: str, allowed: Mapping[str, Any]) -> frozenset[str] | None:
    """The modifiers and prefixes that a filter may have, all of which must be evaluable."""
    param = allowed["filterParameter"]
    parameter = parameters_of(resource_type).get(param)
    kind = parameter.kind if parameter else ""
    sample = _SAMPLES.get(kind, "a")
    if kind != "composite":
        Test.parse(resource_type, param, sample)
    if parameter and allowed.get("filterDefinition", parameter.url) != parameter.url:
        raise Unsupported(f"filterDefinition: {param!r} on {resource_type} is {parameter.url} here")
    if "modifier" not in allowed and "comparator" not in allowed:
        return None
    listed = frozenset([*allowed.get("modifier", ()), *allowed.get("comparator", ())]) - _PLAIN
    for operator in sorted(listed):
        if operator in _COMPARATORS and kind not in _SAMPLES:
            raise Unsupported(f"canFilterBy: {operator} is for dates, numbers and quantities, which {param!r} is not")
        if operator not in _COMPARATORS:
            Test.parse(resource_type, f"{param}:{operator}", _MODIFIER_SAMPLES.get(operator, sample))
    return listed


def _includes(resource_type: str, shape: Mapping[str, Any]) -> tuple[Include, ...]:
    found = [includes.parse("_include", value) for value in shape.get("include", ())]
    found += [includes.parse("_revinclude", value) for value in shape.get("revInclude", ())]
    for include in found:
        if not include.param or (include.target if include.reverse else include.source) not in ("", resource_type):
            raise Unsupported("notificationShape: an include names a reference parameter of its resource, or one to it")
    return tuple(found)
