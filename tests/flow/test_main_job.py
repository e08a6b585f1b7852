"""Order in, study in, model read, every reader told: from socket to socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from .conftest import Hospital, Story, until


def test_a_chest_film_is_read_and_its_result_reaches_every_reader(
    hospital: Hospital, story: Callable[[str], Story]
) -> None:
    film = story("chest-film")
    assert hospital.order(film.message).code == "AA"
    until("the Task of the order", lambda: hospital.task_of(film.accession_number).get("status") == "requested")

    hospital.store(film.datasets)
    task = until("the Task to be completed", lambda: _ended(hospital.task_of(film.accession_number)))
    assert task["status"] == "completed", task

    [study] = hospital.search("ImagingStudy", identifier=f"urn:oid:{film.study_instance_uid}")
    assert study["numberOfInstances"] == 1
    assert study["basedOn"] == task["basedOn"]
    observations = hospital.search("Observation", **{"part-of": f"ImagingStudy/{study['id']}"})
    [pneumonia] = [o for o in observations if "neumonia" in o["code"]["coding"][0]["display"]]
    assert pneumonia["status"] == "preliminary"
    assert pneumonia["valueCodeableConcept"]["coding"][0]["display"] == "Present"
    assert pneumonia["basedOn"] == task["basedOn"]
    assert pneumonia["subject"] == task["for"]
    [report] = hospital.search("DiagnosticReport", **{"based-on": task["basedOn"][0]["reference"]})
    assert report["status"] == "preliminary"
    assert {"reference": f"Observation/{pneumonia['id']}"} in report["result"]
    assert {o["valueReference"]["reference"] for o in task["output"]} >= {
        f"DiagnosticReport/{report['id']}",
        f"Observation/{pneumonia['id']}",
    }
    [sr] = until("the SR in the archive", lambda: hospital.objects("SR", film.study_instance_uid))
    assert f"urn:oid:{sr.SOPInstanceUID}" in {i["value"] for i in report["identifier"]}
    until("the presentation state in the archive", lambda: hospital.objects("PR", film.study_instance_uid))


def test_a_critical_bleed_is_segmented_measured_and_alerted(hospital: Hospital, story: Callable[[str], Story]) -> None:
    bleed = story("head-ct-phantom-bleed")
    assert hospital.order(bleed.message).code == "AA"
    hospital.store(bleed.datasets)
    task = until("the Task to end", lambda: _ended(hospital.task_of(bleed.accession_number)), 120)
    assert task["status"] == "completed", task
    assert task["priority"] == "stat"

    [alert] = until("the alert", lambda: hospital.alerts(bleed.accession_number))
    segments = alert.decode().split("\r")
    assert segments[0].split("|")[8] == "ORU^R01^ORU_R01"
    assert any(s.startswith("OBX") and "|AA|" in s for s in segments)
    [segmentation] = until("the SEG", lambda: hospital.objects("SEG", bleed.study_instance_uid))
    assert {
        i.ReferencedSOPInstanceUID for s in segmentation.ReferencedSeriesSequence for i in s.ReferencedInstanceSequence
    } <= {d.SOPInstanceUID for d in bleed.datasets}
    observations = hospital.search("Observation", **{"based-on": task["basedOn"][0]["reference"]})
    [hemorrhage] = [o for o in observations if "hemorrhage" in o["code"]["coding"][0]["display"].lower()]
    volume = next(quantity["value"] for quantity in _quantities(hemorrhage) if quantity["code"] == "mL")
    assert volume == pytest.approx(26.98, rel=0.02)
    with hospital.client() as client:
        first = client.get("/api/worklist").json()[0]
    assert first["critical"]
    assert "emorrhage" in first["reason"]


def test_every_step_leaves_an_audit_event_of_the_patient(hospital: Hospital, story: Callable[[str], Story]) -> None:
    film = story("chest-film")
    hospital.order(film.message)
    hospital.store(film.datasets)
    task = until("the Task to end", lambda: _ended(hospital.task_of(film.accession_number)))
    patient = task["for"]["reference"]

    def subtypes() -> set[str]:
        events = hospital.search("AuditEvent", patient=patient)
        return {coding["code"] for event in events for coding in event.get("subtype", ())}

    expected = {
        "order-received",
        "instance-stored",
        "match-resolved",
        "study-completed",
        "ai-inference",
        "result-reported",
        "instance-sent",
    }
    until("the audit of every step", lambda: subtypes() >= expected)


def test_nothing_answers_without_a_token(hospital: Hospital) -> None:
    with httpx.Client(base_url=hospital.server.url) as nobody:
        assert nobody.get("/healthz").status_code == 200
        assert nobody.get("/fhir/metadata").status_code == 200
        for path in ("/fhir/Patient", "/api/worklist", "/api/messages", "/metrics", "/api/governance/phases"):
            assert nobody.get(path).status_code == 401, path


def _quantities(observation: dict[str, Any]) -> list[dict[str, Any]]:
    elements = [observation, *observation.get("component", ())]
    return [e["valueQuantity"] for e in elements if "valueQuantity" in e]


def _ended(task: dict[str, object]) -> dict[str, object] | None:
    return task if task.get("status") in ("completed", "failed", "rejected") else None
