"""The key image of a run with its findings drawn on it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pydicom
from numpy.typing import NDArray

from wetread.archive import instances
from wetread.domain.finding import Finding, Reading
from wetread.domain.reader import Reader
from wetread.errors import Forbidden, NotFound
from wetread.reading import answers, runs, studies
from wetread.reading.image import displayed
from wetread.reading.infer import unpack_masks
from wetread.results import picture as drawing
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Connection
from wetread.wire import dicom

_BRAIN_CENTRE_HU, _BRAIN_WIDTH_HU = 40, 80
_HEAD = ("HEAD", "BRAIN", "SKULL")


async def picture(conn: Connection, reader: Reader, blobs: LocalBlobs, run_id: str) -> bytes:
    """A PNG of the image that shows the run's finding best, with mask and outline, legend and banner.

    Raises NotFound where there is no answer to show (a silent run's is never shown here), Forbidden for a held one
    without a deciding role and for one that is shown on request and was not asked for, InvalidInput or Unsupported
    where the image cannot be displayed.
    """
    reader.require("r", "ImagingStudy")
    run = await runs.by_id(conn, run_id)
    if run is None or run.reading is None or not run.phase.is_released:
        raise NotFound("no run with an answer has this id")
    study = await studies.by_uid(conn, reader, run.study_instance_uid)
    if not answers.has_visible_answer(run, study, reader):
        if answers.is_held(run, study):
            raise Forbidden("the results of this run are held until its order is confirmed")
        raise NotFound("no run with an answer has this id")
    if await answers.concealed(conn, reader, [run]):
        raise Forbidden("the findings of this model are shown on request; ask for them on the page of the study")
    keys = dict(await instances.keys_of_series(conn, reader, run.series_instance_uid))
    shown = shown_instance(run.reading)
    if shown not in keys:
        raise NotFound("the image of this run is no longer stored")
    return await asyncio.to_thread(_drawn, blobs, run.reading, shown, keys[shown], run.mask_key)


def shown_instance(reading: Reading) -> str:
    """The SOP Instance UID to show: the key image of the gravest finding that has one, else the middle of what was
    read. A volume's key image is the frame with most of the mask."""
    with_image = [f for f in reading.findings if f.key_image]
    if with_image:
        return str(max(with_image, key=_gravity).key_image)
    return reading.source_instances[len(reading.source_instances) // 2]


def _gravity(finding: Finding) -> tuple[bool, bool]:
    present = bool(finding.present)
    return finding.critical and present, present


def _drawn(blobs: LocalBlobs, reading: Reading, shown: str, image_key: str, mask_key: str | None) -> bytes:
    """Decodes and draws; a tenth of a second of a processor: runs in a thread."""
    pixels = _pixels(dicom.read(blobs.get(image_key)))
    masks = unpack_masks(blobs.get(mask_key)) if mask_key else {}
    frame = reading.source_instances.index(shown)
    on_this = tuple(f if f.key_image == shown else replace(f, outline=()) for f in reading.findings)
    return drawing.picture(pixels, replace(reading, findings=on_this), masks=_regions(reading, masks, frame))


def _regions(reading: Reading, masks: Mapping[int, NDArray[np.bool_]], frame: int) -> dict[str, NDArray[np.bool_]]:
    return {f.key: masks[f.segment.number][frame] for f in reading.findings if f.segment and f.segment.number in masks}


def _pixels(dataset: pydicom.Dataset) -> NDArray[np.uint8]:
    """As a radiologist would look at it first: a head CT in the brain window, everything else in its own."""
    body_part = str(dataset.get("BodyPartExamined", "") or "").upper()
    if dataset.get("Modality") == "CT" and body_part in _HEAD:
        dataset.WindowCenter, dataset.WindowWidth = _BRAIN_CENTRE_HU, _BRAIN_WIDTH_HU
        for keyword in ("VOILUTSequence", "VOILUTFunction"):
            dataset.pop(keyword, None)
    return np.rint(displayed(dataset)).astype(np.uint8)
