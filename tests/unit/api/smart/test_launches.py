"""What a launch hands to an app is of one patient, however its resources name them."""

from __future__ import annotations

import pytest
from tests.conftest import BASES
from tests.smart_apps import Site

FINDING = {"resourceType": "Observation", "status": "final", "code": {"text": "nodule"}}


@pytest.mark.parametrize("start", ["", *(f"{base}/" for base in BASES)])
async def test_a_launch_with_what_is_another_patients_is_refused(site: Site, start: str) -> None:
    client = await site.register()
    for patient in ("p1", "p2"):
        await site.put(resourceType="Patient", id=patient)
        await site.put(id=f"of-{patient}", subject={"reference": f"{start}Patient/{patient}"}, **FINDING)
    answers = [
        await site.http.post(
            "/oauth/launch",
            json={"client_id": client.client_id, "patient": "p1", "fhirContext": [{"reference": f"Observation/{id_}"}]},
            headers=site.operator(),
        )
        for id_ in ("of-p1", "of-p2")
    ]
    assert [answer.status_code for answer in answers] == [201, 400]
    assert "another patient" in answers[1].text
