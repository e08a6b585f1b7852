"""Which models read which series, and why not."""

from __future__ import annotations

import pytest

from wetread.domain.routing import Condition, RoutingRule, SeriesFacts, route

HEAD = SeriesFacts("1.2", modality="CT", body_part="HEAD", image_types=frozenset({"ORIGINAL", "AXIAL"}))


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (Condition("modality", any_of=("MR", "ct")), True),
        (Condition("modality", none_of=("ct",)), False),
        (Condition("body_part", matches="^brain|head$"), True),
        (Condition("image_types", any_of=("axial",)), True),
        (Condition("image_types", none_of=("LOCALIZER",)), True),
        (Condition("contrast_agent", any_of=("",)), True),
        (Condition("procedure_codes", any_of=("X",)), False),
        (Condition("procedure_codes", none_of=("X",)), True),
        (Condition("instance_count", at_least=1), False),
        (Condition("instance_count", at_most=0), True),
        (Condition("patient_age_years", at_most=18), False),
        (Condition("patient_age_years", at_least=0), False),
    ],
)
def test_a_condition_asks_one_fact(condition: Condition, holds: bool) -> None:
    assert condition.holds(HEAD) is holds


def test_a_model_reads_a_series_once_by_the_first_rule_that_names_it() -> None:
    rules = [
        RoutingRule("first", ("bleed",)),
        RoutingRule("second", ("bleed", "brain"), (Condition("modality", any_of=("CT",)),)),
    ]
    routing = route(rules, [HEAD, SeriesFacts("1.3", modality="SR")])
    assert [(c.series_instance_uid, c.model, c.rule) for c in routing.choices] == [
        ("1.2", "bleed", "first"),
        ("1.2", "brain", "second"),
        ("1.3", "bleed", "first"),
    ]
    assert routing.refusals == ("1.3: rule 'second' not met by modality",)
