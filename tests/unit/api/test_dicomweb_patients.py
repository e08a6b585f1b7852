"""A token of one patient, or of a part of the studies, finds and gets the images of these and of no other."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import httpx
import pydicom
import pytest

from wetread.record import resources
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database

from .archived import archive_client, arrived, image
from .scoped import reader, token

OWN, OTHER = "1.2.3.1", "1.2.3.2"


@pytest.fixture
async def web(database: Database, blobs: LocalBlobs) -> AsyncIterator[httpx.AsyncClient]:
    await arrived(database, blobs, OWN, "p1", "MR")
    await arrived(database, blobs, OTHER, "p2", "CT")
    async with archive_client(database, blobs) as client:
        yield client


@pytest.mark.parametrize(
    "rights",
    [
        token("patient/*.rs", "p1"),
        token("patient/ImagingStudy.rs?modality=MR,CT", "p1"),
        token("system/ImagingStudy.rs?modality=MR"),
    ],
)
async def test_the_studies_of_the_part_are_found_and_given_and_no_others(
    web: httpx.AsyncClient, rights: dict[str, str]
) -> None:
    for path in (
        "/studies",
        "/series",
        "/instances",
        "/studies?PatientID=*",
        f"/studies?StudyInstanceUID={OWN},{OTHER}",
    ):
        answer = await web.get(path, headers=rights)
        assert [study["0020000D"]["Value"] for study in answer.json()] == [[OWN]], path
    assert (await web.get(f"/studies/{OTHER}/series", headers=rights)).json() == []
    for path in ("", "/metadata", "/series/{0}.1", "/series/{0}.1/instances/{0}.1.1", "/series/{0}.1/metadata"):
        assert (await web.get(f"/studies/{OWN}" + path.format(OWN), headers=rights)).status_code == 200, path
        hidden = await web.get(f"/studies/{OTHER}" + path.format(OTHER), headers=rights)
        unknown = await web.get("/studies/9.9" + path.format("9.9"), headers=rights)
        assert hidden.status_code == unknown.status_code == 404
        assert hidden.content == unknown.content
    mixed = await web.get(f"/studies/{OWN}/series/{OTHER}.1", headers=rights)
    assert mixed.status_code == 404


async def test_a_token_to_read_does_not_find(web: httpx.AsyncClient) -> None:
    read = token("patient/ImagingStudy.r", "p1")
    assert (await web.get("/studies", headers=read)).status_code == 403
    assert (await web.get(f"/studies/{OWN}", headers=read)).status_code == 200
    assert (await web.get("/studies", headers=token("patient/Observation.rs", "p1"))).status_code == 403


async def test_images_are_stored_by_who_may_store_any(web: httpx.AsyncClient) -> None:
    headers = {
        **token("patient/*.cruds", "p1"),
        "content-type": 'multipart/related; type="application/dicom"; boundary=b',
    }
    assert (await web.post("/studies", content=b"--b--", headers=headers)).status_code == 403


async def test_what_was_taken_from_the_patient_is_not_given_any_more(
    web: httpx.AsyncClient, database: Database
) -> None:
    own = token("patient/*.rs", "p1")
    async with database.transaction() as conn:
        version = await resources.read(conn, reader("system/*.r"), "ImagingStudy", "study-p1")
        await resources.put(conn, {**version.resource(), "subject": {"reference": "Patient/p2"}})
    assert (await web.get("/studies", headers=own)).json() == []
    assert (await web.get(f"/studies/{OWN}", headers=own)).status_code == 404


async def test_the_audit_names_each_patient_whose_studies_were_told_of(
    web: httpx.AsyncClient, database: Database
) -> None:
    everything, nothing = token("system/ImagingStudy.rs"), {"PatientID": "nobody"}
    await web.get("/studies", headers=everything)
    await web.get("/studies", params=nothing, headers=everything)
    await web.get(f"/studies/{OWN}/metadata", headers=everything)
    assert await recorded(database) == [
        ("instance-queried", "0", "p1", [f"urn:oid:{OWN}"]),
        ("instance-queried", "0", "p2", [f"urn:oid:{OTHER}"]),
        ("instance-queried", "0", None, []),
        ("instance-accessed", "0", "p1", [f"urn:oid:{OWN}"]),
    ]


async def test_the_audit_tells_of_nobody_where_nothing_was_given(web: httpx.AsyncClient, database: Database) -> None:
    own = token("patient/*.rs", "p1")
    assert (await web.get(f"/studies/{OTHER}", headers=own)).status_code == 404
    assert (await web.get("/studies?StudyDate=never", headers=own)).status_code == 400
    assert (await web.get("/studies", headers=token("patient/Patient.rs", "p1"))).status_code == 403
    assert await recorded(database) == [
        ("instance-accessed", "4", None, []),
        ("instance-queried", "4", None, []),
        ("access-denied", "4", None, []),
    ]


async def test_the_audit_names_the_patient_of_a_study_that_grows(web: httpx.AsyncClient, database: Database) -> None:
    dataset = pydicom.dcmread(io.BytesIO(image(OWN)))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{OWN}.1.2"
    file = io.BytesIO()
    dataset.save_as(file)
    writes = token("system/ImagingStudy.cruds") | {"Content-Type": "application/dicom"}
    assert (await web.post("/studies", content=file.getvalue(), headers=writes)).status_code == 200
    assert (await web.post("/studies", content=image("1.2.3.3"), headers=writes)).status_code == 200
    assert await recorded(database) == [
        ("instance-stored", "0", "p1", [f"urn:oid:{OWN}"]),
        ("instance-stored", "0", None, ["urn:oid:1.2.3.3"]),
    ]


async def recorded(database: Database) -> list[tuple[str, str, str | None, list[str]]]:
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT kind, outcome, patient_id, entities FROM audit_event ORDER BY position")
        return [(kind, outcome, patient, list(names)) for kind, outcome, patient, names in await rows.fetchall()]
