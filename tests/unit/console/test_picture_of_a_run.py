"""The picture of a run: the right image, the mask where the finding is, and for whom."""

from __future__ import annotations

import io
from dataclasses import replace

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.read_studies import BLEED, FILM, PHANTOM, PNEUMONIA, REPOSITORY, ReadStudies, audited, part10

from wetread.archive import instances
from wetread.domain.finding import Reading
from wetread.domain.phase import Phase
from wetread.domain.reader import SYSTEM
from wetread.domain.study import MatchState
from wetread.reading import pictures, runs
from wetread.store.database import Database
from wetread.wire import dicom


async def test_the_bleed_is_drawn_on_the_slice_that_shows_most_of_it(
    ward: ReadStudies, radiologist: httpx.AsyncClient, database: Database
) -> None:
    study = await ward.study(PHANTOM)
    run_id = await ward.run(study, PHANTOM, BLEED)

    answer = await radiologist.get(f"/api/runs/{run_id}/picture")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == "no-store"
    run = await _run(ward, run_id)
    drawn, truth = _red(answer.content), _true_bleed(run.source_instances.index(str(run.findings[0].key_image)))
    assert 2 * (drawn & truth).sum() / (drawn.sum() + truth.sum()) > 0.7
    assert [row[:3] for row in await audited(database)] == [("instance-accessed", "0", "dr-demo")]


async def test_a_head_ct_is_shown_in_the_brain_window_whatever_its_own(
    ward: ReadStudies, radiologist: httpx.AsyncClient
) -> None:
    run_id = await ward.run(await ward.study(PHANTOM), PHANTOM, BLEED)
    before = (await radiologist.get(f"/api/runs/{run_id}/picture")).content
    await _window(ward, run_id, centre=600, width=2000)
    assert (await radiologist.get(f"/api/runs/{run_id}/picture")).content == before


async def test_a_film_is_shown_in_its_own_window(ward: ReadStudies, radiologist: httpx.AsyncClient) -> None:
    run_id = await ward.run(await ward.study(FILM), FILM, PNEUMONIA)
    before = _image((await radiologist.get(f"/api/runs/{run_id}/picture")).content)
    await _window(ward, run_id, centre=200, width=20)
    after = _image((await radiologist.get(f"/api/runs/{run_id}/picture")).content)
    assert before.shape == after.shape
    assert after.mean() < before.mean() - 50


async def test_without_a_key_image_the_middle_of_the_volume_is_shown(ward: ReadStudies) -> None:
    study = await ward.study(PHANTOM)
    run_id = await ward.run(study, PHANTOM, BLEED)
    reading = await _run(ward, run_id)
    (finding,) = reading.findings
    assert pictures.shown_instance(reading) == finding.key_image
    nothing = replace(reading, findings=(replace(finding, key_image=None, segment=None, outline=()),))
    assert pictures.shown_instance(nothing) == reading.source_instances[20]
    absent = replace(finding, present=False, critical=False, key_image=reading.source_instances[0])
    assert pictures.shown_instance(replace(reading, findings=(absent, finding))) == finding.key_image


@pytest.mark.parametrize("state", ["done", "reported"])
async def test_a_silent_runs_picture_exists_for_nobody(
    ward: ReadStudies, radiologist: httpx.AsyncClient, state: str
) -> None:
    study = await ward.study(FILM)
    run_id = await ward.run(study, FILM, PNEUMONIA, Phase.SILENT, state=state)
    silent = await radiologist.get(f"/api/runs/{run_id}/picture")
    unknown = await radiologist.get("/api/runs/no-such-run/picture")
    assert silent.status_code == unknown.status_code == 404
    assert silent.json() == unknown.json()


@pytest.mark.parametrize("state", ["held", "done"])
async def test_a_held_runs_picture_is_for_who_may_decide(
    ward: ReadStudies, radiologist: httpx.AsyncClient, service: httpx.AsyncClient, state: str
) -> None:
    study = await ward.study(FILM, match_state=MatchState.HELD, match_reason="two orders")
    run_id = await ward.run(study, FILM, PNEUMONIA, state=state)
    assert (await radiologist.get(f"/api/runs/{run_id}/picture")).status_code == 200
    assert (await service.get(f"/api/runs/{run_id}/picture")).status_code == 403


async def test_a_run_without_an_answer_has_no_picture(ward: ReadStudies, radiologist: httpx.AsyncClient) -> None:
    study = await ward.study(FILM)
    for state in ("queued", "superseded"):
        run_id = await ward.run(study, FILM, PNEUMONIA, state=state)
        assert (await radiologist.get(f"/api/runs/{run_id}/picture")).status_code == 404


async def test_the_picture_needs_a_token_and_is_no_page(visitor: httpx.AsyncClient, database: Database) -> None:
    answer = await visitor.get("/api/runs/any/picture")
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert [row[:3] for row in await audited(database)] == [("access-denied", "4", "anonymous")]


async def _run(ward: ReadStudies, run_id: str) -> Reading:
    async with ward.database.transaction() as conn:
        run = await runs.by_id(conn, run_id)
    assert run is not None
    assert run.reading is not None
    return run.reading


async def _window(ward: ReadStudies, run_id: str, *, centre: float, width: float) -> None:
    """Gives the stored images of a run another window."""
    reading = await _run(ward, run_id)
    async with ward.database.transaction() as conn:
        keys = await instances.keys_of_series(conn, SYSTEM, reading.series_instance_uid)
    for _, key in keys:
        dataset = dicom.read(ward.blobs.get(key))
        dataset.WindowCenter, dataset.WindowWidth = centre, width
        ward.blobs.put(key, part10(dataset))


def _image(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _red(content: bytes) -> NDArray[np.bool_]:
    """Where the phantom's picture bears the finding's colour (220, 30, 30), for each pixel of the slice."""
    image = _image(content).astype(int)
    scale, banner = image.shape[1] // 96, 28
    slice_ = image[banner + scale // 2 : banner + 112 * scale : scale, scale // 2 :: scale]
    return np.asarray(slice_[..., 0] - slice_[..., 1] > 50)


def _true_bleed(frame: int) -> NDArray[np.bool_]:
    """The bleed that the phantom was made with, on one slice, as the CT shows it."""
    with np.load(REPOSITORY / "demo" / "phantoms" / "phantom_9000.npz") as stored:
        return np.asarray(stored["bleed"][frame, ::-1, ::-1] > 0)
