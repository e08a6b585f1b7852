"""People and machines at a running server: let in by its commands, and shut out again by them."""

from __future__ import annotations

import time

import httpx

from tests.flow.conftest import Hospital
from tests.forms import hidden

PASSWORD = "correct horse battery staple"
SOON_S = 3.0
"""A revocation counts within about a second; the rest is for a busy machine."""


def _sign_in(browser: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    page = browser.get("/login")
    return browser.post("/login", data={**hidden(page, "/login"), "name": name, "password": password})


def _status_soon(machine: httpx.Client, path: str, status: int) -> bool:
    end = time.monotonic() + SOON_S
    while time.monotonic() < end:
        if machine.get(path).status_code == status:
            return True
        time.sleep(0.1)
    return False


def test_a_person_signs_in_reads_what_the_role_opens_and_is_shut_out(hospital: Hospital) -> None:
    hospital.command("user", "add", "marie", "--role", "radiologist", typed=f"{PASSWORD}\n")
    with httpx.Client(base_url=hospital.server.url) as browser:
        assert _sign_in(browser, "marie", "wrong horse battery staple").status_code == 401
        assert _sign_in(browser, "marie").headers["location"] == "/worklist"
        assert browser.get("/worklist").status_code == 200
        assert browser.get("/fhir/Observation").status_code == 200
        assert browser.get("/fhir/AuditEvent").status_code == 403
        assert browser.post("/fhir/Patient", json={"resourceType": "Patient"}).status_code == 401
        assert browser.get("/account").status_code == 200

        hospital.command("user", "disable", "marie")
        assert browser.get("/worklist").status_code == 303
        assert browser.get("/fhir/Observation").status_code == 401
        assert _sign_in(browser, "marie").status_code == 401
    logins = hospital.search("AuditEvent", agent="marie", subtype="110122")
    assert sorted(event["outcome"] for event in logins) == ["0", "4"]
    changes = hospital.search("AuditEvent", entity="marie", subtype="110137")
    assert len(changes) == 2


def test_a_machine_comes_with_its_key_from_its_network_until_the_client_is_disabled(hospital: Hospital) -> None:
    hospital.command("client", "add", "registry", "--kind", "symmetric", "--scope", "system/*.rs")
    key = hospital.command("client", "key", "registry", "--expires", "1d", "--scope", "system/Patient.rs").strip()
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=hospital.server.url, headers=headers) as machine:
        assert _status_soon(machine, "/fhir/Patient", 200)
        assert machine.get("/fhir/Observation").status_code == 403
        hospital.command("client", "disable", "registry")
        assert _status_soon(machine, "/fhir/Patient", 401)
