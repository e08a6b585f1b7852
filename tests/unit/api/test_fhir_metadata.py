"""The CapabilityStatement tells what the server does: it is made from the tables that the server works by."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.terminologycapabilities import TerminologyCapabilities

from wetread.api.fhir_metadata import SUPPORTED_PROFILES, capability_statement, terminology_capabilities
from wetread.record.operations.operations import OPERATIONS
from wetread.record.search import includes
from wetread.record.search.parameters import resource_types

CONFORMANCE = Path(__file__).parents[3] / "conformance"
BASE = "https://wetread.example/fhir"
MODES = {
    "full": "CapabilityStatement",
    "normative": "CapabilityStatement",
    "terminology": "TerminologyCapabilities",
}
AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def rest() -> dict[str, Any]:
    found: dict[str, Any] = capability_statement(BASE, AT)["rest"][0]
    return found


def of(rest: dict[str, Any], resource_type: str) -> dict[str, Any]:
    [found] = [r for r in rest["resource"] if r["type"] == resource_type]
    return dict(found)


def test_both_statements_are_valid_fhir() -> None:
    CapabilityStatement.model_validate(capability_statement(BASE, AT, topics=["https://wetread.org/fhir/x"]))
    TerminologyCapabilities.model_validate(terminology_capabilities(BASE, AT))


def test_every_stored_type_is_told_and_the_audit_record_is_read_only(rest: dict[str, Any]) -> None:
    assert {r["type"] for r in rest["resource"]} == resource_types() | {"AuditEvent"}
    assert [i["code"] for i in of(rest, "AuditEvent")["interaction"]] == ["read", "search-type"]


def test_no_name_is_told_twice(rest: dict[str, Any]) -> None:
    for resource in rest["resource"]:
        for key in ("searchParam", "operation"):
            names = [entry["name"] for entry in resource.get(key, ())]
            assert len(names) == len(set(names)), resource["type"]
        for key in ("searchInclude", "searchRevInclude"):
            assert len(resource.get(key, ())) == len(set(resource.get(key, ()))), resource["type"]


def test_what_refers_to_a_type_can_be_included_in_reverse(rest: dict[str, Any]) -> None:
    assert "DiagnosticReport:imagingStudy" in of(rest, "DiagnosticReport")["searchInclude"]
    assert "DiagnosticReport:imagingStudy" in of(rest, "ImagingStudy")["searchRevInclude"]
    assert "DiagnosticReport:imagingStudy" not in of(rest, "Patient")["searchRevInclude"]


def test_every_include_told_is_one_that_a_search_takes(rest: dict[str, Any]) -> None:
    for resource in rest["resource"]:
        for value in resource.get("searchInclude", ()):
            includes.parse("_include", value)
        for value in resource.get("searchRevInclude", ()):
            includes.parse("_revinclude", value)


def test_every_operation_stands_where_it_can_be_called(rest: dict[str, Any]) -> None:
    told = {(r["type"], o["definition"]) for r in rest["resource"] for o in r.get("operation", ())}
    for operation in OPERATIONS:
        types = resource_types() if operation.resource_type == "Resource" else {operation.resource_type}
        assert {(t, operation.url) for t in types} <= told
    assert "export" in [o["name"] for o in rest["operation"]]


def test_update_as_create_is_told_as_configured() -> None:
    for may in (True, False):
        made = capability_statement(BASE, AT, update_create=may)["rest"][0]
        assert of(made, "Observation")["updateCreate"] is may


def test_topics_stand_on_subscription() -> None:
    made = capability_statement(BASE, AT, topics=["https://wetread.org/fhir/SubscriptionTopic/task-status"])["rest"][0]
    assert [e["valueCanonical"] for e in of(made, "Subscription")["extension"]] == [
        "https://wetread.org/fhir/SubscriptionTopic/task-status"
    ]


def test_subscriptions_are_told_as_the_backport_asks_for() -> None:
    backport = "http://hl7.org/fhir/uv/subscriptions-backport"
    made = capability_statement(BASE, AT)
    assert f"{backport}/CapabilityStatement/backport-subscription-server-r4" in made["instantiates"]
    rest = made["rest"][0]
    [websocket] = rest["extension"]
    assert websocket["url"] == "http://hl7.org/fhir/StructureDefinition/capabilitystatement-websocket"
    assert websocket["valueUri"] == "wss://wetread.example/fhir/websocket"
    told = of(rest, "Subscription")
    assert f"{backport}/StructureDefinition/backport-subscription" in told["supportedProfile"]
    assert {"read", "create", "update", "delete"} <= {each["code"] for each in told["interaction"]}
    assert {"url", "status"} <= {each["name"] for each in told["searchParam"]}
    operations = {each["name"]: each["definition"] for each in told["operation"]}
    for code in ("status", "events", "get-ws-binding-token"):
        assert operations[code] == f"{backport}/OperationDefinition/backport-subscription-{code}"


def test_the_profiles_told_are_those_that_are_shipped() -> None:
    shipped = [json.loads(file.read_text()) for file in CONFORMANCE.glob("structuredefinition-*.json")]
    profiles = {(p["type"], p["id"]) for p in shipped if p["type"] != "Extension"}
    assert {(of_type, name) for of_type, names in SUPPORTED_PROFILES.items() for name in names} == profiles


async def test_the_statements_are_asked_for_by_mode(fhir_client: httpx.AsyncClient) -> None:
    answers = {mode: await fhir_client.get("metadata", params={"mode": mode}) for mode in (*MODES, "half")}
    assert {mode: answers[mode].json()["resourceType"] for mode in MODES} == MODES
    assert answers["half"].status_code == 400
    assert answers["half"].json()["resourceType"] == "OperationOutcome"
