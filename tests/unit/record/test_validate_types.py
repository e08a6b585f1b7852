"""R4 as it is judged at writing. What is taken and what is refused here, the HL7 validator takes and refuses alike."""

from __future__ import annotations

import time
from typing import Any

import pytest

from wetread.record.validation import validate

LINK = {"reference": "#p"}
PATIENT = {"resourceType": "Patient", "id": "p"}
MISSING = {"extension": [{"url": "urn:x", "valueString": "y"}]}


def observation(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, **more}


def narrative(text: str) -> dict[str, str]:
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{text}</div>'}


def patient(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", **more}


def condition(status: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Condition", "subject": {"reference": "Patient/1"}, "clinicalStatus": status}


CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
TAKEN = {
    "the least": observation(),
    "a year": observation(effectiveDateTime="2020"),
    "a leap day": observation(effectiveDateTime="2020-02-29"),
    "a leap second": observation(effectiveDateTime="2016-12-31T23:59:60Z"),
    "nanoseconds": observation(effectiveDateTime="2020-01-01T10:00:00.123456789+14:00"),
    "text with blanks around it": observation(valueString=" x\n"),
    "a contained resource": observation(contained=[PATIENT], subject=LINK),
    "a contained resource that refers to its container": observation(
        contained=[
            {
                "resourceType": "Provenance",
                "id": "q",
                "target": [{"reference": "#"}],
                "recorded": "2020-01-01T10:00:00Z",
                "agent": [{"who": {"reference": "Practitioner/1"}}],
            }
        ]
    ),
    "a reference by identifier": observation(subject={"identifier": {"value": "1"}}),
    "a reference into another server": observation(subject={"reference": "https://x.example/fhir/Patient/1"}),
    "a urn": observation(subject={"reference": "urn:uuid:6b2d6a5e-7e2c-4f5e-9f0b-0123456789ab"}),
    "a conditional reference": observation(subject={"reference": "Patient?identifier=x|1"}),
    "a primitive with extensions only": patient(_birthDate=MISSING),
    "an array whose items have value or extensions": patient(name=[{"given": ["a", None], "_given": [None, MISSING]}]),
    "siblings of the first values only": patient(name=[{"given": ["a", "b"], "_given": [{"id": "x"}]}]),
    "an extension within an extension": patient(
        extension=[{"url": "urn:x", "extension": [{"url": "y", "valueCode": "z"}]}]
    ),
    "base64 in lines": {"resourceType": "Binary", "contentType": "text/plain", "data": "YWJj\n ZGVm"},
    "an uncommon tag of a narrative": observation(text=narrative("<blockquote><abbr title='t'>x</abbr></blockquote>")),
    "an empty array of primitives": patient(name=[{"family": "x", "given": []}], address=[{"city": "x", "line": []}]),
    "a narrative that is a picture": observation(text=narrative("<img src='#x' alt='x'/>")),
    "a required code by its system": condition({"coding": [{"system": CLINICAL, "code": "active"}]}),
    "a type that R4B changed": {"resourceType": "PlanDefinition", "status": "draft"},
    "a type that R4B has not": {
        "resourceType": "EffectEvidenceSynthesis",
        "status": "draft",
        "population": {"reference": "EvidenceVariable/1"},
        "exposure": {"reference": "EvidenceVariable/1"},
        "exposureAlternative": {"reference": "EvidenceVariable/2"},
        "outcome": {"reference": "EvidenceVariable/3"},
    },
    "a range of times to the day": observation(effectivePeriod={"start": "2020-01-01", "end": "2020-01-01"}),
}

SYSTEM = {"system": "urn:x", "code": "y"}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a day that is none": (
        observation(effectiveDateTime="2021-02-29"),
        "value",
        "Observation.effective.ofType(dateTime)",
    ),
    "a time without a zone": (observation(issued="2020-01-01T10:00:00"), "value", "Observation.issued"),
    "a number as text": (
        observation(valueQuantity={"value": "1"}),
        "value",
        "Observation.value.ofType(Quantity).value",
    ),
    "a fraction for an integer": (observation(valueInteger=1.5), "value", "Observation.value.ofType(integer)"),
    "an integer of 33 bits": (observation(valueInteger=2**31), "value", "Observation.value.ofType(integer)"),
    "zero for a positive": (patient(telecom=[{"system": "phone", "rank": 0}]), "value", "Patient.telecom[0].rank"),
    "a blank in a uri": (observation(implicitRules="http://x y"), "value", "Observation.implicitRules"),
    "an OID with a leading zero": (
        patient(identifier=[{"system": "urn:oid:1.02.3"}]),
        "value",
        "Patient.identifier[0].system",
    ),
    "an id with an underscore": (observation(id="a_b"), "value", "Observation.id"),
    "an id of 65 characters": (observation(id="a" * 65), "value", "Observation.id"),
    "a code with blanks around it": (observation(status=" final"), "value", "Observation.status"),
    "no text at all": (observation(valueString=""), "value", "Observation.value.ofType(string)"),
    "base64 cut short": (
        {"resourceType": "Binary", "contentType": "text/plain", "data": "YWJ"},
        "value",
        "Binary.data",
    ),
    "an empty array for what is required": (
        {
            "resourceType": "CoverageEligibilityRequest",
            "status": "active",
            "purpose": [],
            "patient": {"reference": "Patient/1"},
            "created": "2020",
            "insurer": {"reference": "Organization/1"},
        },
        "required",
        "CoverageEligibilityRequest.purpose",
    ),
    "null": (observation(note=None), "structure", "Observation.note"),
    "an empty array": (observation(note=[]), "structure", "Observation.note"),
    "an empty element": (observation(category=[{}]), "invariant", "Observation.category[0]"),
    "one for an array": (observation(category={"text": "x"}), "structure", "Observation.category"),
    "an array for one": (observation(method=[{"text": "x"}]), "structure", "Observation.method"),
    "neither value nor extensions": (patient(name=[{"given": ["a", None]}]), "value", "Patient.name[0].given[1]"),
    "an unknown element": (
        observation(component=[{"code": {"text": "x"}, "bogus": 1}]),
        "structure",
        "Observation.component[0].bogus",
    ),
    "a sibling of what is no primitive": (observation(_code={"id": "x"}), "structure", "Observation._code"),
    "two forms of a choice": (observation(valueString="a", valueBoolean=True), "structure", "Observation"),
    "a missing choice": (
        {"resourceType": "MedicationStatement", "status": "active", "subject": LINK | {"reference": "Patient/1"}},
        "required",
        "MedicationStatement.medication",
    ),
    "a form that the choice has not": (
        observation(valueAddress={"city": "x"}),
        "structure",
        "Observation.valueAddress",
    ),
    "another type than R4 lets it point to": (
        observation(subject={"reference": "Practitioner/1"}),
        "invalid",
        "Observation.subject",
    ),
    "a contained resource of another type": (
        observation(contained=[{"resourceType": "Practitioner", "id": "p"}], subject=LINK),
        "invalid",
        "Observation.subject",
    ),
    "a type that is not the reference's": (
        observation(subject={"reference": "Patient/1", "type": "Device"}),
        "invalid",
        "Observation.subject.type",
    ),
    "a link to nothing": (observation(subject={"reference": "#q"}), "invariant", "Observation.subject"),
    "contained and not referred to": (observation(contained=[PATIENT]), "invariant", "Observation.contained[0]"),
    "contained in contained": (
        observation(contained=[PATIENT | {"contained": [PATIENT | {"id": "q"}]}], subject=LINK),
        "invariant",
        "Observation.contained[0]",
    ),
    "a contained resource with a version": (
        observation(contained=[PATIENT | {"meta": {"versionId": "1"}}], subject=LINK),
        "invariant",
        "Observation.contained[0]",
    ),
    "a code of another value set": (observation(status="active"), "code-invalid", "Observation.status"),
    "no coding of the required set": (condition({"coding": [SYSTEM]}), "code-invalid", "Condition.clinicalStatus"),
    "text in place of a required coding": (condition({"text": "active"}), "code-invalid", "Condition.clinicalStatus"),
    "an extension with both": (
        patient(extension=[{"url": "urn:x", "valueCode": "z", "extension": [{"url": "y", "valueCode": "z"}]}]),
        "invariant",
        "Patient.extension[0]",
    ),
    "an extension with neither": (patient(extension=[{"url": "urn:x"}]), "invariant", "Patient.extension[0]"),
    "an extension's relative url": (
        patient(extension=[{"url": "x", "valueCode": "z"}]),
        "value",
        "Patient.extension[0].url",
    ),
    "an id given twice": (
        observation(category=[{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]),
        "invariant",
        "Observation.category[1].id",
    ),
    "an identifier's relative system": (
        patient(identifier=[{"system": "x", "value": "1"}]),
        "value",
        "Patient.identifier[0].system",
    ),
    "a script": (observation(text=narrative("<script>x</script>")), "invariant", "Observation.text.div"),
    "an event handler": (observation(text=narrative("<p onclick='x()'>x</p>")), "invariant", "Observation.text.div"),
    "a link that is a script": (
        observation(text=narrative("<a href='javascript:x()'>x</a>")),
        "invariant",
        "Observation.text.div",
    ),
    "an HTML entity": (observation(text=narrative("a&nbsp;b")), "invariant", "Observation.text.div"),
    "an open tag": (observation(text=narrative("<p>x")), "invariant", "Observation.text.div"),
    "a narrative of blanks": (observation(text=narrative(" <p> </p>")), "invariant", "Observation.text.div"),
    "a value and why there is none": (
        observation(valueString="x", dataAbsentReason={"text": "y"}),
        "invariant",
        "Observation",
    ),
    "an end before its start": (
        observation(effectivePeriod={"start": "2020-01-02", "end": "2020-01-01"}),
        "invariant",
        "Observation.effective.ofType(Period)",
    ),
    "a code without a system": (
        observation(valueQuantity={"value": 1, "code": "mg"}),
        "invariant",
        "Observation.value.ofType(Quantity)",
    ),
    "a comparator in a range": (
        observation(referenceRange=[{"low": {"value": 1, "comparator": "<"}}]),
        "structure",
        "Observation.referenceRange[0].low.comparator",
    ),
    "a range that says nothing": (
        observation(referenceRange=[{"type": {"text": "x"}}]),
        "invariant",
        "Observation.referenceRange[0]",
    ),
    "an organization without name": ({"resourceType": "Organization", "active": True}, "invariant", "Organization"),
    "a home address of an organization": (
        {"resourceType": "Organization", "name": "x", "address": [{"use": "home"}]},
        "invariant",
        "Organization.address[0]",
    ),
    "a period without its unit": (
        {
            "resourceType": "ServiceRequest",
            "status": "active",
            "intent": "order",
            "subject": {"reference": "Patient/1"},
            "occurrenceTiming": {"repeat": {"period": 1}},
        },
        "invariant",
        "ServiceRequest.occurrence.ofType(Timing).repeat",
    ),
    "a fault deep in a Bundle": (
        {
            "resourceType": "Bundle",
            "type": "collection",
            "entry": [
                {"fullUrl": "urn:uuid:6b2d6a5e-7e2c-4f5e-9f0b-0123456789ab", "resource": observation(status="x")}
            ],
        },
        "code-invalid",
        "Bundle.entry[0].resource.status",
    ),
    "a relative fullUrl": (
        {"resourceType": "Bundle", "type": "collection", "entry": [{"fullUrl": "Patient/1", "resource": PATIENT}]},
        "value",
        "Bundle.entry[0].fullUrl",
    ),
}


@pytest.mark.parametrize("content", TAKEN.values(), ids=TAKEN.keys())
def test_it_is_taken(content: dict[str, Any]) -> None:
    assert validate.issues(content) == []


@pytest.mark.parametrize(("content", "code", "expression"), REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused_by_kind_and_place(content: dict[str, Any], code: str, expression: str) -> None:
    found = validate.issues(content)
    assert ("error", code, expression) in [(i.severity, i.code, i.expression) for i in found], found


@pytest.mark.parametrize(
    "text",
    [
        "<a href='java&#9;script:alert(1)'>x</a>",
        "<a href='&#10; JAVAscript:alert(1)'>x</a>",
        "<a href='data:text/html,x'>x</a>",
        "<img src='data:image/svg+xml;base64,eA==' alt='x'/>",
        "x<!--><img src=x onerror=alert(1)>-->",
        "x<!---><img src=x onerror=alert(1)>-->",
        "<![CDATA[<img src=x onerror=alert(1)>]]>",
        "x<?php alert(1)?>",
    ],
)
def test_a_narrative_that_a_browser_would_run_is_refused(text: str) -> None:
    assert [(i.code, i.expression) for i in validate.issues(observation(text=narrative(text)))] == [
        ("invariant", "Observation.text.div")
    ]


def test_a_narrative_may_carry_a_picture_and_a_comment() -> None:
    shown = narrative("<!-- x --><img src='data:image/png;base64,eA==' alt='x'/><a href='https://x.example/'>x</a>")
    assert validate.issues(observation(text=shown)) == []


def test_what_stands_after_the_last_fault_that_is_told_is_not_presumed_sound() -> None:
    unknown = {f"x{n}": 1 for n in range(60)}
    allergy = {"resourceType": "AllergyIntolerance", **unknown, "clinicalStatus": {"coding": ["x"]}}
    assert len(validate.issues(allergy)) == 50


def test_every_fault_is_told_up_to_a_limit() -> None:
    assert len(validate.issues(patient(birthDate="x", gender="y", active="z"))) == 3
    assert len(validate.issues(observation(note=[{"text": ""}] * 200))) == 50


def test_a_name_that_may_be_content_is_not_repeated() -> None:
    found = validate.issues(patient(**{"Smith, John": 1}))
    assert [i.expression for i in found] == ["Patient"]
    assert "Smith" not in found[0].text


@pytest.mark.parametrize("value", [None, 1, "x", [], True, {"resourceType": 5}, [[]], {"reference": {}}, {"id": []}])
def test_no_json_makes_it_stumble(value: Any) -> None:
    for name in ("subject", "contained", "extension", "code", "status", "text", "valueQuantity", "_status", "meta"):
        validate.issues(observation(**{name: value}))
        validate.issues(observation(component=[{name: value}]))
        validate.issues(
            {
                "resourceType": "Bundle",
                "type": "batch",
                "entry": [{"resource": {"resourceType": "Patient", name: value}}],
            }
        )


def test_content_made_to_be_slow_is_judged_in_a_second_or_two() -> None:
    many = range(2000)
    codes = [{"code": {"coding": [{"system": "s", "code": f"z{n}"}]}, "valueString": "x"} for n in many]
    pairs = observation(valueString="x", component=codes)
    pairs["code"] = {"coding": [{"system": "s", "code": str(n)} for n in many]}
    people = [PATIENT | {"id": str(n)} for n in many]
    links = [{"item": {"reference": f"#{n}"}} for n in many]
    listed = {"resourceType": "List", "status": "current", "mode": "working", "contained": people, "entry": links}
    deep: dict[str, Any] = {"url": "urn:x", "valueString": "x"}
    for _ in range(90):
        deep = {"url": "urn:x", "extension": [deep]}
    slashes = observation(subject={"reference": "/Aa/b#" * 40_000 + "\n\n"})
    start = time.process_time()
    assert [validate.issues(c) for c in (pairs, listed, patient(extension=[deep]))] == [[], [], []]
    validate.issues(slashes)
    assert time.process_time() - start < 5
