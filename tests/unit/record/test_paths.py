"""The FHIRPath subset of the R4 search parameters."""

from __future__ import annotations

from typing import Any

import pytest

from wetread.errors import Misconfigured
from wetread.record.search import parameters, paths

OBSERVATION = {
    "resourceType": "Observation",
    "subject": {"reference": "Patient/1"},
    "performer": [{"reference": "http://x.org/fhir/Practitioner/2/_history/3"}, {"type": "Organization"}],
    "valueQuantity": {"value": 1},
    "component": [{"valueString": "a"}, {"valueQuantity": {"value": 2}}, {"code": {"text": "no value"}}],
    "telecom": [{"system": "phone", "value": "1"}, {"system": "email", "value": "2"}],
    "extension": [{"url": "urn:x", "valueCode": "c"}, {"url": "urn:y", "valueCode": "d"}],
    "focusType": {"text": "an element of its own, no choice of `focus`"},
    "_status": {"extension": []},
}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("Observation.subject.reference", ["Patient/1"]),
        ("Patient.subject", []),
        ("Resource.subject.reference | Observation.nothing", ["Patient/1"]),
        ("Observation.value", [{"value": 1}]),
        ("(Observation.value as Quantity).value", [1]),
        ("(Observation.value as string)", []),
        ("Observation.component.value.ofType(string)", ["a"]),
        ("Observation.component.value.as(Quantity).value", [2]),
        ("(Observation.value as Quantity) | (Observation.component.value as Quantity)", [{"value": 1}, {"value": 2}]),
        ("Observation.component[1].value.value", [2]),
        ("Observation.component[9]", []),
        ("Observation.subject.where(resolve() is Patient).reference", ["Patient/1"]),
        ("Observation.subject.where(resolve() is Group)", []),
        ("Observation.performer.where(resolve() is Practitioner)", [OBSERVATION["performer"][0]]),  # type: ignore[index]
        ("Observation.performer.where(resolve() is Organization)", [{"type": "Organization"}]),
        ("Observation.telecom.where(system='phone').value", ["1"]),
        ("Observation.extension('urn:x')", ["c"]),
        ("Observation.where(hasExtension('urn:y')).subject.reference", ["Patient/1"]),
        ("Observation.where(hasExtension('urn:z')).subject", []),
        ("Observation.subject.exists() and Observation.subject != false", [True]),
        ("Observation.nothing.exists() and Observation.nothing != false", [False]),
        ("Observation.status", []),
        ("Observation.focus", []),
    ],
)
def test_an_expression_yields(expression: str, expected: list[Any]) -> None:
    assert [node.value for node in paths.compiled(expression)(OBSERVATION)] == expected


@pytest.mark.parametrize(
    ("elements", "deceased"), [({}, False), ({"deceasedBoolean": False}, False), ({"deceasedDateTime": "2020"}, True)]
)
def test_the_one_boolean_expression_of_r4(elements: dict[str, Any], deceased: bool) -> None:
    expression = parameters.parameters_of("Patient")["deceased"].expression
    (node,) = paths.compiled(expression)({"resourceType": "Patient", **elements})
    assert node.value is deceased


def test_every_expression_of_r4_compiles_and_reads_an_empty_resource() -> None:
    count = 0
    for resource_type in parameters.resource_types():
        for parameter in parameters.parameters_of(resource_type).values():
            if parameter.kind != "composite" and parameter.code not in parameters.FULL_TEXT:
                paths.compiled(parameter.expression)({"resourceType": resource_type})
                count += 1
    assert count > 1500


@pytest.mark.parametrize("expression", ["Patient.name.first()", "Patient.", "Patient)", "Patient.name +", "", "("])
def test_what_is_outside_the_subset_is_refused(expression: str) -> None:
    with pytest.raises(Misconfigured):
        paths.compiled(expression)
