"""SMART Backend Services and Token Introspection (SMART App Launch 2.2) at a running server: machines with a key."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.flow.conftest import Hospital, until
from tests.smart_apps import ASSERTION, Key
from tests.smart_visitor import BACK, App, Person, add_client, add_person

REGISTERED = "system/Patient.rs system/Observation.rs introspect"


@dataclass(frozen=True)
class Machine:
    hospital: Hospital
    app: App
    key: Key
    patient: str

    @property
    def audience(self) -> str:
        return str(self.app.configuration["token_endpoint"])

    def token(self, **changed: str | None) -> httpx.Response:
        """A token request as the guide has it, but for what is changed; None leaves a parameter out."""
        form = {
            "grant_type": "client_credentials",
            "scope": "system/Patient.rs",
            "client_assertion_type": ASSERTION,
            "client_assertion": self.key.assertion(self.app.client_id, aud=self.audience),
            **changed,
        }
        return httpx.post(self.audience, data={name: value for name, value in form.items() if value is not None})

    def introspect(self, token: str, bearer: str) -> dict[str, Any]:
        answer = httpx.post(
            self.app.configuration["introspection_endpoint"],
            data={"token": token},
            headers={"Authorization": f"Bearer {bearer}"},
        )
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


@pytest.fixture(scope="module")
def machine(hospital: Hospital) -> Machine:
    with hospital.client() as client:
        made = client.post("/fhir/Patient", json={"resourceType": "Patient", "name": [{"family": "Smartbackend"}]})
        assert made.status_code == 201, made.text
    key = Key.rsa()
    add_client(hospital, "check-backend", "asymmetric", REGISTERED, key)
    return Machine(hospital, App(f"{hospital.server.url}/fhir", "check-backend", key=key), key, made.json()["id"])


class TestBackendServices:
    def test_a_machine_gets_a_short_lived_token_for_what_it_asks_within_what_it_has(self, machine: Machine) -> None:
        answer = machine.token(scope="system/Patient.rs system/Encounter.rs")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        body = answer.json()
        assert (body["token_type"], body["scope"]) == ("Bearer", "system/Patient.rs")
        assert 0 < body["expires_in"] <= 300
        assert "refresh_token" not in body
        assert machine.app.read(body["access_token"], f"Patient/{machine.patient}").json()["id"] == machine.patient
        assert machine.app.read(body["access_token"], "Encounter").status_code == 403

    def test_a_machine_exports_all_that_it_may_with_a_token_by_its_key(self, machine: Machine) -> None:
        token = machine.token(scope="system/Patient.rs").json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        asked = {**headers, "Prefer": "respond-async", "Accept": "application/fhir+json"}
        kicked_off = httpx.get(f"{machine.app.fhir}/$export", headers=asked, timeout=30)
        assert kicked_off.status_code == 202

        def complete() -> httpx.Response | None:
            answer = httpx.get(kicked_off.headers["content-location"], headers=headers, timeout=30)
            return answer if answer.status_code == 200 else None

        manifest = until("the export to be complete", complete).json()
        assert manifest["requiresAccessToken"] is True
        assert {item["type"] for item in manifest["output"]} == {"Patient"}
        (address,) = (item["url"] for item in manifest["output"])
        assert machine.patient in httpx.get(address, headers=headers, timeout=30).text
        assert httpx.get(address, timeout=30).status_code == 401

    def test_what_it_has_not_is_not_given(self, machine: Machine) -> None:
        for scope in ("system/Encounter.rs", "user/Patient.rs", "patient/Patient.rs", "openid"):
            answer = machine.token(scope=scope)
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope"), scope

    def test_a_wildcard_opens_all_types(self, machine: Machine) -> None:
        key = Key.ec()
        add_client(machine.hospital, "check-wildcard", "asymmetric", "system/*.rs", key)
        app = App(machine.app.fhir, "check-wildcard", key=key)
        token = app.token(grant_type="client_credentials", scope="system/*.rs").json()["access_token"]
        for resource_type in ("Patient", "Observation", "ImagingStudy", "Task", "Device"):
            assert app.read(token, resource_type).status_code == 200

    def test_the_letters_of_a_scope_are_what_it_may_do(self, machine: Machine) -> None:
        key = Key.ec()
        add_client(machine.hospital, "check-letters", "asymmetric", "system/Patient.cu", key)
        app = App(machine.app.fhir, "check-letters", key=key)

        def put(scope: str, id: str) -> int:
            token = app.token(grant_type="client_credentials", scope=scope).json()["access_token"]
            headers = {"Authorization": f"Bearer {token}"}
            patient = {"resourceType": "Patient", "id": id}
            return httpx.put(f"{app.fhir}/Patient/{id}", json=patient, headers=headers).status_code

        assert put("system/Patient.u", "smart-upsert") in (200, 201), "an update that creates needs update only"
        assert put("system/Patient.c", "smart-upsert") == 403

    @pytest.mark.parametrize(
        ("changed", "error"),
        [
            ({"grant_type": "not_a_grant_type"}, "unsupported_grant_type"),
            ({"client_assertion_type": "not_an_assertion_type"}, "invalid_client"),
            ({"client_assertion": "not_a_jwt"}, "invalid_client"),
            ({"client_assertion": None, "client_assertion_type": None}, "invalid_client"),
        ],
    )
    def test_a_request_that_is_not_one_is_refused_in_oauths_words(
        self, machine: Machine, changed: dict[str, str | None], error: str
    ) -> None:
        answer = machine.token(**changed)
        assert answer.status_code in (400, 401)
        assert answer.json()["error"] == error

    def test_an_assertion_that_is_over_or_by_another_key_proves_nothing(self, machine: Machine) -> None:
        over = machine.key.assertion("check-backend", aud=machine.audience, exp=int(time.time()) - 120)
        forged = Key.rsa(machine.key.kid).assertion("check-backend", aud=machine.audience)
        for assertion in (over, forged):
            assert machine.token(client_assertion=assertion).json()["error"] == "invalid_client"

    def test_an_assertion_counts_once(self, machine: Machine) -> None:
        proof = machine.key.assertion("check-backend", aud=machine.audience)
        assert machine.token(client_assertion=proof).status_code == 200
        again = machine.token(client_assertion=proof)
        assert again.status_code in (400, 401)
        assert again.json()["error"] == "invalid_client"

    def test_a_secret_opens_nothing_where_the_operator_did_not_register_it_so(self, machine: Machine) -> None:
        scope = "system/Patient.rs"
        secret = add_client(machine.hospital, "check-no-key", "symmetric", scope, grant_types=())
        answer = App(machine.app.fhir, "check-no-key", secret).token(grant_type="client_credentials", scope=scope)
        assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


class TestIntrospection:
    def test_tells_a_machine_what_the_tokens_of_any_client_are(self, machine: Machine) -> None:
        hospital = machine.hospital
        add_person(hospital, "cleo", fhir_user="Practitioner/cleo")
        scope = "openid fhirUser launch patient/Patient.rs"
        add_client(hospital, "check-seen", "public", scope, redirect_uris=[BACK])
        app, person = App(machine.app.fhir, "check-seen"), Person(hospital.server.url, "cleo")
        with hospital.client(scope="user/*.rs", roles=("radiologist",)) as ehr:
            wish = {"client_id": "check-seen", "patient": machine.patient, "intent": "reconcile"}
            launch = ehr.post("/oauth/launch", json=wish).json()["launch"]
        body = app.let_in(person, scope=scope, launch=launch)
        bearer = machine.token(scope="introspect").json()["access_token"]
        told = machine.introspect(body["access_token"], bearer)
        assert told["active"] is True
        assert (told["client_id"], told["scope"]) == ("check-seen", body["scope"])
        assert isinstance(told["exp"], int)
        assert abs(told["exp"] - time.time() - body["expires_in"]) < 60
        for name in ("patient", "intent", "need_patient_banner", "smart_style_url"):
            assert told[name] == body[name]
        assert (told["iss"], told["sub"]) == (app.configuration["issuer"], "cleo")
        assert told["fhirUser"] == f"{app.fhir}/Practitioner/cleo"

    def test_tells_nothing_of_what_is_no_token(self, machine: Machine) -> None:
        bearer = machine.token(scope="introspect").json()["access_token"]
        assert machine.introspect("invented", bearer) == {"active": False}

    def test_is_for_those_who_may(self, machine: Machine) -> None:
        without = machine.token().json()["access_token"]
        endpoint = machine.app.configuration["introspection_endpoint"]
        for headers in ({}, {"Authorization": f"Bearer {without}"}, {"Authorization": "Bearer invented"}):
            answer = httpx.post(endpoint, data={"token": without}, headers=headers)
            assert answer.status_code in (400, 401)
            assert "active" not in answer.json()
