from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from wetread.errors import Unsupported
from wetread.record.search import parameters
from wetread.record.validation import validate

ROOT = Path(__file__).parents[3]
OBSERVATION = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}


@pytest.mark.parametrize(
    ("more", "code", "expression"),
    [
        ({"bogus": 1}, "structure", "Observation.bogus"),
        ({"status": "bogus"}, "code-invalid", "Observation.status"),
        ({"status": None}, "required", "Observation.status"),
        ({"code": []}, "structure", "Observation.code"),
        ({"effectiveDateTime": "2020-13-45"}, "value", "Observation.effective.ofType(dateTime)"),
        ({"component": [{"valueString": "x"}]}, "required", "Observation.component[0].code"),
        ({"valueString": "a", "valueBoolean": True}, "structure", "Observation"),
        ({"contained": [{"resourceType": "Nonsense"}]}, "structure", "Observation"),
        ({"contained": [{}]}, "required", "Observation.contained[0].resourceType"),
        (
            {"extension": [{"url": "urn:x", "valueRatioRange": {}}]},
            "structure",
            "Observation.extension[0].valueRatioRange",
        ),
    ],
)
def test_a_fault_is_named_by_kind_and_place(more: dict[str, Any], code: str, expression: str) -> None:
    content = {k: v for k, v in {**OBSERVATION, **more}.items() if v is not None}
    with pytest.raises(validate.InvalidResource) as caught:
        validate.check(content)
    assert any(i.code == code and i.expression.startswith(expression) for i in caught.value.issues), caught.value.issues


def test_a_fault_repeats_nothing_of_the_content() -> None:
    with pytest.raises(validate.InvalidResource) as caught:
        validate.check({"resourceType": "Patient", "gender": "SECRET", "birthDate": "SECRET", "name": "SECRET"})
    assert len(caught.value.issues) == 3
    assert not any("SECRET" in i.text or "SECRET" in i.expression for i in caught.value.issues)


async def test_a_large_body_is_checked_like_a_small_one() -> None:
    note = "x" * 20_000
    with pytest.raises(validate.InvalidResource):
        await validate.parsed(f'{{"resourceType":"Observation","status":"final","note":[{{"text":"{note}"}}]}}')


@pytest.mark.parametrize("resource_type", ["AuditEvent", "Parameters", "SubscriptionTopic", "", None, ["Patient"]])
def test_types_that_are_not_stored_are_refused(resource_type: Any) -> None:
    with pytest.raises(Unsupported):
        validate.check({"resourceType": resource_type})


@pytest.mark.parametrize("script", ["tables.py", "profiles.py"])
def test_the_tables_are_those_of_the_official_package(script: str) -> None:
    made = runpy.run_path(str(ROOT / "conformance/r4" / script))["texts"]()
    folder = Path(parameters.__file__).parents[1] / "data"
    for name, text in made.items():
        assert (folder / name).read_text(encoding="utf-8") == text, f"{name}: run conformance/r4/{script}"
