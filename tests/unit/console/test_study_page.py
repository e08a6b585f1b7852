"""The page of one study: order, match, runs, and what each reader may see of them."""

from __future__ import annotations

import httpx
from tests.read_studies import BLEED, FILM, PHANTOM, PNEUMONIA, ReadStudies

from wetread.domain.phase import Phase
from wetread.domain.study import MatchState
from wetread.reading import runs

DOUBT = "accession number agrees, but the patient does not: birth date differ"


async def test_a_read_study_with_its_order(ward: ReadStudies, radiologist: httpx.AsyncClient) -> None:
    order = await ward.order(PHANTOM)
    study = await ward.study(
        PHANTOM,
        service_request_id=order.service_request_id,
        match_state=MatchState.MATCHED,
        match_reason="Study Instance UID, and identifier and its assigning authority",
        critical=True,
        critical_reason="Intracranial hemorrhage (headct-bleed-synthetic)",
    )
    run_id = await ward.run(study, PHANTOM, BLEED)

    page = (await radiologist.get(f"/worklist/{study.id}")).text

    assert "PLACER-head-ct-phantom-bleed, FILLER-head-ct-phantom-bleed" in page
    assert "Match: matched (Study Instance UID" in page
    assert "SYNTHETIC headct-bleed-synthetic" in page
    assert "SYNTHETIC model: trained on computer-generated data." in page
    assert "Phase active; reported; revision 1" in page
    assert "Volume 27.0 milliliter" in page
    assert f'src="/api/runs/{run_id}/picture"' in page
    assert f"/fhir/ImagingStudy/{study.id}" in page
    assert f"/fhir/Task/{study.task_id}" in page
    assert f"/fhir/ServiceRequest/{order.service_request_id}" in page
    assert "/fhir/DiagnosticReport/" in page
    assert "DEMO-1004" in page


async def test_a_film_shows_probability_and_threshold(ward: ReadStudies, radiologist: httpx.AsyncClient) -> None:
    study = await ward.study(FILM)
    await ward.run(study, FILM, PNEUMONIA, Phase.CONCURRENT)
    page = (await radiologist.get(f"/worklist/{study.id}")).text
    assert "Phase concurrent (shown, moves nobody)" in page
    assert "<td>0.682</td>" in page
    assert "<td>present</td>" in page
    assert "CRITICAL" not in page
    assert "SYNTHETIC" not in page


async def test_a_silent_run_leaves_no_trace(ward: ReadStudies, radiologist: httpx.AsyncClient) -> None:
    study = await ward.study(FILM)
    run_id = await ward.run(study, FILM, PNEUMONIA, Phase.SILENT)
    page = (await radiologist.get(f"/worklist/{study.id}")).text
    assert "No model has been asked." in page
    assert PNEUMONIA not in page
    assert run_id not in page


async def test_a_held_study_shows_why_and_between_which_orders(
    ward: ReadStudies, radiologist: httpx.AsyncClient, service: httpx.AsyncClient
) -> None:
    order = await ward.order("head-ct")
    study = await ward.study(
        PHANTOM, match_state=MatchState.HELD, match_reason=DOUBT, candidates=(order.service_request_id,)
    )
    run_id = await ward.run(study, PHANTOM, BLEED, state="held")

    page = (await radiologist.get(f"/worklist/{study.id}")).text
    assert DOUBT in page
    assert "FILLER-head-ct" in page
    assert "DEMO-CHEN, ROBIN" in page
    assert "Volume 27.0 milliliter" in page
    assert f"/api/runs/{run_id}/picture" in page
    assert "DiagnosticReport" not in page

    page = (await service.get(f"/worklist/{study.id}")).text
    assert DOUBT in page
    assert "The answer is kept back" in page
    assert "27.0" not in page
    assert "hemorrhage" not in page
    assert "/picture" not in page


async def test_orders_need_their_own_scope(
    ward: ReadStudies, visitor: httpx.AsyncClient, images_only_token: str
) -> None:
    order = await ward.order("head-ct")
    study = await ward.study(
        PHANTOM, match_state=MatchState.HELD, match_reason=DOUBT, candidates=(order.service_request_id,)
    )
    visitor.cookies.set("wetread_token", images_only_token)
    page = await visitor.get(f"/worklist/{study.id}")
    assert page.status_code == 200
    assert "DEMO-CHEN" not in page.text


async def test_a_failed_run_says_why_and_shows_no_answer(ward: ReadStudies, radiologist: httpx.AsyncClient) -> None:
    study = await ward.study(FILM)
    run_id = await ward.run(study, FILM, PNEUMONIA, state="done")
    async with ward.database.transaction() as conn:
        await runs.failed(conn, run_id, "the model returned a value that is not a number")
    page = (await radiologist.get(f"/worklist/{study.id}")).text
    assert "the model returned a value that is not a number" in page
    assert "reading failed" in page
    assert "/picture" not in page


async def test_a_study_that_is_not_there(radiologist: httpx.AsyncClient) -> None:
    answer = await radiologist.get("/worklist/unknown")
    assert answer.status_code == 404
    assert "no study has this id" in answer.text
