"""Findings that the site shows on request: out of a person's view until they ask, and the asking is on record."""

from __future__ import annotations

import re

import httpx
import pytest
from tests.read_studies import BLEED, FILM, PHANTOM, PNEUMONIA, ReadStudies, Site

from wetread.domain.reader import Reader, Scope
from wetread.errors import Forbidden
from wetread.governance.display import Display, change_display
from wetread.reading import answers
from wetread.store.database import Database

COMMITTEE = Reader("committee", roles=frozenset({"governance"}))
WORDS = "Intracranial hemorrhage"


@pytest.fixture
async def on_request(database: Database) -> None:
    async with database.transaction() as conn:
        for model in (BLEED, PNEUMONIA):
            await change_display(conn, COMMITTEE, model, Display.ON_REQUEST, "readers look first")


async def critical(ward: ReadStudies) -> tuple[str, str]:
    study = await ward.study(PHANTOM, critical=True, critical_reason=f"{WORDS} ({BLEED})")
    return study.id, await ward.run(study, PHANTOM, BLEED)


async def ask(browser: httpx.AsyncClient, study_id: str, run_id: str, **changed: str) -> httpx.Response:
    page = (await browser.get(f"/worklist/{study_id}")).text
    form = page.split(f"/worklist/{study_id}/reveal", 1)[1]
    token = re.search(r'name="form_token" value="([^"]+)"', form)
    assert token is not None
    return await browser.post(
        f"/worklist/{study_id}/reveal", data={"form_token": token[1], "run": run_id, **changed}, follow_redirects=False
    )


@pytest.mark.usefixtures("on_request")
async def test_no_page_tells_it_and_the_mark_and_the_place_stay(
    ward: ReadStudies, radiologist: httpx.AsyncClient
) -> None:
    study_id, run_id = await critical(ward)
    seen = [(await radiologist.get(path)).text for path in ("/worklist", f"/worklist/{study_id}")]
    assert all("CRITICAL" in page and WORDS not in page and "shown on request" in page for page in seen)
    assert (await radiologist.get(f"/api/runs/{run_id}/picture")).status_code == 403


@pytest.mark.usefixtures("on_request")
async def test_who_asks_is_shown_it_and_the_asking_is_recorded_once(
    ward: ReadStudies, radiologist: httpx.AsyncClient, console: Site, database: Database
) -> None:
    study_id, run_id = await critical(ward)
    assert (await ask(radiologist, study_id, run_id)).status_code == 303

    page = (await radiologist.get(f"/worklist/{study_id}")).text
    assert WORDS in page
    assert WORDS in (await radiologist.get("/worklist")).text
    assert (await radiologist.get(f"/api/runs/{run_id}/picture")).status_code == 200
    radiologist.cookies.clear()
    another = {"Authorization": f"Bearer {console.token('radiologist', principal='dr-other')}"}
    assert WORDS not in (await radiologist.get(f"/worklist/{study_id}", headers=another)).text
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT principal, patient_id FROM audit_event WHERE kind = 'finding-revealed'")
        assert [row[0] for row in await rows.fetchall()] == ["dr-demo"]


@pytest.mark.usefixtures("on_request")
async def test_another_sites_form_asks_for_nothing(ward: ReadStudies, radiologist: httpx.AsyncClient) -> None:
    study_id, run_id = await critical(ward)
    assert (await ask(radiologist, study_id, run_id, form_token="forged")).status_code == 403
    assert WORDS not in (await radiologist.get(f"/worklist/{study_id}")).text


async def test_a_model_that_is_shown_at_once_again_hides_nothing(
    ward: ReadStudies, radiologist: httpx.AsyncClient, database: Database
) -> None:
    study = await ward.study(FILM)
    await ward.run(study, FILM, PNEUMONIA)
    for display, is_shown in ((Display.ON_REQUEST, False), (Display.AT_ONCE, True)):
        async with database.transaction() as conn:
            await change_display(conn, COMMITTEE, PNEUMONIA, display, "tried")
        assert ("<td>0.682</td>" in (await radiologist.get(f"/worklist/{study.id}")).text) == is_shown


async def test_how_findings_are_shown_is_the_committees_to_say(database: Database) -> None:
    with pytest.raises(Forbidden):
        async with database.transaction() as conn:
            await change_display(
                conn, Reader("x", roles=frozenset({"radiologist"})), PNEUMONIA, Display.ON_REQUEST, "mine"
            )


@pytest.mark.usefixtures("on_request")
async def test_no_app_asks_in_a_persons_name(ward: ReadStudies) -> None:
    _, run_id = await critical(ward)
    everything = (Scope.parse("user/*.rs"),)
    async with ward.database.transaction() as conn:
        with pytest.raises(Forbidden):
            await answers.reveal(conn, Reader("dr-demo", everything, client_id="viewer"), run_id)
        assert (await answers.reveal(conn, Reader("viewer", everything, client_id="viewer"), run_id)).critical


async def test_what_a_model_said_is_not_for_who_may_read_images_only(
    ward: ReadStudies, visitor: httpx.AsyncClient, console: Site
) -> None:
    study_id, run_id = await critical(ward)
    for scope, is_shown in (
        ("system/ImagingStudy.rs", False),
        ("system/ImagingStudy.rs system/Observation.rs", False),
        ("system/ImagingStudy.rs system/Observation.rs system/DiagnosticReport.rs", True),
    ):
        headers = {"Authorization": f"Bearer {console.token(scope=scope)}"}
        for path in ("/worklist", f"/worklist/{study_id}"):
            answer = await visitor.get(path, headers=headers)
            assert (answer.status_code, WORDS in answer.text) == (200, is_shown), (scope, path)
        picture = await visitor.get(f"/api/runs/{run_id}/picture", headers=headers)
        assert (picture.status_code == 404) != is_shown
