"""FHIR clients that are not ours use a running server: fhir-kit-client, fhirpy, SMART Python client, smart-fetch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jwt.algorithms import ECAlgorithm
from tests.flow.conftest import Hospital, running_hospital
from tests.smart_apps import Key
from tests.smart_visitor import add_client

from conformance import supply
from wetread.demo import peers

pytestmark = pytest.mark.conformance

FHIR_KIT = (
    "capabilities",
    "create, read, vread",
    "conditional read",
    "update with If-Match",
    "update as create",
    "conditional create",
    "conditional update",
    "patch",
    "delete",
    "history",
    "search by GET and POST",
    "search in a compartment",
    "search over types",
    "chain, _has and _include",
    "paging forward and back",
    "batch",
    "transaction",
    "operations",
    "references are resolved",
    "refusals are outcomes",
)
FHIRPY = (
    "create_read_update_delete",
    "json_patch",
    "merge_patch_is_refused",
    "conditional_update",
    "conditional_delete",
    "conditional_patch",
    "if_match",
    "search",
    "chains",
    "includes",
    "paging",
    "paging_async",
    "transaction",
    "history",
    "operations",
)
SMART_CLIENT = (
    "capabilities",
    "create_read_update_delete",
    "history",
    "search_and_paging",
    "chains_and_includes",
    "batch_and_transaction",
    "operations",
    "refusals",
)


@pytest.fixture(scope="module")
def wetread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    ports = {"archive": 9, "subscriber": 9, "alerts": 9}
    with running_hospital(tmp_path_factory.mktemp("clients"), peers.Heard(), ports, "demo") as running:
        yield running


@pytest.fixture(scope="module")
def python_clients() -> dict[str, str]:
    """The environment of a Python that has the clients, and none of ours."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WETREAD_", "PYTHON"))}
    return {**environment, "PYTHONPATH": str(supply.fhir_clients()), "PYTHONWARNINGS": "ignore"}


def run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.mark.parametrize("scenario", FHIR_KIT)
def test_fhir_kit_client(scenario: str, wetread: Hospital) -> None:
    folder = supply.npm_peers()
    node = supply.program("node", "nodejs")
    run([node, "fhir-kit.mjs", f"{wetread.server.url}/fhir", wetread.token(), scenario], folder)


@pytest.mark.parametrize("scenario", FHIRPY)
def test_fhirpy(scenario: str, wetread: Hospital, python_clients: dict[str, str]) -> None:
    script = "fhirpy_scenarios.py"
    run([sys.executable, script, f"{wetread.server.url}/fhir", wetread.token(), scenario], supply.PINS, python_clients)


@pytest.mark.parametrize("scenario", SMART_CLIENT)
def test_smart_python_client(scenario: str, wetread: Hospital, python_clients: dict[str, str]) -> None:
    script = "smart_client_scenarios.py"
    run([sys.executable, script, f"{wetread.server.url}/fhir", wetread.token(), scenario], supply.PINS, python_clients)


# smart-fetch, which population-health projects fetch with: by bulk export, and by crawling through searches.

_SYSTEM = "urn:oid:2.999.8"
_TYPES = ("Patient", "Encounter", "Condition", "DiagnosticReport", "ServiceRequest", "Observation")


def chart(number: int) -> list[dict[str, Any]]:
    """One patient with a resource of each type, all with ids of our own."""
    subject = {"reference": f"Patient/fetch-{number}"}
    code = {"coding": [{"system": "http://loinc.org", "code": "36643-5"}]}
    category = [
        {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "imaging"}]}
    ]
    resources: list[dict[str, Any]] = [
        {"resourceType": "Patient", "identifier": [{"system": _SYSTEM, "value": f"MRN{number}"}]},
        {"resourceType": "Encounter", "status": "finished", "class": {"code": "AMB"}, "subject": subject},
        {"resourceType": "Condition", "subject": subject, "code": {"text": "cough"}},
        {"resourceType": "DiagnosticReport", "status": "final", "code": code, "subject": subject},
        {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": subject, "code": code},
        *(
            {"resourceType": "Observation", "status": "final", "category": category, "code": code, "subject": subject}
            for _ in range(25)
        ),
    ]
    ids = [f"fetch-{number}", *(f"fetch-{number}-{n}" for n in range(1, len(resources)))]
    return [resource | {"id": id} for resource, id in zip(resources, ids, strict=True)]


@pytest.fixture(scope="module")
def cohort(wetread: Hospital) -> list[dict[str, Any]]:
    """Five charts, and a Group of the first three patients."""
    charts = [chart(number) for number in range(5)]
    members = [{"entity": {"reference": f"Patient/fetch-{n}"}} for n in range(3)]
    group = {"resourceType": "Group", "id": "fetch-group", "type": "person", "actual": True, "member": members}
    resources = [*(resource for one in charts for resource in one), group]
    entries = [
        {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}}
        for one in resources
    ]
    with wetread.client() as client:
        answer = client.post("/fhir", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})
        assert answer.status_code == 200, answer.text
    return resources[:-1]


@pytest.fixture(scope="module")
def by_key(wetread: Hospital, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """How smart-fetch proves itself as a backend service: its id, and its private key as a JWKS."""
    key = Key.ec()
    add_client(wetread, "smart-fetch", "asymmetric", " ".join(f"system/{name}.rs" for name in _TYPES), key)
    private = {**json.loads(ECAlgorithm.to_jwk(key.private)), "kid": key.kid, "alg": key.algorithm}
    file = tmp_path_factory.mktemp("key") / "private.jwks"
    file.write_text(json.dumps({"keys": [{**private, "key_ops": ["sign"]}]}))
    return ["--smart-client-id", "smart-fetch", "--smart-key", str(file)]


@pytest.fixture
def by_token(wetread: Hospital, tmp_path: Path) -> list[str]:
    token = tmp_path / "token"
    token.write_text(wetread.token())
    return ["--bearer-token", str(token)]


def fetched(
    command: str, folder: Path, wetread: Hospital, environment: dict[str, str], proof: list[str], *more: str
) -> dict[str, str]:
    """What smart-fetch wrote: each resource by type and id."""
    output = folder / command
    run(
        [
            sys.executable, "-m", "smart_fetch.cli.main", command, str(output),
            "--fhir-url", f"{wetread.server.url}/fhir", *proof, "--verbose",
            "--type", ",".join(_TYPES), "--no-default-filters", "--no-compression", *more,
        ],
        folder,
        environment,
    )  # fmt: skip
    found = [json.loads(line) for file in output.rglob("*.ndjson") for line in file.read_text().splitlines()]
    return {f"{one['resourceType']}/{one['id']}": one for one in found if one.get("resourceType") in _TYPES}


def test_smart_fetch_gets_the_same_by_bulk_export_and_by_crawling(
    wetread: Hospital,
    python_clients: dict[str, str],
    cohort: list[dict[str, Any]],
    by_key: list[str],
    by_token: list[str],
    tmp_path: Path,
) -> None:
    """The Group by a token with the right to it: smart-fetch asks for scopes of what it fetches, no others."""
    numbers = ",".join(f"MRN{n}" for n in range(3))
    chosen = ["--id-system", _SYSTEM, "--id-list", numbers]
    bulk = fetched("bulk", tmp_path, wetread, python_clients, by_token, "--group", "fetch-group")
    crawl = fetched("crawl", tmp_path, wetread, python_clients, by_key, *chosen)
    of_the_group = {f"{one['resourceType']}/{one['id']}" for one in cohort if one["id"][6] in "012"}
    assert set(bulk) == of_the_group
    assert crawl == bulk


@pytest.mark.parametrize("proof", ["by_key", "by_token"])
def test_smart_fetch_exports_the_whole_system(
    wetread: Hospital,
    python_clients: dict[str, str],
    cohort: list[dict[str, Any]],
    proof: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    found = fetched("bulk", tmp_path, wetread, python_clients, request.getfixturevalue(proof))
    assert {f"{one['resourceType']}/{one['id']}" for one in cohort} <= set(found)
