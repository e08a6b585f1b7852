"""The life of an order, from its message to the Task that an EHR follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .conftest import Hospital, Story, part10, until

Make = Callable[[str], Story]


def test_a_duplicate_gets_the_stored_answer_byte_for_byte_and_has_no_second_effect(
    hospital: Hospital, story: Make
) -> None:
    film = story("chest-film")
    first = hospital.order(film.message)
    hospital.task_when(film.accession_number, "requested")
    again = hospital.order(film.message)
    assert (first.code, again.raw) == ("AA", first.raw)
    control = film.message.split(b"|")[9].decode()
    assert len([m for m in _messages(hospital) if m["control_id"] == control]) == 1
    [request] = hospital.search("ServiceRequest", identifier=film.accession_number)
    assert request["meta"]["versionId"] == "1"


def test_the_command_line_sends_orders_and_images_to_its_own_server(
    hospital: Hospital, story: Make, tmp_path: Path
) -> None:
    film = story("chest-film")
    order, images = tmp_path / "order.hl7", tmp_path / "images"
    order.write_bytes(film.message)
    images.mkdir()
    for number, dataset in enumerate(film.datasets):
        (images / f"{number}.dcm").write_bytes(part10(dataset))
    assert ": AA " in hospital.command("send", "hl7", str(order))
    assert "stored by WETREAD" in hospital.command("send", "dicom", str(images))
    hospital.task_when(film.accession_number, "completed")


def test_a_cancelled_order_stays_cancelled_and_its_study_is_read_nevertheless(hospital: Hospital, story: Make) -> None:
    """The images exist, and somebody will look at them: the results come under the study's own Task, not basedOn the
    order that was taken back."""
    film = story("chest-film")
    hospital.order(film.message)
    hospital.task_when(film.accession_number, "requested")
    hospital.order(_changed(film, b"ORC|NW", b"ORC|CA"))
    hospital.task_when(film.accession_number, "cancelled")
    [request] = hospital.search("ServiceRequest", identifier=film.accession_number)
    assert request["status"] == "revoked"

    hospital.store(film.datasets)
    study = hospital.study_when(film.study_instance_uid)
    until("the SR", lambda: hospital.objects("SR", film.study_instance_uid))
    assert all("basedOn" not in o for o in hospital.observations_of(study))
    assert hospital.search("Task", _id=study["task_id"])[0]["status"] == "completed"
    assert hospital.task_of(film.accession_number)["status"] == "cancelled"


def test_an_order_cancelled_after_its_study_was_read_keeps_its_results(hospital: Hospital, story: Make) -> None:
    film = story("chest-film")
    hospital.order(film.message)
    hospital.store(film.datasets)
    hospital.task_when(film.accession_number, "completed")
    study = hospital.study(film.study_instance_uid)
    hospital.order(_changed(film, b"ORC|NW", b"ORC|CA"))
    until("the order to be revoked", lambda: _request(hospital, film)["status"] == "revoked")
    assert hospital.task_of(film.accession_number)["status"] == "completed"
    assert hospital.observations_of(study)


def test_a_cancel_of_orc_alone_finds_its_order_by_number(hospital: Hospital, story: Make) -> None:
    film = story("chest-film")
    hospital.order(film.message)
    hospital.task_when(film.accession_number, "requested")
    segments = _changed(film, b"ORC|NW", b"ORC|CA").split(b"\r")
    assert hospital.order(b"\r".join(s for s in segments if s[:3] in (b"MSH", b"ORC")) + b"\r").code == "AA"
    hospital.task_when(film.accession_number, "cancelled")


def test_a_changed_priority_moves_the_study_up_the_worklist(hospital: Hospital, story: Make) -> None:
    first, second = story("chest-film"), story("chest-film")
    for film in (first, second):
        hospital.order(film.message)
        hospital.store(film.datasets)
        hospital.task_when(film.accession_number, "completed")
    assert _place(hospital, first) < _place(hospital, second)
    hospital.order(_changed(second, b"ORC|NW", b"ORC|XO").replace(b"^^R||", b"^^S||").replace(b"R^Routine", b"S^Stat"))
    until("the order to be stat", lambda: _request(hospital, second)["priority"] == "stat")
    assert _place(hospital, second) < _place(hospital, first)
    with hospital.client() as client:
        [row] = [
            r
            for r in client.get("/api/worklist", params={"limit": 1000}).json()
            if r["study_instance_uid"] == second.study_instance_uid
        ]
    assert "ordered STAT" in row["reason"]


def test_demographics_follow_adt_a08_and_an_order_does_not_overwrite_them(hospital: Hospital, story: Make) -> None:
    """An order repeats what its placer knew; the ADT feed is the authority."""
    film = story("chest-film")
    hospital.order(film.message)
    hospital.task_when(film.accession_number, "requested")
    pid = next(s for s in film.message.split(b"\r") if s.startswith(b"PID")).replace(b"MIA", b"MIRIAM")
    head = film.message.split(b"\r")[0].replace(b"ORM^O01^ORM_O01", b"ADT^A08^ADT_A01").replace(b"|T", b"|A", 1)
    hospital.order(b"\r".join((head, b"EVN||20261120080000+0000", pid, b"PV1|1|O")) + b"\r")
    until("the new name", lambda: _given(hospital, film) == ["MIRIAM"])
    hospital.order(_changed(film, b"ORC|NW", b"ORC|XO").replace(b"Fever, unspecified", b"Fever"))
    until("the change of the order", lambda: _request(hospital, film)["meta"]["versionId"] != "1")
    assert _given(hospital, film) == ["MIRIAM"]


def test_a_message_that_cannot_be_mapped_waits_for_its_mended_map_and_holds_up_its_own_patient_only(
    site: Hospital, story: Make
) -> None:
    codes = site.server.config.parent / "overlay" / "codes" / "order-control.yaml"
    codes.parent.mkdir()
    codes.write_text("description: a site forgot XO\ncodes: {NW: create, CA: cancel}\n")
    site.server.restart()
    film, other = story("chest-film"), story("chest-film")
    site.order(film.message)
    site.task_when(film.accession_number, "requested")
    urgent = _changed(film, b"ORC|NW", b"ORC|XO").replace(b"^^R||", b"^^S||").replace(b"R^Routine", b"S^Stat")
    assert site.order(urgent).code == "AA", "the sender is not told later either"
    assert site.order(_changed(film, b"ORC|NW", b"ORC|CA")).code == "AA"
    site.order(other.message)
    site.task_when(other.accession_number, "requested")
    [failed] = until("the error list", lambda: [m for m in _messages(site) if m["state"] == "error"])
    assert failed["error"].startswith("ORC")
    assert film.accession_number not in failed["error"]
    assert "error" in site.command("messages", "list", "--state", "error")
    assert site.task_of(film.accession_number)["status"] == "requested", "the cancel waits behind the change"
    assert _request(site, film)["priority"] == "routine"

    codes.write_text("description: mended\ncodes: {NW: create, CA: cancel, XO: update}\n")
    site.server.restart()
    site.command("messages", "replay", str(failed["id"]))
    site.task_when(film.accession_number, "cancelled")
    assert _request(site, film)["priority"] == "stat", "the change took effect before the cancel"
    assert not [m for m in _messages(site) if m["state"] == "error"]


def _changed(story: Story, old: bytes, new: bytes) -> bytes:
    """Another message about the same order."""
    assert old in story.message
    return story.message.replace(old, new).replace(b"|T", b"|" + new[-2:] + b"T", 1)


def _request(hospital: Hospital, story: Story) -> dict[str, Any]:
    return hospital.search("ServiceRequest", identifier=story.accession_number)[0]


def _given(hospital: Hospital, story: Story) -> list[str]:
    [patient] = hospital.search("Patient", identifier=story.case.patient.id)
    given: list[str] = patient["name"][0]["given"]
    return given


def _place(hospital: Hospital, story: Story) -> int:
    with hospital.client() as client:
        rows = client.get("/api/worklist", params={"limit": 1000}).json()
    return [r["study_instance_uid"] for r in rows].index(story.study_instance_uid)


def _messages(hospital: Hospital) -> list[dict[str, Any]]:
    with hospital.client() as client:
        found: list[dict[str, Any]] = client.get("/api/messages", params={"limit": 1000}).json()
    return found
