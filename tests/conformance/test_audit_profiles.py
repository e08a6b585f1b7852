"""AuditEvents keep the profiles of IHE BALP 1.1.5 that they claim: the HL7 validator is the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.balp_events import claiming, event, of_every_kind

from conformance import shorthand, validator

pytestmark = pytest.mark.conformance

BALP = Path(__file__).parents[1] / "data" / "balp"


def _written(folder: Path, name: str, resource: dict[str, Any]) -> Path:
    file = folder / f"{name.replace(' ', '-').replace('/', '-')}.json"
    file.write_text(json.dumps(resource))
    return file


def test_every_event_keeps_the_profiles_that_it_claims_and_a_broken_one_is_found(tmp_path: Path) -> None:
    guides = [
        _written(tmp_path, f"guide-{number}", each) for number, each in enumerate(shorthand.compiled(BALP).values())
    ]
    files = [_written(tmp_path, name, event(entry)) for name, (_, entry) in claiming().items()]
    files += [_written(tmp_path, f"failed {name}", event(entry)) for name, entry in of_every_kind().items()]
    broken = {name: event(entry) for name, (_, entry) in claiming().items()}
    wrong = []
    for name, made in broken.items():
        theirs = next(agent for agent in made["agent"] if agent["type"]["coding"][0]["code"] != "IRCP")
        del theirs["who"]
        wrong.append(_written(tmp_path, f"wrong {name}", made))
    found = [issue for issue in validator.validate([*files, *wrong], guides) if issue.is_error]
    assert {issue.file for issue in found} == {str(file) for file in wrong}, "\n".join(
        str(issue) for issue in found if Path(issue.file) in files
    )
