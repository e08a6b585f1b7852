"""A film is read as a viewer shows it: window, polarity, range (PS3.3 C.11.2, C.7.6.3.1.2; PS3.4 N.2)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydicom import Dataset

from wetread.errors import InvalidInput, Unsupported
from wetread.reading.image import displayed, modality_values


@pytest.fixture
def film(study: Callable[[str], list[Dataset]]) -> Dataset:
    return study("chest-film")[0]


def test_an_eight_bit_film_with_the_full_window_is_its_own_display(film: Dataset) -> None:
    assert np.allclose(displayed(film), film.pixel_array, atol=1e-4)


def test_without_a_window_the_whole_stored_range_is_shown(film: Dataset) -> None:
    del film.WindowCenter, film.WindowWidth
    assert np.allclose(displayed(film), film.pixel_array, atol=1e-4)


def test_twelve_bits_in_sixteen_are_shown_alike(film: Dataset) -> None:
    before = displayed(film)
    pixels = (film.pixel_array.astype(np.uint16) * 16).astype(np.uint16)
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
    film.PixelData = pixels.tobytes()
    film["PixelData"].VR = "OW"
    film.WindowCenter, film.WindowWidth = 2040.5, 4081
    assert np.allclose(displayed(film), before, atol=0.5)


@pytest.mark.parametrize("shape", [None, "INVERSE"])
def test_an_inverted_film_is_turned_bright_bone_once(film: Dataset, shape: str | None) -> None:
    before = displayed(film)
    film.PixelData = (255 - film.pixel_array).astype(np.uint8).tobytes()
    film.PhotometricInterpretation = "MONOCHROME1"
    if shape:
        film.PresentationLUTShape = shape
    assert np.allclose(displayed(film), before, atol=1e-4)


def test_a_voi_lut_goes_before_the_window(film: Dataset) -> None:
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = np.linspace(65535, 0, 256).round().astype(np.uint16).tobytes()
    table["LUTData"].VR = "OW"
    film.VOILUTSequence = [table]
    assert np.allclose(displayed(film), 255.0 - film.pixel_array, atol=0.01)


def test_a_narrow_window_clips_and_the_first_of_several_counts(film: Dataset) -> None:
    film.WindowCenter, film.WindowWidth = [100, 10], [51, 10]
    stored = film.pixel_array.astype(float)
    assert np.allclose(displayed(film), np.clip((stored - 99.5) / 50 + 0.5, 0, 1) * 255, atol=1e-3)


def test_a_sigmoid_window_is_honoured(film: Dataset) -> None:
    film.VOILUTFunction = "SIGMOID"
    stored = film.pixel_array.astype(float)
    assert np.allclose(displayed(film), 255 / (1 + np.exp(-4 * (stored - 128) / 256)), atol=1e-3)


def test_truncated_pixels_are_refused_with_the_instance(film: Dataset) -> None:
    film.PixelData = film.PixelData[:100]
    with pytest.raises(InvalidInput, match=str(film.SOPInstanceUID)):
        displayed(film)


def test_colour_is_refused_in_words(film: Dataset) -> None:
    film.SamplesPerPixel = 3
    with pytest.raises(Unsupported, match="colour"):
        modality_values(film)


def test_a_transfer_syntax_without_a_codec_is_refused_in_words(film: Dataset) -> None:
    film.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    with pytest.raises((Unsupported, InvalidInput), match=str(film.SOPInstanceUID)):
        displayed(film)
