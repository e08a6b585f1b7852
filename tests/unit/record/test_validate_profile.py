"""Profiles: what a StructureDefinition asks for beyond R4."""

from __future__ import annotations

import time
from typing import Any

import pytest

from wetread.record.validation import profiles
from wetread.record.validation.profile_rules import _own_expressions
from wetread.record.validation.validate import check_extensions, check_profile
from wetread.store.database import Database

BASE = "http://hl7.org/fhir/StructureDefinition/"
SITE = "https://site.example/fhir/StructureDefinition/"
LOINC, DCM = "http://loinc.org", "http://dicom.nema.org/resources/ontology/DCM"
WORDS = "https://site.example/fhir/CodeSystem/words"


def profile(
    name: str, *elements: dict[str, Any], base: str = BASE + "Observation", kind: str = "Observation"
) -> dict[str, Any]:
    rows = [{"path": e["id"].split(":")[0], **e} for e in elements]
    return {
        "resourceType": "StructureDefinition",
        "url": SITE + name,
        "type": kind,
        "baseDefinition": base,
        "derivation": "constraint",
        "differential": {"element": rows},
    }


def known(*definitions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {d["url"]: d for d in definitions}


def observation(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, **more}


def faults(content: dict[str, Any], *definitions: dict[str, Any]) -> list[tuple[str, str]]:
    """Code and expression of each fault by the first of the profiles."""
    return [(i.code, i.expression) for i in check_profile(content, definitions[0]["url"], known(*definitions))]


@pytest.mark.parametrize(
    ("element", "good", "bad", "fault"),
    [
        (
            {"id": "Observation.subject", "min": 1},
            {"subject": {"reference": "Patient/1"}},
            {},
            ("required", "Observation.subject"),
        ),
        ({"id": "Observation.note", "max": "0"}, {}, {"note": [{"text": "x"}]}, ("structure", "Observation.note")),
        (
            {"id": "Observation.status", "fixedCode": "final"},
            {},
            {"status": "amended"},
            ("value", "Observation.status"),
        ),
        (
            {"id": "Observation.code", "patternCodeableConcept": {"coding": [{"system": LOINC, "code": "1-8"}]}},
            {"code": {"coding": [{"code": "z"}, {"system": LOINC, "code": "1-8", "display": "d"}]}},
            {"code": {"coding": [{"system": LOINC, "code": "2-6"}]}},
            ("value", "Observation.code"),
        ),
        (
            {"id": "Observation.value[x]", "type": [{"code": "Quantity"}, {"code": "string"}]},
            {"valueString": "x"},
            {"valueBoolean": True},
            ("structure", "Observation.value"),
        ),
        (
            {"id": "Observation.subject", "type": [{"code": "Reference", "targetProfile": [BASE + "Patient"]}]},
            {"subject": {"reference": "Patient/1"}},
            {"subject": {"reference": "Device/1"}},
            ("invalid", "Observation.subject"),
        ),
        (
            {"id": "Observation", "constraint": [{"key": "s-1", "severity": "error", "expression": "value.exists()"}]},
            {"valueString": "x"},
            {},
            ("invariant", "Observation"),
        ),
        (
            {"id": "Observation.value[x]", "maxLength": 2},
            {"valueString": "ab"},
            {"valueString": "abc"},
            ("too-long", "Observation.value"),
        ),
        (
            {"id": "Observation.value[x]", "minValueQuantity": {"value": 1, "code": "g"}},
            {"valueQuantity": {"value": 2, "system": "urn:x", "code": "g"}},
            {"valueQuantity": {"value": 0, "system": "urn:x", "code": "g"}},
            ("value", "Observation.value"),
        ),
        (
            {"id": "Observation.component.value[x]", "min": 1},
            {"component": [{"code": {"text": "x"}, "valueString": "y"}]},
            {"component": [{"code": {"text": "x"}, "valueString": "y"}, {"code": {"text": "x"}}]},
            ("required", "Observation.component[1].value"),
        ),
    ],
)
def test_each_rule_takes_and_refuses(element: dict[str, Any], good: Any, bad: Any, fault: tuple[str, str]) -> None:
    one = profile("one", element)
    assert faults(observation(**good), one) == []
    assert faults(observation(**bad), one) == [fault]


def test_rules_that_say_nothing_of_content_refuse_nothing() -> None:
    one = profile(
        "one",
        {"id": "Observation.subject", "mustSupport": True},
        {"id": "Observation", "constraint": [{"key": "w", "severity": "warning", "expression": "false"}]},
        {"id": "Observation.method", "constraint": [{"key": "t", "severity": "error", "expression": "memberOf('x')"}]},
        {"id": "Observation.code", "binding": {"strength": "required", "valueSet": "https://nobody.example/vs"}},
        {"id": "Observation.nonsense", "min": 1},
    )
    assert faults(observation(method={"text": "x"}), one) == []


def test_a_profile_adds_to_its_base_and_to_r4() -> None:
    base = profile("base", {"id": "Observation.subject", "min": 1})
    one = profile(
        "one", {"id": "Observation.subject", "max": "1"}, {"id": "Observation.value[x]", "min": 1}, base=base["url"]
    )
    assert faults(observation(status="bogus"), one, base) == [
        ("code-invalid", "Observation.status"),
        ("required", "Observation.subject"),
        ("required", "Observation.value"),
    ]


def test_an_unknown_profile_or_base_is_one_fault() -> None:
    assert [i.code for i in check_profile(observation(), SITE + "none", {})] == ["not-found"]
    assert faults(observation(), profile("one", base=SITE + "none")) == [("not-found", "Observation")]


def test_a_profile_of_another_type_does_not_fit() -> None:
    assert faults(observation(), profile("one", base=BASE + "Patient", kind="Patient")) == [
        ("structure", "Observation")
    ]


PRESSURE = profile(
    "pressure",
    {
        "id": "Observation.component",
        "slicing": {"discriminator": [{"type": "pattern", "path": "code"}], "rules": "closed"},
        "min": 1,
    },
    {"id": "Observation.component:systolic", "sliceName": "systolic", "min": 1, "max": "1"},
    {"id": "Observation.component:systolic.code", "patternCodeableConcept": {"coding": [{"code": "8480-6"}]}},
    {"id": "Observation.component:systolic.value[x]", "min": 1, "type": [{"code": "Quantity"}]},
    {"id": "Observation.component:diastolic", "sliceName": "diastolic", "max": "1"},
    {"id": "Observation.component:diastolic.code.coding.code", "fixedCode": "8462-4"},
)


def component(code: str, **more: Any) -> dict[str, Any]:
    return {"code": {"coding": [{"system": LOINC, "code": code}]}, **more}


def test_slices_by_pattern() -> None:
    systolic = component("8480-6", valueQuantity={"value": 1})
    assert faults(observation(component=[component("8462-4"), systolic]), PRESSURE) == []
    assert faults(observation(component=[component("8462-4")]), PRESSURE) == [("required", "Observation.component")]
    assert faults(observation(component=[systolic, systolic]), PRESSURE) == [("structure", "Observation.component")]
    assert faults(observation(component=[systolic, component("1-8")]), PRESSURE) == [
        ("structure", "Observation.component[1]")
    ]
    assert faults(observation(component=[component("8480-6", valueString="x")]), PRESSURE) == [
        ("structure", "Observation.component[0].value")
    ]


def test_slices_by_value_deep_inside() -> None:
    one = profile(
        "one",
        {
            "id": "Observation.category",
            "slicing": {"discriminator": [{"type": "value", "path": "coding.system"}], "rules": "open"},
        },
        {"id": "Observation.category:kind", "sliceName": "kind", "min": 1},
        {"id": "Observation.category:kind.coding.system", "fixedUri": DCM},
        {"id": "Observation.category:kind.coding.code", "min": 1},
    )
    assert faults(observation(category=[{"text": "x"}, {"coding": [{"system": DCM, "code": "CT"}]}]), one) == []
    assert faults(observation(category=[{"text": "x"}]), one) == [("required", "Observation.category")]
    assert faults(observation(category=[{"coding": [{"system": DCM}]}]), one) == [
        ("required", "Observation.category[0].coding[0].code")
    ]


def test_slices_by_existence_and_by_type() -> None:
    one = profile(
        "one",
        {"id": "Observation.note", "slicing": {"discriminator": [{"type": "exists", "path": "time"}], "rules": "open"}},
        {"id": "Observation.note:dated", "sliceName": "dated", "min": 1},
        {"id": "Observation.note:dated.time", "min": 1},
        {"id": "Observation.value[x]:valueQuantity", "sliceName": "valueQuantity"},
        {"id": "Observation.value[x]:valueQuantity.unit", "min": 1},
    )
    dated = {"text": "x", "time": "2020-01-01"}
    assert faults(observation(note=[dated], valueString="x"), one) == []
    assert faults(observation(note=[{"text": "x"}], valueQuantity={"value": 1}), one) == [
        ("required", "Observation.note"),
        ("required", "Observation.value.unit"),
    ]


def test_slices_by_the_type_of_what_is_referred_to() -> None:
    one = profile(
        "one",
        {
            "id": "Observation.performer",
            "slicing": {"discriminator": [{"type": "type", "path": "resolve()"}], "rules": "open"},
        },
        {
            "id": "Observation.performer:who",
            "sliceName": "who",
            "min": 1,
            "type": [{"code": "Reference", "targetProfile": [BASE + "Practitioner"]}],
        },
    )
    assert faults(observation(performer=[{"reference": "Organization/1"}, {"reference": "Practitioner/1"}]), one) == []
    assert faults(observation(performer=[{"reference": "Organization/1"}]), one) == [
        ("required", "Observation.performer")
    ]


EXTENSION = profile(
    "reader",
    {"id": "Extension.url", "fixedUri": SITE + "reader"},
    {"id": "Extension.value[x]", "min": 1, "type": [{"code": "Coding"}]},
    {"id": "Extension.value[x].code", "min": 1},
    base=BASE + "Extension",
    kind="Extension",
)


def test_extensions_by_their_definition() -> None:
    one = profile(
        "one",
        {
            "id": "Observation.extension",
            "slicing": {"discriminator": [{"type": "value", "path": "url"}], "rules": "open"},
        },
        {
            "id": "Observation.extension:reader",
            "sliceName": "reader",
            "min": 1,
            "type": [{"code": "Extension", "profile": [SITE + "reader"]}],
        },
    )
    good = {"url": SITE + "reader", "valueCoding": {"code": "x"}}
    other = {"url": "urn:x", "valueString": "x"}
    assert faults(observation(extension=[other, good]), one, EXTENSION) == []
    assert faults(observation(extension=[other]), one, EXTENSION) == [("required", "Observation.extension")]
    assert faults(observation(extension=[good | {"valueCoding": {"display": "x"}}]), one, EXTENSION) == [
        ("required", "Observation.extension[0].value.code")
    ]
    wrong = {"url": SITE + "reader", "valueString": "x"}
    found = check_extensions(
        observation(component=[{"code": {"text": "x"}, "extension": [other, wrong]}]), known(EXTENSION)
    )
    assert [(i.code, i.expression) for i in found] == [("structure", "Observation.component[0].extension[1].value")]


def test_required_bindings_to_value_sets_that_list_their_codes() -> None:
    concepts = [{"code": "a", "concept": [{"code": "b"}]}, {"code": "c"}]
    system = {"resourceType": "CodeSystem", "url": WORDS, "content": "complete", "concept": concepts}
    compose = {"include": [{"system": WORDS}], "exclude": [{"system": WORDS, "concept": [{"code": "c"}]}]}
    value_set = {"resourceType": "ValueSet", "url": SITE + "vs", "compose": compose}
    one = profile("one", {"id": "Observation.method", "binding": {"strength": "required", "valueSet": SITE + "vs|1"}})
    all_known = (one, system, value_set)
    assert faults(observation(method={"coding": [{"system": WORDS, "code": "b"}]}), *all_known) == []
    assert faults(observation(method={"coding": [{"system": WORDS, "code": "c"}]}), *all_known) == [
        ("code-invalid", "Observation.method")
    ]
    assert faults(observation(method={"coding": [{"system": WORDS, "code": "c"}]}), one, value_set) == []


def test_a_profile_that_leads_to_itself_ends() -> None:
    loop = profile("loop", base=SITE + "loop")
    assert faults(observation(), loop) == [("not-found", "Observation")]
    nested = profile(
        "nested",
        {"id": "Extension.extension", "type": [{"code": "Extension", "profile": [SITE + "nested"]}]},
        base=BASE + "Extension",
        kind="Extension",
    )
    content: dict[str, Any] = {"url": SITE + "nested", "valueString": "x"}
    for _ in range(60):
        content = {"url": SITE + "nested", "extension": [content]}
    check_extensions(observation(extension=[content]), known(nested))


def ruled(expression: str) -> dict[str, Any]:
    rule = {"key": "x-1", "severity": "error", "human": "x", "expression": expression}
    return profile("ruled", {"id": "Observation", "constraint": [rule]})


@pytest.mark.parametrize(
    "expression",
    [
        "status.matches('^(a+)+$')",
        "status.where(replaceMatches('(a+)+$', 'x') = 'x').exists()",
        "status.matchesFull('(a+)+') and false",
        "(" * 3000 + "false" + ")" * 3000,
        "status.",
    ],
)
def test_an_invariant_with_a_regular_expression_of_its_author_or_none_that_can_be_read_is_passed_over(
    expression: str,
) -> None:
    assert faults(observation(status="final"), ruled("status = 'amended'")) == [("invariant", "Observation")]
    assert faults(observation(status="final"), ruled(expression)) == []


def test_our_own_profiles_keep_their_regular_expressions() -> None:
    own = next(e for e in _own_expressions() if "{64}" in e)
    rule = {"key": "x-1", "severity": "error", "human": "x", "expression": own}
    version = profile("own", {"id": "Observation.value[x]", "constraint": [rule]})
    assert faults(observation(valueString="a" * 64), version) == []
    assert faults(observation(valueString="x"), version) == [("invariant", "Observation.value")]


def test_a_discriminator_that_cannot_be_decided_decides_nothing() -> None:
    slicing = {"discriminator": [{"type": "value", "path": "(" * 3000 + "code" + ")" * 3000}], "rules": "open"}
    sliced = profile(
        "sliced",
        {"id": "Observation.component", "slicing": slicing},
        {"id": "Observation.component:a", "sliceName": "a", "min": 1},
    )
    assert faults(observation(component=[component("a", valueString="x")]), sliced) == []


def test_profiles_that_name_each_other_twice_are_judged_within_a_budget() -> None:
    """Each tries both for every extension within it: 2^depth trials without the budget."""
    urls = [SITE + "one", SITE + "other"]
    pair = [
        profile(
            name,
            {"id": "Extension.extension", "type": [{"code": "Extension", "profile": urls}]},
            {"id": "Extension.id", "min": 1},
            base=BASE + "Extension",
            kind="Extension",
        )
        for name in ("one", "other")
    ]
    content: dict[str, Any] = {"url": SITE + "one", "valueString": "x"}
    for _ in range(30):
        content = {"url": SITE + "one", "extension": [content]}
    start = time.process_time()
    found = check_extensions(observation(extension=[content]), known(*pair))
    assert time.process_time() - start < 5
    assert found[0].code == "too-costly"
    assert found[0].severity == "warning"


def test_many_items_against_many_slices_are_judged_within_the_budget() -> None:
    slices: list[dict[str, Any]] = []
    for n in range(300):
        slices += [
            {"id": f"Observation.component:s{n}", "sliceName": f"s{n}", "min": 0},
            {"id": f"Observation.component:s{n}.code.coding.code", "fixedCode": f"{n}-x"},
        ]
    by_code = {"discriminator": [{"type": "value", "path": "code"}], "rules": "open"}
    many = profile("many", {"id": "Observation.component", "slicing": by_code}, *slices)
    content = observation(component=[component(f"{n}-0", valueInteger=1) for n in range(2000)])
    found = check_profile(content, SITE + "many", known(many))
    assert found[0].code == "too-costly"


async def test_what_a_resource_claims_and_extends_is_judged_where_it_is_known(module_database: Database) -> None:
    weight = observation(meta={"profile": [BASE + "bodyweight", "https://nobody.example/StructureDefinition/x"]})
    place = {"resourceType": "Patient", "extension": [{"url": BASE + "patient-birthPlace", "valueString": "x"}]}
    other = {"resourceType": "Patient", "extension": [{"url": "https://nobody.example/ext", "valueString": "x"}]}
    warm = observation(code={"coding": [{"system": LOINC, "code": "8310-5"}]})
    async with module_database.transaction() as conn:
        by_code = await profiles.faults(conn, warm)
        by_claim = await profiles.faults(conn, weight)
        by_extension = await profiles.faults(conn, place)
        assert await profiles.faults(conn, other) == []
    assert ("required", "Observation.category") in {(i.code, i.expression) for i in by_claim}
    assert ("required", "Observation.subject") in {(i.code, i.expression) for i in by_code}
    assert [(i.code, i.expression) for i in by_extension] == [("structure", "Patient.extension[0].value")]
