"""When a study is complete, and what a late image brings about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar

import pydicom

from tests import modality

from .conftest import Hospital, Story, until

Make = Callable[[str], Story]
T = TypeVar("T")


def test_the_quiet_period_ends_the_wait(hospital: Hospital, story: Make) -> None:
    film = story("chest-film-normal")
    hospital.store(film.datasets)
    study = hospital.study_when(film.study_instance_uid)
    assert study["completed_why"] == "quiet period over"


def test_the_announced_number_of_images_completes_at_once(hospital: Hospital, story: Make) -> None:
    """Images in Acquisition (0020,1002): the last of them is the end, without the quiet period."""
    bleed = story("head-ct-phantom-bleed")
    for image in bleed.datasets:
        image.ImagesInAcquisition = len(bleed.datasets)
    hospital.store(bleed.datasets)
    study = hospital.study_when(bleed.study_instance_uid)
    assert (study["completed_why"], study["revision"]) == ("all expected instances are here", 1)


def test_a_study_is_complete_when_its_modality_has_performed_the_step(hospital: Hospital, story: Make) -> None:
    """MPPS COMPLETED says how many images were made; they have all come, so nobody waits for silence."""
    film = story("chest-film")
    [image] = film.datasets
    hospital.store(film.datasets)
    modality.perform(
        hospital.server.ports["dicom"], film.study_instance_uid, image.SeriesInstanceUID, [image.SOPInstanceUID]
    )
    study = hospital.study_when(film.study_instance_uid)
    assert (study["completed_why"], study["revision"]) == ("all expected instances are here", 1)


def test_who_knows_that_all_images_are_here_may_end_the_wait(hospital: Hospital, story: Make) -> None:
    film = _growing(story("chest-film"))
    hospital.store(film.datasets[:1])
    study = until("the study", lambda: hospital.study(film.study_instance_uid))
    with hospital.client(scope="system/*.rs") as reader:
        assert reader.post(f"/api/studies/{study['id']}/complete").status_code == 403
    with hospital.client() as client:
        assert client.post(f"/api/studies/{study['id']}/complete").status_code == 202
    assert hospital.study_when(film.study_instance_uid)["completed_why"] == "declared complete"
    with hospital.client() as client:
        assert client.post(f"/api/studies/{study['id']}/complete").status_code == 409

    # On a busy machine the command may come when the quiet period has passed all the same.
    assert "declared complete" in (_completed_by_command(hospital, _growing(story("chest-film"))) for _ in range(4))


def test_images_that_keep_trickling_in_are_read_at_the_deadline(hospital: Hospital, story: Make) -> None:
    """And those after it are waited for together: each would else be a revision with an SR of its own."""
    film = _growing(story("chest-film"))
    with _trickle(hospital, film):
        until("the deadline", lambda: hospital.study(film.study_instance_uid).get("completed_why") == "deadline passed")
        until("a late image", lambda: hospital.study(film.study_instance_uid)["revision"] == 2)
        time.sleep(2)
    study = hospital.study_when(film.study_instance_uid, revision=2)
    assert study["completed_why"] == "quiet period over"
    reports = until("two SRs", lambda: _at_least(2, hospital.objects("SR", film.study_instance_uid)))
    assert len(reports) == 2


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


def _completed_by_command(hospital: Hospital, film: Story) -> str:
    """Why the study is complete after the command, which is refused where it is so already."""
    uid = film.study_instance_uid
    with _trickle(hospital, film):
        study = until("the study", lambda: hospital.study(uid))
        try:
            hospital.command("studies", "complete", study["id"])
        except AssertionError:
            assert hospital.study(uid)["completed_why"] == "quiet period over"
        why: str = until("the study to be complete", lambda: hospital.study(uid)["completed_why"])
    return why


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


@contextmanager
def _trickle(hospital: Hospital, story: Story) -> Iterator[None]:
    """An image every quarter of a second, so that the quiet period never passes, on a busy machine too."""
    stopped = threading.Event()

    def send() -> None:
        for image in story.datasets:
            hospital.store([image])
            if stopped.wait(0.25):
                return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stopped.set()
        sender.join()


def _read_with(hospital: Hospital, story: Story, instance_count: int) -> dict[str, Any] | None:
    study = hospital.study(story.study_instance_uid)
    return study if (study.get("state"), study.get("instance_count")) == ("read", instance_count) else None


def _at_least(count: int, found: Sequence[T]) -> Sequence[T] | None:
    return found if len(found) >= count else None


def _control_id(message: bytes) -> bytes:
    return message.split(b"|")[9]
