"""The FHIR package passes the HL7 validator, which loads it as a package, and others can build on it."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from benchmarks.fhir import servers

from conformance import derived, generate, package, shorthand, supply, validator
from wetread import __version__

pytestmark = pytest.mark.conformance

AI_TRANSPARENCY = Path(__file__).parents[1] / "data" / "aitransparency"
_ON_TOP = """
Profile: ChestObservation
Parent: https://wetread.org/fhir/StructureDefinition/ai-observation
Id: chest-observation
Title: "Chest observation"
Description: "A profile of somebody else's on one of ours."
* bodySite 1..1
* component[certainty] 1..1
* code from https://wetread.org/fhir/ValueSet/ai-finding (required)
"""


def test_the_validator_finds_no_error_in_any_file_of_the_package() -> None:
    resources = [package.implementation_guide(), *package.definitions(), *package.examples()]
    made = {f"{r['resourceType']}/{r['id']}": r for r in resources}
    assert len(made) == len(resources) > 50
    told = validator.errors(validator.validate_resources(made))
    assert not told, "\n".join(told)


def test_the_profiles_are_what_the_shorthand_says() -> None:
    every = shorthand.compiled()
    stale = [name for name, made in every.items() if generate.file_of(made).read_text() != generate.text_of(made)]
    assert not stale, "python -m conformance.generate"


def test_models_and_their_provenance_keep_the_profiles_of_the_hl7_guide(tmp_path: Path) -> None:
    """Those of AI Transparency on FHIR, which our own restate."""
    guide = shorthand.compiled(AI_TRANSPARENCY)
    assert {"StructureDefinition/AI-Device", "StructureDefinition/AI-Provenance"} <= set(guide)
    newer = json.loads((generate.FOLDER / "codesystem-v3-observationvalue-supplement.json").read_text())
    # A slice is told by its value set here, and the validator asks no fragment for a code.
    labels = {**newer, "content": "complete", "version": "2026-01-01"}
    guides = [
        _written(tmp_path / f"guide-{number}.json", each) for number, each in enumerate([*guide.values(), labels])
    ]
    files = []
    for example in package.examples():
        name = {"Device": "AI-Device", "Provenance": "AI-Provenance"}.get(example["resourceType"])
        if name:
            claim = {"profile": [f"http://hl7.org/fhir/uv/aitransparency/StructureDefinition/{name}"]}
            files.append(
                _written(tmp_path / f"{example['id']}.json", {**example, "meta": {**example["meta"], **claim}})
            )
    assert len(files) >= 6
    camera = json.loads(files[0].read_text()) | {"type": {"text": "a camera"}}
    wrong = _written(tmp_path / "wrong.json", camera)
    found = [issue for issue in validator.validate([*files, wrong], guides) if issue.is_error]
    assert {issue.file for issue in found} == {str(wrong)}, "\n".join(map(str, found))


def _written(file: Path, resource: dict[str, Any]) -> Path:
    file.write_text(json.dumps(resource))
    return file


def test_a_profile_of_somebody_else_is_built_on_the_package(tmp_path: Path) -> None:
    """SUSHI takes it from a package cache, as package servers fill it."""
    cache = tmp_path / "home" / ".fhir" / "packages"
    cache.mkdir(parents=True)
    for known in (validator.home() / ".fhir" / "packages").iterdir():
        (cache / known.name).symlink_to(known)
    with tarfile.open(fileobj=io.BytesIO(package.archive())) as archive:
        archive.extractall(cache / f"{package.NAME}#{__version__}", filter="data")
    project = tmp_path / "project"
    (project / "input" / "fsh").mkdir(parents=True)
    (project / "input" / "fsh" / "profile.fsh").write_text(_ON_TOP)
    (project / "sushi-config.yaml").write_text(
        "canonical: https://hospital.example/fhir\nfhirVersion: 4.0.1\nFSHOnly: true\n"
        f"dependencies:\n  {package.NAME}: {__version__}\n"
    )
    done = subprocess.run(
        [supply.program("node", "nodejs"), str(supply.sushi()), "build", str(project), "--snapshot"],
        env={"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "0 Errors" in done.stdout, done.stdout[-3000:]
    made = json.loads((project / "fsh-generated/resources/StructureDefinition-chest-observation.json").read_text())
    elements = {e["id"]: e for e in made["snapshot"]["element"]}
    assert elements["Observation.component:certainty"]["min"] == 1
    assert elements["Observation.method"]["patternCodeableConcept"]["coding"][0]["code"] == "ai-reading"


def test_hapi_takes_every_file_and_works_by_it(tmp_path: Path) -> None:
    """HAPI FHIR's JPA server, which has no `hl7.terminology` and so lacks AIAST."""
    every = [package.implementation_guide(), *package.definitions(), *package.examples()]
    writes = [{"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}} for r in every]
    [observation, *_] = [r for r in package.examples() if r["resourceType"] == "Observation"]
    wrong = {k: v for k, v in observation.items() if k != "device"}
    with servers.hapi(tmp_path / "hapi", validate=False) as server:

        def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
            status, _, content = server.ask(method, path, json.dumps(body) if body else "")
            return status, json.loads(content)

        status, answer = ask("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": writes})
        assert (status, len(answer.get("entry", ()))) == (200, len(every)), answer
        _, translated = ask("GET", "/ConceptMap/hl7v2-priority/$translate?code=STAT&system=" + derived.WORDS)
        _, named = ask("GET", "/DiagnosticReport?imagingStudy=ImagingStudy/1")
        _, found = ask("POST", "/Observation/$validate", observation)
        _, found_wrong = ask("POST", "/Observation/$validate", wrong)
    assert translated["parameter"][0] == {"name": "result", "valueBoolean": True}
    assert named["resourceType"] == "Bundle"
    assert all("AIAST" in said for said in _told(found))
    assert any("Observation.device" in said for said in _told(found_wrong))


def _told(outcome: dict[str, Any]) -> list[str]:
    return [issue["diagnostics"] for issue in outcome["issue"] if issue["severity"] in ("error", "fatal")]
