"""Events come from every way in which something is written: here by HL7, DICOM and the models; by clients in
`test_delivery_requirements`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.flow.conftest import Hospital, Story, until
from tests.subscriber import Posted, status_of

from .client import TOPICS, Client

_OF_TYPE = {
    "order-received": "ServiceRequest",
    "imagingstudy-available": "ImagingStudy",
    "ai-observation": "Observation",
    "diagnosticreport-preliminary": "DiagnosticReport",
    "task-status": "Task",
}


def test_what_comes_by_hl7_and_dicom_and_what_models_find_is_told_of_once_each(
    ehr: Client, hospital: Hospital, story: Callable[[str], Story]
) -> None:
    for topic in _OF_TYPE:
        ehr.subscribed(topic, topic=f"{TOPICS}{topic}", filters=())
    film = story("chest-film")
    assert hospital.order(film.message).code == "AA"
    hospital.task_when(film.accession_number, "requested")
    hospital.store(film.datasets)
    task = hospital.task_when(film.accession_number, "completed")
    study = hospital.study_when(film.study_instance_uid)
    order = task["basedOn"][0]["reference"]
    [report] = hospital.search("DiagnosticReport", **{"based-on": order})
    observations = hospital.observations_of(study)
    assert observations
    wanted = {
        "order-received": Counter({order: 1}),
        "imagingstudy-available": Counter({f"ImagingStudy/{study['id']}": 1}),
        "ai-observation": Counter({f"Observation/{o['id']}": int(o["meta"]["versionId"]) for o in observations}),
        "diagnosticreport-preliminary": Counter({f"DiagnosticReport/{report['id']}": 1}),
        "task-status": Counter({f"Task/{task['id']}": _statuses(ehr, task["id"])}),
    }

    def told() -> dict[str, Counter[str]]:
        return {
            topic: Counter(
                focus
                for posted in ehr.subscriber.taken(topic)
                for focus in _foci(posted)
                if focus in wanted[topic] or topic == "ai-observation"
            )
            for topic in wanted
        }

    until("each event to be told of", lambda: all(told()[topic] >= wanted[topic] for topic in wanted))
    assert told() == wanted


def _statuses(ehr: Client, task_id: str) -> int:
    """How often the Task's status was set or changed."""
    history = ehr.http.get(f"/fhir/Task/{task_id}/_history", params={"_count": "100"}).json()["entry"]
    statuses = [entry["resource"]["status"] for entry in reversed(history)]
    return 1 + sum(before != after for before, after in itertools.pairwise(statuses))


def _foci(posted: Posted) -> list[str]:
    events: list[dict[str, Any]] = status_of(posted.bundle)["notification-event"]
    return ["/".join(event["focus"]["reference"].split("/")[-2:]) for event in events]
