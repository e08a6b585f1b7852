"""Which profiles of IHE BALP an AuditEvent claims, and who stands in it."""

from dataclasses import replace

import pytest
from tests.balp_events import BACKEND, OPERATOR, PERSON, claiming, event, of_every_kind

from wetread.record.audit.balp import GET_ACCESS_TOKEN, TOKEN_USE
from wetread.record.audit.entry import AuditEntry, Entity

DCM = "http://dicom.nema.org/resources/ontology/DCM"


@pytest.mark.parametrize("name", claiming())
def test_what_succeeded_claims_the_profile_of_its_interaction(name: str) -> None:
    profiles, entry = claiming()[name]
    assert event(entry)["meta"]["profile"] == profiles


@pytest.mark.parametrize("name", claiming())
def test_what_lacks_its_network_or_its_object_or_failed_claims_none_of_them(name: str) -> None:
    _, entry = claiming()[name]
    for change in ({"network": ""}, {"entities": ()}, {"outcome": "4"}):
        assert set(event(replace(entry, **change))["meta"].get("profile", ())) <= {TOKEN_USE}, change


def test_a_failure_of_any_kind_claims_no_more_than_the_use_of_a_token() -> None:
    for kind, entry in of_every_kind().items():
        assert event(entry)["meta"]["profile"] == [TOKEN_USE], kind


def test_app_and_person_both_stand_in_a_read_through_an_app() -> None:
    _, entry = claiming()["read of a patient by a person"]
    agents = {agent["type"]["coding"][0]["code"]: agent for agent in event(entry)["agent"]}
    assert set(agents) == {"110152", "110153", "IRCP", "110150"}
    assert agents["110152"]["who"]["identifier"]["value"] == agents["110150"]["who"]["identifier"]["value"] == "viewer"
    person = agents["IRCP"]
    assert person["who"]["reference"] == "Practitioner/r1"
    assert person["who"]["identifier"]["value"] == person["name"] == "Practitioner/r1"
    assert person["policy"] == ["urn:ietf:params:oauth:jti:0f2e"]
    assert person["role"] == [{"text": "radiologist"}]
    assert [agent["requestor"] for agent in agents.values()] == [False, False, True, False]


def test_a_service_stands_for_itself_and_its_token_with_it() -> None:
    _, entry = claiming()["delete of a patient by a service"]
    client, _ = event(entry)["agent"]
    assert client["type"]["coding"] == [{"system": DCM, "code": "110150", "display": "Application"}]
    assert client["who"]["identifier"]["value"] == "research-app"
    assert (client["requestor"], client["policy"]) == (True, ["urn:ietf:params:oauth:jti:0f2d"])


def test_the_local_operator_is_no_app() -> None:
    codes = [a["type"]["coding"][0]["code"] for a in event(OPERATOR.said_of(AuditEntry("read", "R", "0", "")))["agent"]]
    assert codes == ["110152", "110153"]


def test_a_tokens_issue_holds_its_request_alone_with_all_that_is_told_in_it() -> None:
    _, entry = claiming()["token for viewer"]
    [only] = event(entry)["entity"]
    assert {each["type"]: each["valueString"] for each in only["detail"]} == {
        "token": "0f2e",
        "scope": "user/*.rs",
        "x-request-id": "76d148b6",
    }
    without = replace(entry, entities=())
    assert GET_ACCESS_TOKEN not in event(without)["meta"].get("profile", ())
    assert event(without)["entity"][-1]["detail"][0] == {"type": "token", "valueString": "0f2e"}


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", ("192.0.2.7", "2")),
        ("192.0.2.7:49152", ("192.0.2.7", "2")),
        ("2001:db8::7", ("2001:db8::7", "2")),
        ("[2001:db8::7]:104", ("2001:db8::7", "2")),
        ("fe80::1%eth0", ("fe80::1%eth0", "2")),
        ("pacs.hospital.example", ("pacs.hospital.example", "1")),
        ("pacs.hospital.example:104", ("pacs.hospital.example", "1")),
        ("https://pacs.hospital.example/dicom-web", ("https://pacs.hospital.example/dicom-web", "5")),
    ],
)
def test_a_network_address_has_its_type(address: str, network: tuple[str, str]) -> None:
    client = event(AuditEntry("read", "R", "0", "x", address))["agent"][0]
    assert (client["network"]["address"], client["network"]["type"]) == network


def test_a_search_for_two_objects_claims_nothing_that_it_does_not_keep() -> None:
    queries = (Entity(role_code="24", query=b"/fhir/Patient"), Entity("Patient/p1"))
    entry = BACKEND.said_of(AuditEntry("search-type", "E", "0", "", "192.0.2.7", entities=queries))
    assert event(entry)["meta"]["profile"] == [TOKEN_USE]
    assert "profile" not in event(replace(PERSON.said_of(entry), token_id=""))["meta"]
