"""Who gets in: every door, without a key, with too small a key, and with a false one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from joserfc.jwk import ECKey

from tests.flow.conftest import Hospital, Story, configuration
from tests.ports import free_port
from wetread.access.tokens import Tokens, signing_key
from wetread.app import TOKEN_AUDIENCE

SOME = "00000000-0000-0000-0000-000000000000"
DOORS = (
    ("GET", "/fhir/Patient"),
    ("GET", f"/fhir/Patient/{SOME}"),
    ("GET", f"/fhir/Patient/{SOME}/_history"),
    ("POST", "/fhir/Patient"),
    ("PUT", f"/fhir/Patient/{SOME}"),
    ("DELETE", f"/fhir/Patient/{SOME}"),
    ("POST", "/fhir"),
    ("GET", "/fhir/AuditEvent"),
    ("GET", "/dicom-web/studies"),
    ("POST", "/dicom-web/studies"),
    ("POST", "/hl7/v2"),
    ("GET", "/api/worklist"),
    ("GET", "/api/studies"),
    ("GET", f"/api/studies/{SOME}"),
    ("POST", f"/api/studies/{SOME}/complete"),
    ("POST", f"/api/studies/{SOME}/resolve"),
    ("GET", "/api/messages"),
    ("GET", "/api/messages/1/raw"),
    ("POST", "/api/messages/1/replay"),
    ("GET", "/api/deliveries"),
    ("POST", f"/api/deliveries/{SOME}/revive"),
    ("GET", "/api/models"),
    ("GET", f"/api/runs/{SOME}/picture"),
    ("POST", "/api/governance/models/cxr-pneumonia-peds/phase"),
    ("POST", f"/api/runs/{SOME}/reveal"),
    ("POST", "/api/governance/models/cxr-pneumonia-peds/display"),
    ("GET", "/api/governance/phases"),
    ("GET", "/api/governance/silent/cxr-pneumonia-peds"),
    ("GET", "/api/audit/checkpoints"),
    ("GET", "/metrics"),
)
BODIES = {
    f"/api/studies/{SOME}/resolve": {"service_request_id": None, "reason": "x"},
    "/api/governance/models/cxr-pneumonia-peds/phase": {"phase": "active", "reason": "x"},
    "/api/governance/models/cxr-pneumonia-peds/display": {"display": "on-request", "reason": "x"},
}
PUBLIC = {"/api/audit/keys"}
"""With them anybody can verify a checkpoint."""
OPEN_TO_ANY_TOKEN = {"/metrics"}
"""Counts without patients: any token of the site reads them."""


def _ask(hospital: Hospital, method: str, path: str, token: str | None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if path.startswith("/fhir"):
        headers["Content-Type"] = "application/fhir+json"
        patient = {"resourceType": "Patient", "id": SOME}
        entry = {"resource": patient, "request": {"method": "PUT", "url": f"Patient/{SOME}"}}
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
        body = json.dumps(bundle if path == "/fhir" else patient)
        return httpx.request(method, hospital.server.url + path, headers=headers, content=body)
    if path in BODIES:
        return httpx.request(method, hospital.server.url + path, headers=headers, json=BODIES[path])
    return httpx.request(method, hospital.server.url + path, headers=headers)


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_a_door_stays_shut_without_a_token_and_to_one_that_does_not_open_it(
    hospital: Hospital, method: str, path: str
) -> None:
    assert _ask(hospital, method, path, None).status_code == 401
    narrow = hospital.token(scope="system/Flag.r", roles=())
    expected = 200 if path in OPEN_TO_ANY_TOKEN else 403
    assert _ask(hospital, method, path, narrow).status_code == expected


def test_every_staff_route_is_one_of_these_doors(hospital: Hospital) -> None:
    with hospital.client() as client:
        schema = client.get("/api/openapi.json").json()
    staff = {path for path in schema["paths"] if path.startswith("/api/")}
    known = {path.replace(SOME, "{}").replace("cxr-pneumonia-peds", "{}").replace("/1/", "/{}/") for _, path in DOORS}
    assert {re.sub(r"\{\w+\}", "{}", path) for path in staff} <= known | PUBLIC


def test_public_keys_are_public(hospital: Hospital) -> None:
    assert all("d" not in key for key in _ask(hospital, "GET", "/api/audit/keys", None).json()["keys"])


def test_expired_forged_and_foreign_tokens_open_nothing(hospital: Hospital) -> None:
    own = signing_key(hospital.server.data_dir / "token.key")
    foreign = ECKey.generate_key("P-256", private=True)
    good = Tokens(own, TOKEN_AUDIENCE).issue("test", "system/*.cruds", ("administrator",), timedelta(hours=1)).token
    head, claims, signature = good.split(".")
    false = {
        "expired": Tokens(own, TOKEN_AUDIENCE).issue("test", "system/*.rs", (), timedelta(seconds=-1)).token,
        "of another key": Tokens(foreign, TOKEN_AUDIENCE).issue("test", "system/*.rs", (), timedelta(hours=1)).token,
        "for another server": Tokens(own, "urn:other").issue("test", "system/*.rs", (), timedelta(hours=1)).token,
        "with other claims": f"{head}.{claims[:-4]}AAAA.{signature}",
        "without signature": f"eyJhbGciOiJub25lIn0.{claims}.",
        "cut short": good[:-10],
        "garbage": "x.y.z",
    }
    assert _ask(hospital, "GET", "/fhir/Patient", good).status_code == 200
    for what, token in false.items():
        assert _ask(hospital, "GET", "/fhir/Patient", token).status_code == 401, what


def test_scopes_limit_what_a_token_does(hospital: Hospital) -> None:
    reading = hospital.token(scope="system/Patient.rs system/ImagingStudy.rs", roles=())
    assert _ask(hospital, "GET", "/fhir/Patient", reading).status_code == 200
    for method, path in (
        ("POST", "/fhir/Patient"),
        ("GET", "/fhir/Observation"),
        ("GET", "/fhir/AuditEvent"),
        ("POST", f"/api/studies/{SOME}/complete"),
        ("GET", "/api/messages"),
    ):
        assert _ask(hospital, method, path, reading).status_code == 403, path
    assert _ask(hospital, "GET", "/api/worklist", reading).status_code == 200


def test_a_refusal_is_audited(hospital: Hospital) -> None:
    _ask(hospital, "GET", "/api/messages", hospital.token(scope="system/Flag.r", roles=()))
    denied = hospital.search("AuditEvent", subtype="access-denied")
    assert any("/api/messages" in json.dumps(event) for event in denied)


def test_the_making_of_a_token_is_audited(hospital: Hospital) -> None:
    token = hospital.command("token", "--scope", "system/Patient.rs", "--role", "auditor", "--expires", "5m").strip()
    assert _ask(hospital, "GET", "/fhir/Patient", token).status_code == 200
    [made, *_] = hospital.search("AuditEvent", subtype="ITI-71")
    told = json.dumps(made)
    assert token not in told
    assert {d["type"]: d.get("valueString") for e in made["entity"] for d in e.get("detail", ())}["scope"] == (
        "system/Patient.rs"
    )


def test_the_cookie_of_the_pages_authorises_no_change(hospital: Hospital, story: Callable[[str], Story]) -> None:
    film = story("chest-film-normal")
    hospital.store(film.datasets)
    study = hospital.study_when(film.study_instance_uid)
    with httpx.Client(base_url=hospital.server.url, cookies={"wetread_token": hospital.token()}) as browser:
        assert browser.get("/api/worklist").status_code == 200
        assert browser.post(f"/api/studies/{study['id']}/complete").status_code == 401
        assert browser.post("/fhir/Patient", json={"resourceType": "Patient"}).status_code == 401


def test_mllp_and_dicom_are_not_opened_to_others_without_an_allow_list(
    tmp_path: Path, peer_ports: dict[str, int]
) -> None:
    for section in ("mllp", "dicom"):
        assert f"{section}.host" in _refused(tmp_path, peer_ports, "production", {section: '"0.0.0.0"'})


def test_the_demo_profile_stays_on_this_machine(tmp_path: Path, peer_ports: dict[str, int]) -> None:
    assert "http.host" in _refused(tmp_path, peer_ports, "demo", {"http": '"0.0.0.0"'})
    text = configuration(dict.fromkeys(("http", "mllp", "dicom"), free_port()), peer_ports)
    assert "outbound.destinations.archive" in _serve(tmp_path, text.replace('host = "127.0.0.1"', 'host = "10.0.0.1"'))


def _refused(folder: Path, peer_ports: dict[str, int], profile: str, hosts: dict[str, str]) -> str:
    ports = {name: free_port() for name in ("http", "mllp", "dicom")}
    text = configuration(ports, peer_ports, profile=profile)
    for section, host in hosts.items():
        text = text.replace(f"[{section}]\n", f"[{section}]\nhost = {host}\n")
        if section != "http":
            assert "allow" not in text.split(f"[{section}]")[1].split("[")[0]
    return _serve(folder, text)


def _serve(folder: Path, text: str) -> str:
    """What `wetread serve` says when it refuses to start, with status 2."""
    config = folder / "wetread.toml"
    config.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "wetread", "serve", "--config", str(config), "--data-dir", str(folder / "data")],
        env={k: v for k, v in os.environ.items() if not k.startswith("WETREAD_")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    return done.stderr
