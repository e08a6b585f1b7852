"""The code systems that are shipped hold every code of our own that documents use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.codesystem import CodeSystem

from wetread.domain.codes import WETREAD, Coded
from wetread.results import vocabulary

CONFORMANCE = Path(__file__).parents[3] / "conformance"


def shipped(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CONFORMANCE / name).read_text())
    return loaded


def test_every_code_of_our_own_is_in_the_shipped_code_system_under_the_same_words() -> None:
    concepts = {c["code"]: c["display"] for c in shipped("codesystem-wetread.json")["concept"]}
    used = [c for c in vars(vocabulary).values() if isinstance(c, Coded) and c.system == WETREAD]
    assert used
    for coded in used:
        assert concepts[coded.code] == coded.display


def test_our_codes_fit_a_dicom_code_value() -> None:
    """Code Value (0008,0100) is SH: 16 characters; beyond, old readers see none (PS3.3 8.1)."""
    for coded in vars(vocabulary).values():
        if isinstance(coded, Coded):
            assert len(coded.code) <= 16
            assert len(coded.display) <= 64


@pytest.mark.parametrize("name", ["codesystem-wetread.json", "codesystem-v3-observationvalue-supplement.json"])
def test_the_code_systems_are_valid_fhir(name: str) -> None:
    system = shipped(name)
    CodeSystem.model_validate(system)
    assert system.get("count", len(system["concept"])) == len(system["concept"])


def test_the_security_label_of_ai_output_is_shipped() -> None:
    system = shipped("codesystem-v3-observationvalue-supplement.json")
    assert system["url"] == "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
    assert "AIAST" in [c["code"] for c in system["concept"]]
