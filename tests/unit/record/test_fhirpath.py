"""FHIRPath over parsed JSON. The public suite runs in conformance/r4/fhirpath_suite.py."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from wetread.record import fhirpath
from wetread.record.fhirpath import NotFhirPath, Quantity, Undecided, navigation

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p",
    "active": True,
    "name": [
        {"use": "official", "family": "Chalmers", "given": ["Peter", "James"]},
        {"use": "usual", "given": ["Jim", None], "_given": [None, {"extension": [{"url": "urn:x", "valueCode": "y"}]}]},
    ],
    "birthDate": "1974-12-25",
    "_gender": {"extension": [{"url": "urn:x", "valueString": "unknown"}]},
    "multipleBirthInteger": 2,
    "contained": [{"resourceType": "Organization", "id": "o", "name": "Burgers"}],
    "managingOrganization": {"reference": "#o"},
}
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "valueQuantity": {"value": Decimal("185.0"), "unit": "lbs", "code": "[lb_av]"},
    "effectiveDateTime": "2020-01-01T10:00:00+01:00",
    "referenceRange": [{"low": {"value": 1}, "high": {"value": 3}}],
    "component": [{"referenceRange": [{"text": "x"}]}],
}


def evaluate(expression: str, resource: dict[str, Any] = PATIENT) -> list[Any]:
    return [fhirpath.plain(item) for item in fhirpath.compiled(expression)(fhirpath.root(resource))]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("name.given", ["Peter", "James", "Jim", None]),
        ("Patient.name.family", ["Chalmers"]),
        ("Observation.name", []),
        ("name[1].use", ["usual"]),
        ("name.where(use = 'official').given.first()", ["Peter"]),
        ("name.select(given.count())", [2, 2]),
        ("name.given.where($this.hasValue()).count()", [3]),
        ("name.given.extension('urn:x').value", ["y"]),
        ("gender.exists() and gender.hasValue().not()", [True]),
        ("gender.extension.value = 'unknown'", [True]),
        ("multipleBirth", [2]),
        ("multipleBirth is integer", [True]),
        ("multipleBirth.ofType(boolean)", []),
        ("active is boolean and active.is(FHIR.boolean) and (true is System.Boolean)", [True]),
        ("managingOrganization.resolve().name", ["Burgers"]),
        ("contained.id in ('o' | 'p')", [True]),
        ("descendants().reference", ["#o"]),
        ("children().count() > id.count()", [True]),
        ("name.all(given.exists())", [True]),
        ("name.use.isDistinct()", [True]),
        ("iif(active, 'yes', 'no')", ["yes"]),
        ("name.given.aggregate($total + 1, 0)", [4]),
        ("birthDate > @1974-12", []),
        ("birthDate >= @1974-12-25", [True]),
        ("birthDate + 1 month", None),
        ("%resource.id & '-' & {}", ["p-"]),
        ("{} and false", [False]),
        ("{} or false", []),
        ("{} implies true", [True]),
        ("true xor true", [False]),
        ("1 + 2 * 3", [7]),
        ("7 div 2", [3]),
        ("7 / 2", [Decimal("3.5")]),
        ("1 / 0", []),
        ("-1.abs()", [-1]),
        ("(1 | 2 | 2).count()", [2]),
        ("(1 | 2).combine(2 | 3).count()", [4]),
        ("(3 | 1 | 2).sort() = (1 | 2 | 3)", [True]),
        ("name.sort(-use).first().use", ["usual"]),
        ("'a-b'.split('-')", ["a", "b"]),
        ("'abc'.substring(1, 1) + 'abc'.indexOf('c').toString()", ["b2"]),
        ("'x1'.matches('^[a-z]\\\\d$')", [True]),
        ("'aBc' ~ 'ABC'", [True]),
        ("@2020-01-31 + 1 month = @2020-02-29", [True]),
        ("@2020-01-01T10:00:00Z = @2020-01-01T11:00:00+01:00", [True]),
        ("@T10:30 < @T10:31", [True]),
        ("1 'g' = 1000 'mg'", [True]),
        ("1.587.lowBoundary()", [Decimal("1.58650000")]),
        ("@2014.highBoundary(6) = @2014-12", [True]),
        ("`name`.count() // a comment", [2]),
    ],
)
def test_an_expression_gives(expression: str, expected: list[Any] | None) -> None:
    found = evaluate(expression)
    if expected is None:
        assert [navigation.string_of(item) for item in found] == ["1975-01-25"]
    else:
        assert found == expected


def test_elements_know_their_types_by_the_definition() -> None:
    assert evaluate("value", OBSERVATION) == [Quantity(Decimal("185.0"), "[lb_av]")]
    assert evaluate("value > 80 'kg' and value < 90 'kg'", OBSERVATION) == [True]
    assert evaluate("effective < @2020-01-01T09:30:00Z", OBSERVATION) == [True]
    assert evaluate("component.referenceRange.text", OBSERVATION) == ["x"]
    assert evaluate("referenceRange.low < referenceRange.high", OBSERVATION) == [True]


@pytest.mark.parametrize(
    "expression",
    [
        "name.",
        "name where",
        "(name",
        "'x",
        "nonsense()",
        "memberOf('x')",
        "%nobody",
        "where()",
        "1 +",
        "",
        "@20201",
        "name[0",
    ],
)
def test_what_is_not_understood_is_told_before_it_is_tried(expression: str) -> None:
    with pytest.raises(NotFhirPath):
        fhirpath.compiled(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "name.family.abs() > 0",
        "'a' > 1",
        "'x'.matches('(')",
        "name.given.toInteger()",
        "name is Patient",
    ],
)
def test_an_invariant_that_cannot_be_decided_holds(expression: str) -> None:
    node = fhirpath.root(PATIENT)
    assert fhirpath.holds(fhirpath.compiled(expression), node, node, node)


@pytest.mark.parametrize("function", ["truncate", "ceiling", "floor", "round"])
@pytest.mark.parametrize("number", [Decimal("1E+1000000"), {"value": Decimal("1E+1000000"), "code": "mg"}])
def test_a_number_too_long_to_write_out_cannot_be_decided(function: str, number: Any) -> None:
    node = fhirpath.Node(number, "Quantity" if isinstance(number, dict) else "decimal")
    with pytest.raises(Undecided):
        fhirpath.compiled(f"{function}()")(node)


def test_a_duration_too_long_to_write_out_cannot_be_decided() -> None:
    age = fhirpath.Node({"value": Decimal("1E+1000000"), "code": "year"}, "Quantity")
    with pytest.raises(Undecided):
        fhirpath.compiled("@2020-01-01 + $this")(age)


def test_a_contained_resource_of_no_type_of_r4_has_none_here() -> None:
    node = fhirpath.root({**PATIENT, "contained": [{"resourceType": "Nonsense"}, {"resourceType": ["Patient"]}]})
    assert [n.type for n in navigation.child([node], "contained")] == ["", ""]


def test_this_and_index_are_those_of_the_innermost_function() -> None:
    assert evaluate("name.where($index = 1).given.first()") == ["Jim"]
    assert evaluate("name.where(given.where($this = 'Jim').exists()).use") == ["usual"]
    assert evaluate("name.given.select(iif($this = 'Jim', $index, {}))") == [2]
