"""What IHE BALP 1.1.5 marks mustSupport or asks for in prose stands in our AuditEvents wherever it is known."""

from dataclasses import replace
from typing import Any

import pytest
from tests.balp_events import AT, claiming, event

PERSONAL = [name for name in claiming() if name.endswith("by a person")]


def agents(made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {agent["type"]["coding"][0]["code"]: agent for agent in made["agent"]}


@pytest.mark.parametrize("name", PERSONAL)
def test_what_is_known_of_app_person_and_source_stands_in_the_event(name: str) -> None:
    _, entry = claiming()[name]
    made = event(replace(entry, outcome_text="three of four were sent"))
    app, *people = (agents(made)[code] for code in ("110150", *(set(agents(made)) & {"IRCP", "AUT"})))
    assert app["who"]["identifier"]["value"] == "viewer"
    assert app["network"] == {"address": "192.0.2.7", "type": "2"}
    (person,) = people
    assert person["who"]["identifier"] == {"system": "urn:wetread:principal", "value": "Practitioner/r1"}
    assert (person["name"], person["role"]) == ("Practitioner/r1", [{"text": "radiologist"}])
    assert made["source"]["observer"]["identifier"]["value"] == "wetread"
    assert made["outcomeDesc"] == "three of four were sent"


@pytest.mark.parametrize("name", PERSONAL)
def test_the_request_id_stands_in_an_entity_of_its_own(name: str) -> None:
    _, entry = claiming()[name]
    named = [each for each in event(entry)["entity"] if each["type"]["code"] == "XrequestId"]
    assert [each["what"] for each in named] == [{"identifier": {"value": "76d148b6"}}]


def test_a_disclosure_tells_who_when_to_whom_of_whom_and_what() -> None:
    _, entry = claiming()["disclosure of a patient by a service"]
    made = event(entry)
    who = agents(made)
    assert who["110153"]["who"] == made["source"]["observer"], "we released it"
    assert who["110152"]["who"]["identifier"]["value"] == "research-app"
    assert made["recorded"] == AT.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    patients = [each["what"]["reference"] for each in made["entity"] if each["type"]["code"] == "1"]
    data = [each["what"]["reference"] for each in made["entity"] if each["type"]["code"] == "2"]
    assert (patients, data) == (["Patient/p1"], ["ImagingStudy/s1"])
