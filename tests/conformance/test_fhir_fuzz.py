"""Schemathesis sends what our OpenAPI document allows, and what it forbids: no answer is a fault of ours, and each is
one that the document tells of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.flow.conftest import running_hospital

from conformance import supply
from wetread.demo import peers

pytestmark = pytest.mark.conformance

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
SECONDS = 600 if os.environ.get("WETREAD_SOAK") else 90
START = "from schemathesis.cli import schemathesis; schemathesis()"


def test_no_request_makes_the_fhir_face_fail(tmp_path: Path) -> None:
    ports = {"archive": 9, "subscriber": 9, "alerts": 9}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WETREAD_", "PYTHON"))}
    with running_hospital(tmp_path, peers.Heard(), ports, "demo") as hospital:
        done = subprocess.run(
            [
                *(sys.executable, "-c", START, "run", f"{hospital.server.url}/fhir/openapi.json"),
                *("--header", f"Authorization: Bearer {hospital.token()}", "--checks", CHECKS, "--seed", "1"),
                *("--max-time", str(SECONDS), "--max-examples", "30", "--phases", "coverage,fuzzing"),
                *("--suppress-health-check", "all", "--warnings", "off", "--continue-on-failure", "--no-color"),
            ],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(supply.schemathesis())},
            capture_output=True,
            text=True,
            timeout=SECONDS + 120,
            check=False,
        )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "passed" in done.stdout
