"""All that the main job writes passes the validators of its standards."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance import validator
from tests.subscriber import subscriber
from wetread.store import embedded

from .conftest import Hospital, Story, part10, until
from .subscribing.client import TOPICS, Client

TOPIC = "https://wetread.org/fhir/SubscriptionTopic/ai-observation"
Resource = dict[str, Any]
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


@pytest.mark.conformance
def test_the_hl7_validator_finds_no_error_in_notifications_of_every_kind_and_level(hospital: Hospital) -> None:
    """By the Backport guide's profiles: what subscribers get, `$status`, `$events`, Subscriptions."""
    with subscriber() as endpoint, hospital.client() as http:
        ehr = Client(http, endpoint)
        bodies = _told_of_everything(ehr)
    kinds = {name.partition(" ")[0] for name in bodies}
    assert kinds == {"handshake", "event-notification", "heartbeat", "subscription", "status", "events"}
    assert validator.errors(validator.validate_resources(bodies)) == []
    damaged = {
        "a notification without its status": _changed(bodies["event-notification 0"], lambda b: b["entry"].pop(0)),
        "of a type that is none": _changed(bodies["event-notification 0"], lambda b: _say(b, "type", "valueCode", "x")),
        "a number that is no string": _changed(bodies["event-notification 0"], _number_an_event),
        "a level that is none": _changed(bodies["subscription 0"], _ask_for_everything),
        "a status of nobody": _changed(bodies["status 0"], lambda b: b["entry"][0]["resource"]["parameter"].pop(0)),
    }
    found = validator.validate_resources(damaged)
    assert {issue.file for issue in found if issue.is_error} == set(damaged)


def _told_of_everything(ehr: Client) -> dict[str, Resource]:
    """Notifications of every kind at every content level, of one event and of several, of a deletion, with what goes
    along; and what is answered about them."""
    report_id, patient_id = f"r{ehr.code}", f"p{ehr.code}"
    filters = (f"DiagnosticReport?code=urn:test|{ehr.code}",)
    ehr.update({"resourceType": "Patient", "id": patient_id})
    ids = [
        ehr.subscribed(f"{topic}-{content}", topic=f"{TOPICS}{topic}", content=content, filters=filters, **numbers)
        for topic in ("diagnosticreport", "diagnosticreport-withdrawn")
        for content, numbers in (
            ("empty", {"heartbeat_period": 10}),
            ("id-only", {"max_count": 5}),
            ("full-resource", {"max_count": 5, "heartbeat_period": 10}),
        )
    ]
    written = {
        "resourceType": "DiagnosticReport",
        "code": ehr.concept(),
        "subject": {"reference": f"Patient/{patient_id}"},
    }
    for status in ("preliminary", "final", "amended"):
        ehr.update(written | {"id": report_id, "status": status})
    assert ehr.http.delete(f"/fhir/DiagnosticReport/{report_id}").status_code in (200, 204)
    for name in list(ehr.subscriber.posted):
        ehr.subscriber.wait_for(name, [1] if "withdrawn" in name else [1, 2, 3])
    until(
        "heartbeats",
        lambda: all(ehr.subscriber.taken(f"diagnosticreport-{c}", "heartbeat") for c in ("empty", "full-resource")),
    )
    posted = [one for name in list(ehr.subscriber.posted) for one in ehr.subscriber.posted[name]]
    ehr.subscriber.answers["ill"] = lambda _: 500
    ill = ehr.post(ehr.form("ill")).json()["id"]
    ehr.until_status(ill, "error")
    answered = {
        f"status {n}": ehr.http.get(f"/fhir/Subscription/{each}/$status").json() for n, each in enumerate([*ids, ill])
    }
    answered |= {f"events {n}": ehr.events(each) for n, each in enumerate(ids)}
    answered |= {f"events of {content}": ehr.events(ids[-1], content=content) for content in ("empty", "id-only")}
    answered |= {f"subscription {n}": ehr.read(each) for n, each in enumerate([*ids, ill])}
    told = {
        f"{kind} {n}": one.bundle
        for kind in ("handshake", "event-notification", "heartbeat")
        for n, one in enumerate(p for p in posted if p.kind == kind)
    }
    return told | answered


def _changed(resource: Resource, change: Callable[[Resource], object]) -> Resource:
    made = copy.deepcopy(resource)
    change(made)
    return made


def _say(bundle: Resource, name: str, key: str, value: object) -> None:
    next(p for p in bundle["entry"][0]["resource"]["parameter"] if p["name"] == name)[key] = value


def _number_an_event(bundle: Resource) -> None:
    parameters = bundle["entry"][0]["resource"]["parameter"]
    event = next(p for p in parameters if p["name"] == "notification-event")
    number = next(part for part in event["part"] if part["name"] == "event-number")
    number["valueInteger"] = int(number.pop("valueString"))


def _ask_for_everything(subscription: Resource) -> None:
    subscription["channel"]["_payload"]["extension"][0]["valueCode"] = "everything"
