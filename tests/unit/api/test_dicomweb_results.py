"""What a model found is an SR and a SEG, too: DICOMweb gives them to whom its findings are for, and to nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from wetread.archive import instances
from wetread.domain.finding import ModelIdentity
from wetread.domain.phase import Phase
from wetread.domain.reader import Reader
from wetread.governance import display
from wetread.governance.display import Display, change_display
from wetread.reading import runs
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database
from wetread.wire import dicom

from .archived import archive_client, arrived, image
from .scoped import reader, token

OWN, OTHER = "1.2.3.1", "1.2.3.2"
LUNG, BLEED = "lung", "bleed"
COMMITTEE = Reader("committee", roles=frozenset({"governance"}))
RESULTS = "system/ImagingStudy.rs system/Observation.rs system/DiagnosticReport.rs"
OF_PATIENT = RESULTS.replace("system", "patient")


async def found_by(database: Database, blobs: LocalBlobs, study: str, model: str, series: str) -> str:
    """A run of the model over the study, and what it made: an SR in one series, a SEG in the next."""
    identity = ModelIdentity(model, "1", model, "", "Example")
    async with database.transaction() as conn:
        run_id = await runs.queue(conn, study, f"{study}.1", 1, identity, Phase.ACTIVE, "all")
        for number, modality in ((series, "SR"), (f"{series}0", "SEG")):
            file = image(study, number, modality)
            await instances.store_produced(conn, blobs, dicom.facts(file), file, run_id)
    return run_id


@pytest.fixture
async def lung(database: Database, blobs: LocalBlobs) -> str:
    """Two studies of two patients, of both with an answer of one model; of the first with one of another, too. The run
    of the first."""
    await arrived(database, blobs, OWN, "p1", "MR")
    await arrived(database, blobs, OTHER, "p2", "MR")
    await found_by(database, blobs, OTHER, LUNG, "2")
    await found_by(database, blobs, OWN, BLEED, "3")
    return await found_by(database, blobs, OWN, LUNG, "2")


@pytest.fixture
async def web(database: Database, blobs: LocalBlobs, lung: str) -> AsyncIterator[httpx.AsyncClient]:
    async with archive_client(database, blobs) as client:
        yield client


async def shown(database: Database, model: str, how: Display) -> None:
    async with database.transaction() as conn:
        await change_display(conn, COMMITTEE, model, how, "readers look first")


async def told(web: httpx.AsyncClient, study: str, rights: dict[str, str]) -> set[str]:
    """The series of a study that are found and given; that no way of asking tells more or less is seen to here."""
    given = {i.split(".")[4] for i in await uids(web, f"/studies/{study}/instances", "00080018", rights)}
    assert {s.split(".")[4] for s in await uids(web, f"/studies/{study}/series", "0020000E", rights)} == given
    of_all = await uids(web, f"/instances?StudyInstanceUID={study}", "00080018", rights)
    assert {uid.split(".")[4] for uid in of_all} == given
    (whole,) = (await web.get(f"/studies?StudyInstanceUID={study}", headers=rights)).json()
    assert whole["00201206"]["Value"] == whole["00201208"]["Value"] == [len(given)]
    kinds = {"1": "MR", "2": "SR", "3": "SR", "20": "SEG", "30": "SEG"}
    assert set(whole["00080061"]["Value"]) == {kinds[series] for series in given}
    for modality in ("SR", "SEG"):
        is_there = any(kinds[series] == modality for series in given)
        found = await uids(web, f"/studies?ModalitiesInStudy={modality}&StudyInstanceUID={study}", "0020000D", rights)
        assert bool(found) == is_there
    metadata = (await web.get(f"/studies/{study}/metadata", headers=rights)).json()
    assert {each["00080018"]["Value"][0].split(".")[4] for each in metadata} == given
    files = (await web.get(f"/studies/{study}", headers=rights)).content
    assert files.count(b"Content-Type: application/dicom") == len(given)
    for series in kinds:
        path = f"/studies/{study}/series/{study}.{series}/instances/{study}.{series}.1"
        for way in (path, f"{path}/metadata", f"{path}/frames/1", path.rpartition("/instances")[0]):
            status = (await web.get(way, headers=rights)).status_code
            assert status == (200 if series in given else 404), way
    return given


async def uids(web: httpx.AsyncClient, path: str, tag: str, rights: dict[str, str]) -> list[str]:
    answer = await web.get(path, headers=rights)
    assert answer.status_code == 200, answer.text
    return [each[tag]["Value"][0] for each in answer.json()]


async def test_images_alone_are_not_the_findings(web: httpx.AsyncClient) -> None:
    assert await told(web, OWN, token("system/ImagingStudy.rs")) == {"1"}
    assert await told(web, OWN, token("system/ImagingStudy.rs system/Observation.rs")) == {"1"}
    assert await told(web, OWN, token(f"{RESULTS}?status=final")) == {"1"}
    assert await told(web, OWN, token(RESULTS)) == {"1", "2", "20", "3", "30"}


async def test_a_patients_token_opens_the_findings_of_the_patient(web: httpx.AsyncClient) -> None:
    assert await told(web, OWN, token("patient/ImagingStudy.rs", "p1")) == {"1"}
    assert await told(web, OWN, token(OF_PATIENT, "p1")) == {"1", "2", "20", "3", "30"}
    of_all_images = token(f"user/ImagingStudy.rs {OF_PATIENT}", "p1")
    assert await told(web, OWN, of_all_images) == {"1", "2", "20", "3", "30"}
    assert await told(web, OTHER, of_all_images) == {"1"}


async def test_findings_on_request_are_given_to_who_has_asked_for_them(
    web: httpx.AsyncClient, database: Database, lung: str
) -> None:
    everything = token(RESULTS)
    await shown(database, LUNG, Display.ON_REQUEST)
    assert await told(web, OWN, everything) == {"1", "3", "30"}
    assert await told(web, OTHER, everything) == {"1"}
    async with database.transaction() as conn:
        await display.ask_for(conn, Reader("somebody else"), lung)
    assert await told(web, OWN, everything) == {"1", "3", "30"}
    async with database.transaction() as conn:
        await display.ask_for(conn, reader(RESULTS), lung)
    assert await told(web, OWN, everything) == {"1", "2", "20", "3", "30"}
    assert await told(web, OTHER, everything) == {"1"}
    assert await told(web, OWN, token("system/ImagingStudy.rs")) == {"1"}
    await shown(database, LUNG, Display.AT_ONCE)
    assert await told(web, OTHER, everything) == {"1", "2", "20"}


async def test_what_is_of_no_run_that_is_known_is_concealed_where_anything_is(
    web: httpx.AsyncClient, database: Database
) -> None:
    async with database.transaction() as conn:
        await conn.execute("UPDATE instance SET run_id = NULL")
    assert await told(web, OWN, token(RESULTS)) == {"1", "2", "20", "3", "30"}
    await shown(database, "another", Display.ON_REQUEST)
    assert await told(web, OWN, token(RESULTS)) == {"1"}
