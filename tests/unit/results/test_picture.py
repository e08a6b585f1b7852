"""The picture of a finding: drawn on the real image, with what must be said around it."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from wetread.domain.finding import Finding
from wetread.errors import InvalidInput
from wetread.results.picture import picture

SLICE = Path(__file__).parents[2] / "data" / "results" / "mr_small.dcm"


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    values = pydicom.dcmread(SLICE).pixel_array.astype(np.float64)
    return np.clip(255 * (values - values.min()) / np.ptp(values), 0, 255).astype(np.uint8)


def decoded(png: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_the_mask_is_tinted_where_it_lies_and_nowhere_else(
    pixels: NDArray[np.uint8], head_ct: Any, bleed: Finding, make_reading: Any
) -> None:
    mask = np.zeros(pixels.shape, dtype=np.bool_)
    mask[20:30, 40:50] = True
    drawn = decoded(picture(pixels, make_reading(head_ct, bleed), masks={"bleed": mask}))
    scale = 8
    top = next(row for row in range(drawn.shape[0]) if tuple(drawn[row, -1]) != (176, 0, 32))
    image = drawn[top : top + 64 * scale : scale, : 64 * scale : scale].astype(int)
    grey = np.repeat(pixels[..., np.newaxis], 3, axis=2)
    assert np.array_equal((image != grey).any(axis=2), mask)
    assert tuple(image[20, 40]) == (255, 0, 0)


def test_an_outline_is_drawn(pixels: NDArray[np.uint8], chest_film: Any, nodule: Finding, make_reading: Any) -> None:
    outlined = replace(nodule, outline=((10.0, 10.0), (50.0, 10.0), (30.0, 50.0)))
    with_outline, without = (
        decoded(picture(pixels, make_reading(chest_film, f))) for f in (outlined, replace(nodule, outline=()))
    )
    assert (with_outline[:500] == (255, 196, 0)).all(axis=2).sum() > 500
    assert (without[:500] == (255, 196, 0)).all(axis=2).sum() == 0


def test_colour_images_are_drawn_as_they_are(
    pixels: NDArray[np.uint8], chest_film: Any, no_pneumonia: Finding, make_reading: Any
) -> None:
    colour = np.stack([pixels, pixels // 2, pixels // 3], axis=2)
    drawn = decoded(picture(colour, make_reading(chest_film, no_pneumonia)))
    assert np.array_equal(drawn[28 : 28 + 512 : 8, :512:8], colour)


def test_the_banner_and_the_legend_change_with_what_they_say(
    pixels: NDArray[np.uint8], chest_film: Any, no_pneumonia: Finding, make_reading: Any
) -> None:
    plain, demo = (decoded(picture(pixels, make_reading(chest_film, no_pneumonia, demo=d))) for d in (False, True))
    assert plain.shape == demo.shape
    assert not np.array_equal(plain[:28], demo[:28])
    assert np.array_equal(plain[28:], demo[28:])


def test_the_picture_made_twice_is_the_same(
    pixels: NDArray[np.uint8], chest_film: Any, no_pneumonia: Finding, make_reading: Any
) -> None:
    reading = make_reading(chest_film, no_pneumonia)
    assert picture(pixels, reading) == picture(pixels, reading)


def test_pixels_and_masks_of_other_shapes_are_refused(
    pixels: NDArray[np.uint8], head_ct: Any, bleed: Finding, make_reading: Any
) -> None:
    with pytest.raises(InvalidInput, match="8-bit"):
        picture(pixels.astype(np.uint16), make_reading(head_ct, bleed))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="rows and columns"):
        picture(pixels, make_reading(head_ct, bleed), masks={"bleed": np.zeros((3, 3), dtype=np.bool_)})
