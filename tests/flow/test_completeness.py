"""When a study is complete, and what a late image brings about."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import pydicom
import pytest

from tests import modality
from wetread.demo import peers

from .conftest import Hospital, Story, running_hospital, until

Make = Callable[[str], Story]
T = TypeVar("T")


@pytest.fixture(scope="module")
def patient_site(
    tmp_path_factory: pytest.TempPathFactory, heard: peers.Heard, peer_ports: dict[str, int]
) -> Iterator[Hospital]:
    """A server that would wait an hour for silence: what ends the wait sooner is something else."""
    folder = tmp_path_factory.mktemp("patient-site")
    with running_hospital(folder, heard, peer_ports, "demo", quiet_s=3600, deadline_s=30) as running:
        yield running


def test_the_quiet_period_ends_the_wait(hospital: Hospital, story: Make) -> None:
    film = story("chest-film-normal")
    hospital.store(film.datasets)
    study = hospital.study_when(film.study_instance_uid)
    assert study["completed_why"] == "quiet period over"


def test_the_announced_number_of_images_completes_at_once(patient_site: Hospital, story: Make) -> None:
    """Images in Acquisition (0020,1002): the last of them is the end, without the quiet period."""
    bleed = story("head-ct-phantom-bleed")
    for image in bleed.datasets:
        image.ImagesInAcquisition = len(bleed.datasets)
    patient_site.store(bleed.datasets)
    study = patient_site.study_when(bleed.study_instance_uid)
    assert (study["completed_why"], study["revision"]) == ("all expected instances are here", 1)


def test_a_study_is_complete_when_its_modality_has_performed_the_step(patient_site: Hospital, story: Make) -> None:
    """MPPS COMPLETED says how many images were made; they have all come, so nobody waits for silence."""
    film = story("chest-film")
    [image] = film.datasets
    patient_site.store(film.datasets)
    modality.perform(
        patient_site.server.ports["dicom"], film.study_instance_uid, image.SeriesInstanceUID, [image.SOPInstanceUID]
    )
    study = patient_site.study_when(film.study_instance_uid)
    assert (study["completed_why"], study["revision"]) == ("all expected instances are here", 1)


def test_who_knows_that_all_images_are_here_may_end_the_wait(patient_site: Hospital, story: Make) -> None:
    film = story("chest-film")
    patient_site.store(film.datasets)
    study = until("the study", lambda: patient_site.study(film.study_instance_uid))
    with patient_site.client(scope="system/*.rs") as reader:
        assert reader.post(f"/api/studies/{study['id']}/complete").status_code == 403
    with patient_site.client() as client:
        assert client.post(f"/api/studies/{study['id']}/complete").status_code == 202
    assert patient_site.study_when(film.study_instance_uid)["completed_why"] == "declared complete"
    with patient_site.client() as client:
        assert client.post(f"/api/studies/{study['id']}/complete").status_code == 409

    other = story("chest-film")
    patient_site.store(other.datasets)
    study = until("the other", lambda: patient_site.study(other.study_instance_uid))
    patient_site.command("studies", "complete", study["id"])
    assert patient_site.study_when(other.study_instance_uid)["completed_why"] == "declared complete"


def test_images_that_keep_trickling_in_are_read_at_the_deadline(patient_site: Hospital, story: Make) -> None:
    """And those after it are waited for together: each would else be a revision with an SR of its own."""
    film = _growing(story("chest-film"))
    uid, sent = film.study_instance_uid, 0
    while not patient_site.study(uid).get("completed_why"):
        assert sent < 50, "every image put the deadline off"
        patient_site.store([film.datasets[sent]])
        sent += 1
        time.sleep(1)
    assert patient_site.study(uid)["completed_why"] == "deadline passed"
    until("the SR", lambda: patient_site.objects("SR", uid))
    patient_site.store(film.datasets[sent : sent + 3])
    until("the late images", lambda: patient_site.study(uid)["instance_count"] == sent + 3)
    study = patient_site.study(uid)
    with patient_site.client() as client:
        assert client.post(f"/api/studies/{study['id']}/complete").status_code == 202
    assert patient_site.study_when(uid, revision=2)["completed_why"] == "declared complete"
    until("the second SR", lambda: _at_least(2, patient_site.objects("SR", uid)))
    assert len(patient_site.objects("SR", uid)) == 2


def test_a_late_image_supersedes_the_results_and_alerts_anew(hospital: Hospital, story: Make) -> None:
    bleed = story("head-ct-phantom-bleed")
    hospital.order(bleed.message)
    hospital.store(bleed.datasets[:-1])
    task = hospital.task_when(bleed.accession_number, "completed")
    [first_sr] = until("the SR", lambda: hospital.objects("SR", bleed.study_instance_uid))
    [first_alert] = until("the alert", lambda: hospital.alerts(bleed.accession_number))
    study = hospital.study(bleed.study_instance_uid)
    before = {o["id"]: int(o["meta"]["versionId"]) for o in hospital.observations_of(study)}

    hospital.store(bleed.datasets[-1:])
    study = hospital.study_when(bleed.study_instance_uid, revision=2)
    reports = until("the second SR", lambda: _at_least(2, hospital.objects("SR", bleed.study_instance_uid)))
    alerts = until("the revised alert", lambda: _at_least(2, hospital.alerts(bleed.accession_number)))
    after = {o["id"]: int(o["meta"]["versionId"]) for o in hospital.observations_of(study)}
    assert after.keys() == before.keys()
    assert all(after[each] > before[each] for each in before)
    [second_sr] = [sr for sr in reports if sr.SOPInstanceUID != first_sr.SOPInstanceUID]
    [predecessor] = second_sr.PredecessorDocumentsSequence
    references = [
        i.ReferencedSOPInstanceUID for s in predecessor.ReferencedSeriesSequence for i in s.ReferencedSOPSequence
    ]
    assert references == [first_sr.SOPInstanceUID]
    assert len({_control_id(alert) for alert in alerts}) == len(alerts) == 2
    assert first_alert in alerts
    assert hospital.task_when(bleed.accession_number, "completed")["id"] == task["id"]
    time.sleep(1)
    assert len(hospital.objects("SR", bleed.study_instance_uid)) == 2
    assert len(hospital.alerts(bleed.accession_number)) == 2


def test_a_late_image_while_the_first_reading_is_queued_leads_to_one_observation(
    hospital: Hospital, story: Make
) -> None:
    """The device is busy with another study. What was read of the first image is told only while nothing better is
    there, and as a version of the same Observation."""
    busy, film = story("head-ct-phantom-bleed"), _growing(story("chest-film"))
    for image in (*busy.datasets, film.datasets[0]):
        image.ImagesInAcquisition = len(busy.datasets) if image.Modality == "CT" else 1
    hospital.store(busy.datasets)
    hospital.store(film.datasets[:1])
    hospital.store(film.datasets[1:2])
    study = until("both films to be read", lambda: _read_with(hospital, film, 2))
    published = [run for run in study["runs"] if run["state"] == "reported"]
    until("an SR of each", lambda: len(hospital.objects("SR", film.study_instance_uid)) == len(published))
    assert {run["state"] for run in study["runs"]} <= {"reported", "superseded"}
    observations = hospital.observations_of(study)
    assert len(observations) == len({o["id"] for o in observations}) == 1


def _growing(story: Story) -> Story:
    """The story with 60 films that announce 80, each an instance of its own."""
    first = story.datasets[0]
    first.ImagesInAcquisition = 80
    for number in range(2, 61):
        film: pydicom.Dataset = deepcopy(first)
        film.SOPInstanceUID = f"{first.SOPInstanceUID[:50]}.{number}"
        film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
        film.InstanceNumber = number
        story.datasets.append(film)
    return story


def _read_with(hospital: Hospital, story: Story, instance_count: int) -> dict[str, Any] | None:
    study = hospital.study(story.study_instance_uid)
    return study if (study.get("state"), study.get("instance_count")) == ("read", instance_count) else None


def _at_least(count: int, found: Sequence[T]) -> Sequence[T] | None:
    return found if len(found) >= count else None


def _control_id(message: bytes) -> bytes:
    return message.split(b"|")[9]
