"""All that the main job writes passes the validators of its standards."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import validator
from wetread.store import embedded

from .conftest import Hospital, Story, part10, until

TOPIC = "https://wetread.org/fhir/SubscriptionTopic/ai-observation"
PAYLOAD = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content"


@pytest.mark.conformance
def test_the_hl7_validator_finds_no_error_in_anything_the_flow_writes(
    hospital: Hospital, story: Callable[[str], Story]
) -> None:
    subscription = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "conformance",
        "criteria": TOPIC,
        "channel": {
            "type": "rest-hook",
            "endpoint": f"http://127.0.0.1:{hospital.subscriber_port}/",
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": PAYLOAD, "valueCode": "full-resource"}]},
        },
    }
    with hospital.client() as client:
        assert client.post("/fhir/Subscription", json=subscription).status_code == 201
    stories = [story("chest-film"), story("head-ct-phantom-bleed")]
    unordered = story("chest-film-normal")
    for each in stories:
        hospital.order(each.message)
        hospital.store(each.datasets)
    hospital.store(unordered.datasets)
    for each in stories:
        until("the Task", lambda each=each: hospital.task_of(each.accession_number).get("status") == "completed", 180)
    until("the notifications", lambda: len(hospital.heard.notifications) >= 3)
    with embedded.borrowed(hospital.server.data_dir) as url:
        assert validator.errors(validator.validate_store(url)) == []
    bodies = {f"notification-{n}": body for n, body in enumerate(hospital.heard.notifications)}
    assert validator.errors(validator.validate_resources(bodies)) == []


@pytest.mark.peer
def test_dciodvfy_finds_no_error_in_any_object_that_reaches_the_archive(
    hospital: Hospital, story: Callable[[str], Story], tmp_path: Path
) -> None:
    film, bleed = story("chest-film"), story("head-ct-phantom-bleed")
    for each in (film, bleed):
        hospital.order(each.message)
        hospital.store(each.datasets)
    found = [
        *until("the film's SR", lambda: hospital.objects("SR", film.study_instance_uid)),
        *until("the film's presentation state", lambda: hospital.objects("PR", film.study_instance_uid)),
        *until("the SEG", lambda: hospital.objects("SEG", bleed.study_instance_uid), 120),
        *until("the SR", lambda: hospital.objects("SR", bleed.study_instance_uid)),
    ]
    for number, dataset in enumerate(found):
        file = tmp_path / f"{number}.dcm"
        file.write_bytes(part10(dataset))
        told = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True, check=False)
        errors = [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")]
        assert errors == [], dataset.Modality
