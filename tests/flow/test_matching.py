"""Which order a study answers, and what stays inside while that is in doubt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydicom

from .conftest import Hospital, Story, until

Make = Callable[[str], Story]


def test_a_study_matches_its_order_by_study_instance_uid(hospital: Hospital, story: Make) -> None:
    film = story("chest-film")
    hospital.order(film.message)
    hospital.store(addressed(film, AccessionNumber=""))
    task = hospital.task_when(film.accession_number, "completed")
    study = hospital.study(film.study_instance_uid)
    assert (study["match_state"], study["task_id"]) == ("matched", task["id"])
    assert study["match_reason"].startswith("Study Instance UID")


def test_a_study_under_another_uid_matches_by_accession_number_and_issuer(hospital: Hospital, story: Make) -> None:
    film = story("chest-film")
    hospital.order(without_uid(film))
    hospital.store(film.datasets)
    task = hospital.task_when(film.accession_number, "completed")
    study = hospital.study(film.study_instance_uid)
    assert study["task_id"] == task["id"]
    assert study["match_reason"].startswith("accession number")


def test_an_accession_number_of_another_issuer_is_another_number(hospital: Hospital, story: Make) -> None:
    bleed = story("head-ct-phantom-bleed")
    hospital.order(without_uid(bleed))
    images = addressed(bleed)
    for image in images:
        image.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID = "OTHER-RIS"
    hospital.store(images)
    study = hospital.study_when(bleed.study_instance_uid)
    assert study["service_request_id"] is None
    assert hospital.task_of(bleed.accession_number)["status"] == "requested"


def test_a_person_gives_a_study_that_no_rule_has_matched_its_order(hospital: Hospital, story: Make) -> None:
    film = story("chest-film")
    hospital.order(without_uid(film))
    order = hospital.task_when(film.accession_number, "requested")["basedOn"][0]["reference"]
    hospital.store(addressed(film, AccessionNumber="MISTYPED", PatientID="TEMPORARY-1"))
    study = hospital.study_when(film.study_instance_uid)
    assert study["match_state"] == "none"
    _resolve(hospital, study, order.removeprefix("ServiceRequest/"))
    hospital.task_when(film.accession_number, "completed")
    reports = until("the report under its order", lambda: hospital.search("DiagnosticReport", **{"based-on": order}))
    assert len(reports) == 1


def test_where_no_issuer_is_known_name_birth_date_and_sex_agree(hospital: Hospital, story: Make) -> None:
    film = story("chest-film")
    hospital.order(film.message)
    hospital.store(addressed(film, IssuerOfPatientID=None, PatientID="LOCAL"))
    hospital.task_when(film.accession_number, "completed")
    assert "birth date" in hospital.study(film.study_instance_uid)["match_reason"]


def test_another_patient_of_the_same_authority_holds_the_results_until_a_person_confirms_the_order(
    hospital: Hospital, story: Make
) -> None:
    bleed = story("head-ct-phantom-bleed")
    hospital.order(bleed.message)
    hospital.store(addressed(bleed, PatientID="DEMO-WRONG"))
    study = until("the answer to be held", lambda: _held(hospital, bleed))
    _nothing_has_left(hospital, bleed, study)
    task = hospital.task_of(bleed.accession_number)
    assert task["status"] == "on-hold"
    reason = task["statusReason"]["text"]
    assert "identifier of the same assigning authority differs" in reason
    assert not any(value in reason for value in ("DEMO-WRONG", bleed.case.patient.id, bleed.accession_number))
    [row] = [r for r in _worklist(hospital) if r["study_id"] == study["id"]]
    assert reason in row["reason"]
    assert not row["critical"]

    order = task["basedOn"][0]["reference"].removeprefix("ServiceRequest/")
    _resolve(hospital, study, order)
    task = hospital.task_when(bleed.accession_number, "completed")
    [alert] = until("the alert", lambda: hospital.alerts(bleed.accession_number))
    assert bleed.case.patient.id.encode() in alert
    until("the SR", lambda: hospital.objects("SR", bleed.study_instance_uid))
    until("the SEG", lambda: hospital.objects("SEG", bleed.study_instance_uid))
    observations = hospital.observations_of(study)
    assert {o["subject"]["reference"] for o in observations} == {task["for"]["reference"]}
    assert {o["meta"]["versionId"] for o in observations} == {"1"}
    assert any(i["type"]["coding"][0]["code"] == "routing-choice" for i in task["input"])
    [imaging] = hospital.search("ImagingStudy", _id=study["id"])
    assert (imaging["subject"], imaging["basedOn"]) == (task["for"], task["basedOn"])
    assert len(hospital.objects("SR", bleed.study_instance_uid)) == 1
    assert len(hospital.alerts(bleed.accession_number)) == 1
    with hospital.client() as client:
        again = client.post(f"/api/studies/{study['id']}/resolve", json={"service_request_id": order, "reason": "x"})
    assert again.status_code == 409


def test_a_person_says_that_a_held_study_has_no_order_and_that_stays_so(hospital: Hospital, story: Make) -> None:
    """The results leave under the patient whom the images name, the order waits on, and neither a late image nor a
    later message of that order puts the same question again."""
    film = story("chest-film")
    hospital.order(film.message)
    hospital.store(addressed(film, IssuerOfPatientID=None, PatientBirthDate="20200101"))
    study = until("the answer to be held", lambda: _held(hospital, film))
    assert "birth date differ" in study["match_reason"]
    _nothing_has_left(hospital, film, study)

    _resolve(hospital, study, None)
    until("the result", lambda: hospital.observations_of(study))
    until("the SR", lambda: hospital.objects("SR", film.study_instance_uid))
    [observation] = hospital.observations_of(study)
    [imaging] = hospital.search("ImagingStudy", _id=study["id"])
    assert "basedOn" not in observation
    assert observation["subject"] == imaging["subject"]
    assert until("the study's Task", lambda: _own_task(hospital, study, "completed"))
    assert hospital.task_of(film.accession_number)["status"] == "requested"

    hospital.order(film.message.replace(b"ORC|NW", b"ORC|XO").replace(b"|T", b"|TX", 1))
    hospital.store(addressed(film, IssuerOfPatientID=None, PatientBirthDate="20200101", SOPInstanceUID=_another(film)))
    study = hospital.study_when(film.study_instance_uid, revision=2)
    assert (study["match_state"], study["service_request_id"]) == ("none", None)
    assert until("the second SR", lambda: len(hospital.objects("SR", film.study_instance_uid)) == 2)


def test_two_orders_with_the_accession_number_hold_the_study_and_the_one_not_chosen_waits_on(
    hospital: Hospital, story: Make
) -> None:
    film, twin = story("chest-film"), story("chest-film")
    hospital.order(without_uid(film))
    second = twin.message.replace(twin.accession_number.encode(), film.accession_number.encode())
    hospital.order(second.replace(twin.case.patient.id.encode(), film.case.patient.id.encode()))
    until("both orders", lambda: len(hospital.search("ServiceRequest", identifier=film.accession_number)) == 2)
    hospital.store(film.datasets)
    study = until("the answer to be held", lambda: _held(hospital, film))
    assert study["match_reason"] == "2 orders have this accession number"
    assert len(study["candidates"]) == 2
    tasks = {c: hospital.search("Task", **{"based-on": f"ServiceRequest/{c}"})[0] for c in study["candidates"]}
    assert {t["status"] for t in tasks.values()} == {"on-hold"}

    chosen, other = study["candidates"]
    _resolve(hospital, study, chosen)

    def status(candidate: str) -> str:
        return str(hospital.search("Task", **{"based-on": f"ServiceRequest/{candidate}"})[0]["status"])

    until("the chosen order's Task to be completed", lambda: status(chosen) == "completed")
    assert status(other) == "requested"


def test_patient_and_time_window_only_propose_an_order(hospital: Hospital, story: Make) -> None:
    film, other = story("chest-film"), story("chest-film")
    hospital.order(other.message)
    hospital.task_when(other.accession_number, "requested")
    hospital.store(addressed(film, PatientID=other.case.patient.id, AccessionNumber=""))
    study = hospital.study_when(film.study_instance_uid)
    assert (study["match_state"], study["service_request_id"]) == ("proposed", None)
    assert hospital.task_of(other.accession_number)["status"] == "requested"
    [observation] = hospital.observations_of(study)
    assert "basedOn" not in observation
    [row] = [r for r in _worklist(hospital) if r["study_id"] == study["id"]]
    assert "order proposed, not confirmed" in row["reason"]

    _resolve(hospital, study, study["candidates"][0])
    hospital.task_when(other.accession_number, "completed")
    until("the Observation under the order", lambda: "basedOn" in hospital.observations_of(study)[0])


def test_a_study_without_an_order_is_read_under_a_task_of_its_own(hospital: Hospital, story: Make) -> None:
    film = story("chest-film-normal")
    hospital.store(film.datasets)
    study = hospital.study_when(film.study_instance_uid)
    task = until("the study's Task", lambda: _own_task(hospital, study, "completed"))
    assert "basedOn" not in task
    assert task["focus"] == {"reference": f"ImagingStudy/{study['id']}"}
    assert all("basedOn" not in o for o in hospital.observations_of(study))
    until("the SR", lambda: hospital.objects("SR", film.study_instance_uid))


def test_an_order_that_comes_after_the_study_was_read_is_joined_and_nobody_is_told_twice(
    hospital: Hospital, story: Make
) -> None:
    bleed = story("head-ct-phantom-bleed")
    hospital.store(bleed.datasets)
    study = hospital.study_when(bleed.study_instance_uid)
    own = until("the study's Task", lambda: _own_task(hospital, study, "completed"))
    until("the alert", lambda: hospital.alerts(bleed.accession_number))
    until("the SR", lambda: hospital.objects("SR", bleed.study_instance_uid))
    before = {o["id"] for o in hospital.observations_of(study)}

    hospital.order(bleed.message)
    task = hospital.task_when(bleed.accession_number, "completed")
    outputs = {o["valueReference"]["reference"] for o in task["output"]}
    observations = until(
        "the Observations under the order",
        lambda: [o for o in hospital.observations_of(study) if o.get("basedOn") == task["basedOn"]],
    )
    assert {o["id"] for o in observations} == before
    assert outputs >= {f"Observation/{o['id']}" for o in observations}
    assert {o["subject"]["reference"] for o in observations} == {task["for"]["reference"]}
    assert any(i["type"]["coding"][0]["code"] == "routing-choice" for i in task["input"])
    [imaging] = hospital.search("ImagingStudy", _id=study["id"])
    assert (imaging["subject"], imaging["basedOn"]) == (task["for"], task["basedOn"])
    assert hospital.search("Task", _id=own["id"])[0]["status"] == "cancelled"
    [row] = [r for r in _worklist(hospital) if r["study_id"] == study["id"]]
    assert (row["critical"], row["priority"]) == (True, "stat")
    until("deliveries to be settled", lambda: not _pending(hospital))
    assert len(hospital.alerts(bleed.accession_number)) == 1
    assert len(hospital.objects("SR", bleed.study_instance_uid)) == 1


def test_an_order_that_comes_after_a_study_that_no_model_reads_is_told_so(hospital: Hospital, story: Make) -> None:
    film = story("chest-film")
    hospital.store(addressed(film, PatientAge="045Y"))
    hospital.study_when(film.study_instance_uid)
    hospital.order(film.message)
    task = hospital.task_when(film.accession_number, "rejected")
    assert task["statusReason"]["text"] == "no released model reads a series of this study"


def test_one_order_that_two_studies_answer_tells_the_results_of_both(hospital: Hospital, story: Make) -> None:
    film, second = story("chest-film"), story("chest-film")
    hospital.order(without_uid(film))
    hospital.store(film.datasets)
    first_task = hospital.task_when(film.accession_number, "completed")
    hospital.store(addressed(second, AccessionNumber=film.accession_number, PatientID=film.case.patient.id))
    hospital.study_when(second.study_instance_uid)
    task = until(
        "the results of both studies on the Task",
        lambda: _more_outputs(hospital.task_of(film.accession_number), len(first_task["output"])),
    )
    assert task["status"] == "completed"


def addressed(story: Story, **header: str | None) -> list[pydicom.Dataset]:
    """The story's images with other values in these attributes of the header; None leaves an attribute out."""
    for image in story.datasets:
        for keyword, value in header.items():
            if value is None:
                if keyword in image:
                    delattr(image, keyword)
            else:
                setattr(image, keyword, value)
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return story.datasets


def without_uid(story: Story) -> bytes:
    """The order of a RIS that gives out another Study Instance UID than the modality uses."""
    return story.message.replace(story.study_instance_uid.encode(), f"{story.study_instance_uid}.7".encode())


def _another(story: Story) -> str:
    return f"{story.datasets[0].SOPInstanceUID[:50]}.2"


def _held(hospital: Hospital, story: Story) -> dict[str, Any] | None:
    study = hospital.study(story.study_instance_uid)
    held = study.get("match_state") == "held" and study["runs"] and all(r["state"] == "held" for r in study["runs"])
    return study if held else None


def _nothing_has_left(hospital: Hospital, story: Story, study: dict[str, Any]) -> None:
    reference = f"ImagingStudy/{study['id']}"
    assert not hospital.observations_of(study)
    assert not [r for r in hospital.search("DiagnosticReport") if {"reference": reference} in r["imagingStudy"]]
    assert not hospital.objects("SR", story.study_instance_uid)
    assert not hospital.alerts(story.accession_number)
    run_ids = {run["id"] for run in study["runs"]}
    assert not [d for d in _deliveries(hospital) if d["run_id"] in run_ids]
    with hospital.client(roles=("auditor",)) as client:
        shown = client.get(f"/api/studies/{study['id']}").json()
    assert all(run["reading"] is None for run in shown["runs"]), "only who may resolve the match sees a held answer"


def _resolve(hospital: Hospital, study: dict[str, Any], order: str | None) -> None:
    wish = {"service_request_id": order, "reason": "the technologist was asked"}
    with hospital.client(roles=("radiologist",)) as client:
        answer = client.post(f"/api/studies/{study['id']}/resolve", json=wish)
    assert answer.status_code == 200, answer.text


def _own_task(hospital: Hospital, study: dict[str, Any], status: str) -> dict[str, Any] | None:
    found = hospital.search("Task", _id=study["task_id"])
    return found[0] if found and found[0]["status"] == status else None


def _worklist(hospital: Hospital) -> list[dict[str, Any]]:
    with hospital.client() as client:
        found: list[dict[str, Any]] = client.get("/api/worklist", params={"limit": 1000}).json()
    return found


def _deliveries(hospital: Hospital) -> list[dict[str, Any]]:
    with hospital.client() as client:
        found: list[dict[str, Any]] = client.get("/api/deliveries", params={"limit": 1000}).json()
    return found


def _pending(hospital: Hospital) -> list[dict[str, Any]]:
    return [d for d in _deliveries(hospital) if d["state"] == "pending"]


def _more_outputs(task: dict[str, Any], than: int) -> dict[str, Any] | None:
    return task if len(task.get("output", ())) > than else None
