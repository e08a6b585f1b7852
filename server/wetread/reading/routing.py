"""Loads `routing.yaml` and tells it what a series is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from wetread.domain.priority import Priority
from wetread.domain.routing import Condition, RoutingRule, SeriesFacts
from wetread.domain.study import InstanceFacts, age_years
from wetread.errors import Misconfigured
from wetread.reading.orders import Order

_FACTS = {f.name for f in fields(SeriesFacts)} - {"series_instance_uid"}
_NUMBERS = {"instance_count", "patient_age_years"}
_TESTS = {"any_of", "none_of", "matches", "at_least", "at_most"}


def load(shipped: Path, overlay: Path | None, models: Sequence[str]) -> tuple[RoutingRule, ...]:
    """The site's `routing.yaml` where there is one, else the shipped one, as far as its models are installed.

    Raises Misconfigured naming file and key.
    """
    site = overlay / "routing.yaml" if overlay else None
    is_site = site is not None and site.exists()
    file = site if site is not None and is_site else shipped / "routing.yaml"
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise Misconfigured(f"{file}: cannot be read as YAML") from error
    if not isinstance(content, dict) or not isinstance(content.get("rules"), list):
        raise Misconfigured(f"{file}: expected a list under the key 'rules'")
    rules = content["rules"] if is_site else _installed(content["rules"], models)
    return tuple(_rule(file, number, body, models) for number, body in enumerate(rules, 1))


def _installed(rules: Sequence[Any], models: Sequence[str]) -> list[Any]:
    kept = [{**rule, "models": [name for name in rule["models"] if name in models]} for rule in rules]
    return [rule for rule in kept if rule["models"]]


def _rule(file: Path, number: int, body: Any, models: Sequence[str]) -> RoutingRule:
    where = f"{file}: rules[{number}]"
    if not isinstance(body, dict) or set(body) - {"name", "models", "when"} or not body.get("models"):
        raise Misconfigured(f"{where}: expected the keys name, models (a list) and when")
    for model in body["models"]:
        if model not in models:
            raise Misconfigured(
                f"{where}.models: no model package is named {model!r}; known: {', '.join(sorted(models))}"
            )
    conditions = []
    for fact, test in (body.get("when") or {}).items():
        if fact not in _FACTS:
            raise Misconfigured(f"{where}.when: {fact!r} is not a fact; known: {', '.join(sorted(_FACTS))}")
        conditions.append(_condition(f"{where}.when.{fact}", fact, test))
    return RoutingRule(str(body.get("name") or f"rule {number}"), tuple(body["models"]), tuple(conditions))


def _condition(where: str, fact: str, test: Any) -> Condition:
    if isinstance(test, str | int | float) and fact not in _NUMBERS:
        return Condition(fact, any_of=(str(test),))
    if isinstance(test, list):
        return Condition(fact, any_of=tuple(str(t) for t in test))
    if not isinstance(test, dict) or not test or set(test) - _TESTS:
        raise Misconfigured(f"{where}: expected a value, a list, or one of {', '.join(sorted(_TESTS))}")
    if fact in _NUMBERS and set(test) - {"at_least", "at_most"}:
        raise Misconfigured(f"{where}: a number takes at_least and at_most")
    if "matches" in test:
        try:
            re.compile(test["matches"])
        except re.error as error:
            raise Misconfigured(f"{where}.matches: not a regular expression: {error}") from error
    values: dict[str, Any] = {k: tuple(str(x) for x in v) if isinstance(v, list) else v for k, v in test.items()}
    return Condition(fact, **values)


def series_facts(instances: Sequence[InstanceFacts], order: Order | None) -> list[SeriesFacts]:
    """What the rules may ask, for each series of the study."""
    by_series: dict[str, list[InstanceFacts]] = defaultdict(list)
    for facts in instances:
        by_series[facts.series_instance_uid].append(facts)
    return [_facts(uid, members, order) for uid, members in sorted(by_series.items())]


def _facts(uid: str, members: Sequence[InstanceFacts], order: Order | None) -> SeriesFacts:
    first = members[0]
    return SeriesFacts(
        series_instance_uid=uid,
        modality=first.modality,
        body_part=first.body_part,
        series_description=first.series_description,
        study_description=first.study_description,
        procedure_codes=tuple(c.code for c in first.procedure_codes),
        image_types=frozenset(value for m in members for value in m.image_type),
        sop_class_uids=frozenset(m.sop_class_uid for m in members),
        view_position=first.view_position,
        contrast_agent=first.contrast_agent,
        instance_count=len(members),
        patient_age_years=age_years(first.patient_age, first.patient_birth_date, first.study_date),
        patient_sex=first.patient_sex,
        patient_class=order.patient_class if order else "",
        ordering_location=order.ordering_location if order else "",
        priority=Priority(order.priority).code if order else Priority.ROUTINE.code,
    )
