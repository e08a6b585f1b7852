"""The site's routing file: what it may say, and what the rules are told of a series."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wetread.domain.study import InstanceFacts
from wetread.errors import Misconfigured
from wetread.reading.routing import load, series_facts

SHIPPED = Path(__file__).parents[3] / "mappings"
MODELS = ("cxr-pneumonia-peds", "headct-bleed-synthetic", "brain-extract-mindgrab")
FILM = InstanceFacts("1.1", "1.2.840.10008.5.1.4.1.1.1", "1", "1.2", "1.2.840.10008.1.2.1", modality="CR")


def test_the_shipped_rules_are_in_order() -> None:
    assert {model for rule in load(SHIPPED, None, MODELS) for model in rule.models} == set(MODELS)


def test_a_sites_file_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "routing.yaml").write_text("rules: [{models: [cxr-pneumonia-peds], when: {modality: DX}}]")
    [rule] = load(SHIPPED, tmp_path, MODELS)
    assert (rule.name, rule.when[0].any_of) == ("rule 1", ("DX",))


def test_the_shipped_rules_ask_only_models_that_are_installed() -> None:
    assert {model for rule in load(SHIPPED, None, MODELS[:1]) for model in rule.models} == set(MODELS[:1])
    assert load(SHIPPED, None, ["a-sites-own"]) == ()


def test_an_overlay_without_routing_leaves_the_shipped_rules(tmp_path: Path) -> None:
    assert load(SHIPPED, tmp_path, MODELS) == load(SHIPPED, None, MODELS)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("rules: {}", "'rules'"),
        ("rules: [", "YAML"),
        ("rules: [{name: x}]", "rules[1]"),
        ("rules: [{models: [no-such-model]}]", "rules[1].models"),
        ("rules: [{models: [cxr-pneumonia-peds], whenever: {}}]", "rules[1]"),
        ("rules: [{models: [cxr-pneumonia-peds], when: {colour: red}}]", "'colour'"),
        ("rules: [{models: [cxr-pneumonia-peds], when: {modality: {like: CR}}}]", "rules[1].when.modality"),
        ("rules: [{models: [cxr-pneumonia-peds], when: {body_part: {matches: '('}}}]", "when.body_part.matches"),
        ("rules: [{models: [cxr-pneumonia-peds], when: {instance_count: 12}}]", "rules[1].when.instance_count"),
        ("rules: [{models: [cxr-pneumonia-peds], when: {patient_age_years: {any_of: [3]}}}]", "patient_age_years"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_place(tmp_path: Path, text: str, place: str) -> None:
    (tmp_path / "routing.yaml").write_text(text)
    with pytest.raises(Misconfigured) as refusal:
        load(SHIPPED, tmp_path, MODELS)
    assert place in refusal.value.message


def test_the_facts_of_a_series_are_gathered_from_all_its_instances() -> None:
    other = replace(FILM, sop_instance_uid="1.3", image_type=("DERIVED",), sop_class_uid="1.2.840.10008.5.1.4.1.1.7")
    elsewhere = replace(FILM, sop_instance_uid="1.4", series_instance_uid="1.9", modality="SR")
    film, report = series_facts([FILM, other, elsewhere], None)
    assert (film.instance_count, film.image_types, len(film.sop_class_uids)) == (2, {"DERIVED"}, 2)
    assert (report.modality, report.priority) == ("SR", "routine")


@pytest.mark.parametrize(
    ("age", "birth", "day", "years"),
    [
        ("004Y", "", "", 4.0),
        ("018M", "", "", 1.5),
        ("004Y", "1950-01-01", "2026-11-20", 4.0),
        ("", "2022-11-21", "2026-11-20", 3.0),
        ("", "2022-11-20", "2026-11-20", 4.0),
        ("", "20221121", "20261120", 3.0),
        ("4", "2022", "2026-11-20", None),
        ("", "", "2026-11-20", None),
    ],
)
def test_an_age_is_what_was_sent_else_counted_in_full_years(
    age: str, birth: str, day: str, years: float | None
) -> None:
    [told] = series_facts([replace(FILM, patient_age=age, patient_birth_date=birth, study_date=day)], None)
    assert told.patient_age_years == years
