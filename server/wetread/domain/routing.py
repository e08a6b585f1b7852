"""Routing rules: which models read which series, and why. Declarative; loaded from `mappings/routing.yaml`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What a rule may ask of a series, its study and its order. Unknown is empty, None for numbers."""

    series_instance_uid: str
    modality: str = ""
    body_part: str = ""
    series_description: str = ""
    study_description: str = ""
    procedure_codes: tuple[str, ...] = ()
    image_types: frozenset[str] = frozenset()
    sop_class_uids: frozenset[str] = frozenset()
    view_position: str = ""
    contrast_agent: str = ""
    instance_count: int = 0
    patient_age_years: float | None = None
    patient_sex: str = ""
    patient_class: str = ""
    ordering_location: str = ""
    priority: str = "routine"


@dataclass(frozen=True, slots=True)
class Condition:
    """One test on one fact. Exactly one of `any_of` (equal, case ignored), `matches` (regular expression, searched,
    case ignored), `at_least`, `at_most`, `none_of` is given by each entry of a rule; several must all hold."""

    fact: str
    any_of: tuple[str, ...] | None = None
    none_of: tuple[str, ...] | None = None
    matches: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    def holds(self, facts: SeriesFacts) -> bool:
        value = getattr(facts, self.fact)
        if self.at_least is not None or self.at_most is not None:
            if value is None:
                return False
            return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)
        values = [v.casefold() for v in ((value,) if isinstance(value, str) else value)]
        if self.matches is not None:
            return any(re.search(self.matches, v, re.IGNORECASE) for v in values)
        if self.none_of is not None:
            return not any(v in {n.casefold() for n in self.none_of} for v in values)
        return any(v in {a.casefold() for a in self.any_of or ()} for v in values)


@dataclass(frozen=True, slots=True)
class RoutingRule:
    name: str
    models: tuple[str, ...]
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """A model chosen for a series, by the first rule that named it."""

    series_instance_uid: str
    model: str
    rule: str


@dataclass(frozen=True, slots=True)
class Routing:
    """The whole decision for a study: what was chosen, and for each series and rule why not."""

    choices: tuple[Choice, ...] = ()
    refusals: tuple[str, ...] = field(default=())


def route(rules: Sequence[RoutingRule], series: Sequence[SeriesFacts]) -> Routing:
    """Every rule is asked of every series; a model is chosen at most once per series."""
    choices: list[Choice] = []
    refusals: list[str] = []
    for facts in series:
        chosen: set[str] = set()
        for rule in rules:
            failed = next((c.fact for c in rule.when if not c.holds(facts)), None)
            if failed is not None:
                refusals.append(f"{facts.series_instance_uid}: rule {rule.name!r} not met by {failed}")
                continue
            for model in rule.models:
                if model not in chosen:
                    chosen.add(model)
                    choices.append(Choice(facts.series_instance_uid, model, rule.name))
    return Routing(tuple(choices), tuple(refusals))
