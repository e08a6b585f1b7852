"""FHIRPath Patch (FHIR R4 fhirpatch.html): the public suite, decimals' digits, and what is refused."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from wetread.errors import Inapplicable, InvalidInput, TooLarge, WetreadError
from wetread.record import fhirpath_patch, lossless
from wetread.record.validation.validate import InvalidResource

SUITE = Path(__file__).parents[2] / "data/fhirpath-patch/cases.json"
CASES = json.loads(SUITE.read_text(encoding="utf-8"))


def operation(kind: str, path: str, **parts: Any) -> dict[str, Any]:
    """`value` is a part's value[x] (`{"valueCode": "male"}`); the others are plain."""
    made: list[dict[str, Any]] = [{"name": "type", "valueCode": kind}, {"name": "path", "valueString": path}]
    for name, value in parts.items():
        key = "valueInteger" if isinstance(value, int) else "valueString"
        made.append({"name": name, **(value if isinstance(value, dict) else {key: value})})
    return {"name": "operation", "part": made}


def patched(content: dict[str, Any], *operations: dict[str, Any]) -> dict[str, Any]:
    parameters = lossless.parse(lossless.dump({"resourceType": "Parameters", "parameter": list(operations)}))
    return fhirpath_patch.applied(lossless.parse(lossless.dump(content)), fhirpath_patch.parsed(parameters))


def test_the_suite_is_there() -> None:
    assert len(CASES) == 33


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_public_suite_holds(case: dict[str, Any]) -> None:
    operations = fhirpath_patch.parsed(case["diff"])
    if "error" in case:
        with pytest.raises(WetreadError):
            fhirpath_patch.applied(case["input"], operations)
    else:
        assert fhirpath_patch.applied(case["input"], operations) == case["output"]


PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p",
    "birthDate": "1974-12-25",
    "name": [
        {"use": "official", "given": ["Ann", "Bea"], "_given": [None, {"id": "b"}]},
        {"use": "usual", "given": ["Cleo"]},
    ],
    "multipleBirthInteger": 2,
    "contained": [{"resourceType": "Organization", "id": "o", "name": "Burgers"}],
}


def test_a_primitive_keeps_its_sibling_wherever_its_list_goes() -> None:
    given = "Patient.name.where(use = 'official').given"
    after = patched(
        PATIENT,
        operation("move", given, source=1, destination=0),
        operation("insert", given, index=1, value={"valueString": "Dee", "_valueString": {"id": "d"}}),
    )
    name = after["name"][0]
    assert (name["given"], name["_given"]) == (["Bea", "Dee", "Ann"], [{"id": "b"}, {"id": "d"}, None])
    after = patched(PATIENT, operation("delete", f"{given}[1]"))
    assert after["name"][0] == {"use": "official", "given": ["Ann"]}


def test_a_primitive_gets_and_loses_an_extension() -> None:
    extension = {"url": "urn:x", "valueCode": "y"}
    parts = {"part": [{"name": "url", "valueUri": "urn:x"}, {"name": "value", "valueCode": "y"}]}
    after = patched(PATIENT, operation("add", "Patient.birthDate", name="extension", value=parts))
    assert after["_birthDate"] == {"extension": [extension]}
    assert after["birthDate"] == "1974-12-25"
    assert patched(after, operation("delete", "Patient.birthDate.extension('urn:x')")) == PATIENT


def test_a_choice_changes_its_type_and_is_there_once() -> None:
    after = patched(PATIENT, operation("replace", "Patient.multipleBirth", value={"valueBoolean": True}))
    assert after["multipleBirthBoolean"] is True
    assert "multipleBirthInteger" not in after
    with pytest.raises(Inapplicable):
        patched(PATIENT, operation("add", "Patient", name="multipleBirth", value={"valueBoolean": True}))


def test_a_contained_resource_is_part_of_the_resource() -> None:
    after = patched(
        PATIENT,
        operation("replace", "Patient.contained.where(id = 'o').name", value={"valueString": "Chips"}),
        operation("add", "Patient", name="contained", value={"resource": {"resourceType": "Practitioner", "id": "b"}}),
    )
    assert [c.get("name") for c in after["contained"]] == ["Chips", None]


def test_decimals_keep_their_digits_wherever_they_go() -> None:
    content = {"resourceType": "Observation", "valueQuantity": {"value": Decimal("1.50")}}
    quantity = {"valueQuantity": {"value": Decimal("0.0100"), "unit": "g"}}
    parts = {"part": [{"name": "code", "valueCodeableConcept": {"text": "x"}}, {"name": "value", **quantity}]}
    after = patched(content, operation("add", "Observation", name="component", value=parts))
    assert lossless.dump(after["valueQuantity"]) == '{"value":1.50}'
    assert lossless.dump(after["component"][0]["valueQuantity"]) == '{"value":0.0100,"unit":"g"}'


def test_what_is_done_again_is_done_the_same() -> None:
    contact = {"part": [{"name": "gender", "valueCode": "male"}]}
    adds = (
        operation("add", "Patient", name="contact", value=contact),
        operation("replace", "Patient.contact[0].gender", value={"valueCode": "female"}),
    )
    operations = fhirpath_patch.parsed({"resourceType": "Parameters", "parameter": list(adds)})
    for _ in range(2):
        after = fhirpath_patch.applied({"resourceType": "Patient"}, operations)
        assert after["contact"] == [{"gender": "female"}]


def test_deleting_what_is_not_there_is_no_fault() -> None:
    assert patched(PATIENT, operation("delete", "Patient.photo[3]")) == PATIENT


@pytest.mark.parametrize(
    "refused",
    [
        operation("add", "Patient.photo", name="title", value={"valueString": "x"}),
        operation("add", "Patient", name="nonsense", value={"valueString": "x"}),
        operation("add", "Patient", name="birthDate", value={"valueDate": "2000"}),
        operation("replace", "Patient", value={"valueString": "x"}),
        operation("delete", "Patient"),
        operation("delete", "Patient.name"),
        operation("delete", "Patient.name.given.count()"),
        operation("delete", "Patient.name.where(given > 1)"),
        operation("insert", "Patient.name", index=3, value={"valueHumanName": {"text": "x"}}),
        operation("insert", "Patient.name", index=-1, value={"valueHumanName": {"text": "x"}}),
        operation("insert", "Patient.name[0]", index=0, value={"valueHumanName": {"text": "x"}}),
        operation("insert", "Patient.name.given", index=0, value={"valueString": "x"}),
        operation("insert", "Patient.birthDate", index=0, value={"valueDate": "2000"}),
        operation("insert", "Patient.photo", index=0, value={"valueAttachment": {"title": "x"}}),
        operation("move", "Patient.name", source=2, destination=0),
    ],
)
def test_what_the_resource_has_no_place_for_is_refused(refused: dict[str, Any]) -> None:
    with pytest.raises(Inapplicable) as caught:
        patched(PATIENT, refused)
    assert caught.value.location == "Parameters.parameter[0]"


@pytest.mark.parametrize(
    "refused",
    [
        operation("spam", "Patient"),
        operation("replace", "Patient.birthDate"),
        operation("delete", "Patient.name[["),
        operation("delete", "(" * 900 + "Patient" + ")" * 90),
        operation("delete", "Patient.name.descendants()"),
        operation("delete", "Patient.name.where(text.matches('(a+)+$'))"),
        operation("delete", "Patient.name.where(%resource.id = 'p')"),
        operation("delete", "Patient" + ".name" * 300),
        operation("move", "Patient.name", source="1", destination=0),
        operation("delete", "Patient.birthDate", extra="x"),
        operation("add", "Patient", name="name", value={"valueIdentifier": {"value": "x"}}),
        operation("add", "Patient", name="birthDate", value={"valuePeriod": {"start": "2000"}}),
        operation("add", "Patient", name="deceased", value={"valueString": "x"}),
        operation("add", "Patient", name="contact", value={"valueHumanName": {"text": "x"}}),
        operation("add", "Patient", name="contact", value={"part": [{"name": "nonsense", "valueString": "x"}]}),
        operation("add", "Patient", name="name", value={"resource": {"resourceType": "Practitioner"}}),
        {"name": "other", "valueString": "x"},
    ],
)
def test_what_is_no_patch_is_refused_where_it_is_wrong(refused: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        patched({"resourceType": "Patient"}, refused)
    assert (caught.value.location or "").startswith("Parameters.parameter[0]")


def test_a_patch_is_a_parameters_resource_and_a_valid_one() -> None:
    with pytest.raises(InvalidInput):
        fhirpath_patch.parsed(PATIENT)
    with pytest.raises(InvalidResource):
        fhirpath_patch.parsed({"resourceType": "Parameters", "parameter": [{"name": "operation", "part": {}}]})
    with pytest.raises(TooLarge):
        fhirpath_patch.parsed({"resourceType": "Parameters", "parameter": [{"name": "operation"}] * 1001})
