"""Volumes come from true slice positions: order, tilt, uneven gaps, missing slices (PS3.3 C.7.6.2)."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from scipy import ndimage

from wetread.errors import InvalidInput, Unsupported
from wetread.reading.manifest import Resample
from wetread.reading.volume import Grid, Volume, assemble, mask_on_slices, resample, volume_ml

MASK_FILE = Path(__file__).parents[2] / "data" / "head_ct" / "brain_mask_1mm.npz"
BRAIN_ML = 1507
"""Of the real head CT at 1 mm, measured independently when the model was converted."""


@pytest.fixture(scope="module")
def brain() -> tuple[NDArray[np.bool_], Grid]:
    with np.load(MASK_FILE) as stored:
        shape = tuple(stored["shape"].tolist())
        mask = np.unpackbits(stored["packed"], count=int(np.prod(shape))).astype(bool).reshape(shape)
        return mask, Grid(stored["origin_mm"], stored["directions"], tuple(stored["spacing_mm"].tolist()), shape)


def test_the_brain_of_the_real_tilted_ct_is_1507_ml_however_it_is_counted(
    head_ct: list[Dataset], brain: tuple[NDArray[np.bool_], Grid]
) -> None:
    mask, grid = brain
    volume = assemble(head_ct)
    on_slices = mask_on_slices(mask, grid, volume)
    assert mask.sum() * grid.voxel_ml == pytest.approx(BRAIN_ML, rel=0.02)
    assert volume_ml(on_slices, volume) == pytest.approx(BRAIN_ML, rel=0.02)
    assert volume_ml(on_slices, volume) == pytest.approx(mask.sum() * grid.voxel_ml, rel=0.002)


def test_a_reader_that_trusts_slice_thickness_or_one_gap_is_wrong_on_that_ct(
    head_ct: list[Dataset], brain: tuple[NDArray[np.bool_], Grid]
) -> None:
    volume = assemble(head_ct)
    pixels = mask_on_slices(*brain, volume).sum(axis=(1, 2))
    area_ml = np.prod(volume.pixel_spacing_mm) / 1000
    by_uid = {str(d.SOPInstanceUID): float(d.SliceThickness) for d in head_ct}
    thickness = np.array([by_uid[uid] for uid in volume.sop_instance_uids])
    assert pixels.sum() * thickness[0] * area_ml == pytest.approx(1082, rel=0.02)
    assert (pixels * thickness).sum() * area_ml > BRAIN_ML * 1.04


def test_the_brain_mask_lies_on_brain(head_ct: list[Dataset], brain: tuple[NDArray[np.bool_], Grid]) -> None:
    volume = assemble(head_ct)
    inside = volume.values[mask_on_slices(*brain, volume)]
    assert np.median(inside) == pytest.approx(31.7, abs=1.5)


def test_geometry_comes_from_positions_whatever_the_order_and_numbers_say(head_ct: list[Dataset]) -> None:
    straight = assemble(head_ct)
    shuffled = list(head_ct)
    random.Random(7).shuffle(shuffled)
    for number, dataset in enumerate(shuffled):
        dataset.InstanceNumber, dataset.SliceLocation = number, -number
        dataset.SliceThickness, dataset.GantryDetectorTilt = 1, 0
    again = assemble(shuffled)
    assert again.sop_instance_uids == straight.sop_instance_uids
    assert np.array_equal(again.values, straight.values)
    gaps = np.diff(again.offsets_mm)
    assert np.allclose(gaps[:13], 4.0, atol=0.01)
    assert gaps[13] == pytest.approx(1.08, abs=0.01)
    assert np.allclose(gaps[14:], 7.0, atol=0.01)
    assert any("tilted gantry, 18.5 degrees" in warning for warning in again.warnings)
    assert any("1.08 to 7.00 mm" in warning for warning in again.warnings)


def test_an_even_untilted_series_gives_no_warning(study: Callable[[str], list[Dataset]]) -> None:
    volume = assemble(study("head-ct-phantom-bleed"))
    assert volume.warnings == ()
    assert np.allclose(volume.cell_widths_mm, 4.0)


def test_padding_and_everything_below_air_become_air(head_ct: list[Dataset]) -> None:
    assert min(int(d.pixel_array.min()) for d in head_ct) == -1500
    assert assemble(head_ct).values.min() == -1024


def test_hounsfield_units_come_from_each_slices_own_rescale(study: Callable[[str], list[Dataset]]) -> None:
    slices = study("head-ct-phantom-bleed")
    before = assemble(slices).values
    spoiled = slices[5]
    stored = spoiled.pixel_array
    spoiled.PixelData = (stored + 24).astype(np.int16).tobytes()
    spoiled.RescaleIntercept = -24
    assert np.array_equal(assemble(slices).values, before)


def _ramp(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points @ np.array([1.5, -2.0, 0.75]) + 100.0


def _tilted_uneven() -> Volume:
    """A stack tilted by 20 degrees about x with gaps of 1 to 9 mm, whose values are linear in space."""
    tilt = np.radians(20)
    row, column = np.array([1.0, 0, 0]), np.array([0, np.cos(tilt), -np.sin(tilt)])
    z = np.cumsum([0.0, 2, 5, 1, 9, 3, 3, 7, 4, 6])
    positions = np.stack([np.full_like(z, -30), np.full_like(z, -20), z], axis=1)
    pixels = np.arange(60)[:, None, None] * 0.9 * column + np.arange(80)[None, :, None] * 0.7 * row
    values = _ramp(positions[:, None, None, :] + pixels).astype(np.float32)
    return Volume(values, positions, row, column, (0.9, 0.7), tuple("abcdefghij"), "CT")


@pytest.mark.parametrize("axes", ["LIA", "SAR", "RPS", "AIL"])
@pytest.mark.parametrize("method", ["linear", "area"])
def test_resampling_a_tilted_uneven_stack_is_exact_where_values_are_linear(axes: str, method: str) -> None:
    """A map that averaged the gaps or dropped the shear would be off by whole voxels here."""
    spec = Resample.model_validate(
        {"op": "resample", "axes": axes, "spacing_mm": (1.5, 2.0, 1.0), "method": method, "fill": -9999}
    )
    array, grid = resample(_tilted_uneven(), spec)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    expected = _ramp(grid.origin_mm + (index * grid.spacing_mm) @ grid.directions)
    # Half a cell beyond the outermost pixels is held at their value: look further in.
    inside = ndimage.binary_erosion(array > -9000, iterations=4)
    assert inside.sum() > 5000
    assert np.abs(array - expected)[inside].max() < 0.01


def test_a_grid_that_matches_the_slices_takes_them_unchanged(study: Callable[[str], list[Dataset]]) -> None:
    volume = assemble(study("head-ct-phantom-bleed"))
    spec = Resample.model_validate(
        {"op": "resample", "axes": "SPL", "spacing_mm": (4, 2, 2), "method": "area", "fill": -1000}
    )
    array, grid = resample(volume, spec)
    assert np.array_equal(array, volume.values)
    block = np.zeros(grid.shape, dtype=bool)
    block[10:14, 30:40, 50:70] = True
    assert np.array_equal(mask_on_slices(block, grid, volume), block)
    assert volume_ml(block, volume) == pytest.approx(block.sum() * 0.016)


def test_a_mask_of_the_grid_returns_to_the_same_place_on_tilted_slices() -> None:
    volume = _tilted_uneven()
    spec = Resample.model_validate({"op": "resample", "axes": "SAR", "spacing_mm": (1, 1, 1), "fill": 0})
    _, grid = resample(volume, spec)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    centre = np.array([0.0, 5.0, 10.0])
    ball = np.linalg.norm(grid.origin_mm + (index * grid.spacing_mm) @ grid.directions - centre, axis=-1) <= 9
    frames = mask_on_slices(ball, grid, volume)
    _, rows, columns = volume.values.shape
    pixels = np.arange(rows)[:, None, None] * 0.9 * volume.column_direction
    pixels = pixels + np.arange(columns)[None, :, None] * 0.7 * volume.row_direction
    distance = np.linalg.norm(volume.positions_mm[:, None, None] + pixels - centre, axis=-1)
    assert frames[distance < 8].all()
    assert not frames[distance > 10].any()


def _spoil(dataset: Dataset) -> str:
    dataset.PixelData = dataset.PixelData[:1000]
    return str(dataset.SOPInstanceUID)


def test_up_to_a_tenth_of_corrupt_slices_are_skipped_and_told(head_ct: list[Dataset]) -> None:
    lost = {_spoil(head_ct[20]), _spoil(head_ct[8])}
    volume = assemble(head_ct)
    assert len(volume.sop_instance_uids) == 26
    assert not lost & set(volume.sop_instance_uids)
    told = " ".join(volume.warnings)
    assert all(uid in told for uid in lost)
    assert "incomplete" in told


def test_more_corrupt_slices_refuse_the_series_and_name_the_first(head_ct: list[Dataset]) -> None:
    uid = _spoil(head_ct[3])
    _spoil(head_ct[9])
    _spoil(head_ct[10])
    with pytest.raises(InvalidInput, match=r"3 of 28 slices cannot be read") as refused:
        assemble(head_ct)
    assert uid in refused.value.message


def test_a_missing_slice_is_told_though_thickness_changes_are_not(head_ct: list[Dataset]) -> None:
    assert not any("incomplete" in warning for warning in assemble(head_ct).warnings)
    del head_ct[20]
    assert any("incomplete" in warning for warning in assemble(head_ct).warnings)


def test_localizers_derived_copies_and_other_planes_are_left_out(head_ct: list[Dataset]) -> None:
    expected = assemble(head_ct).sop_instance_uids
    head_ct[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    head_ct[1].ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    head_ct[2].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    volume = assemble(head_ct)
    assert volume.sop_instance_uids == expected[3:]
    told = " ".join(volume.warnings)
    assert "1 localizer" in told
    assert "1 derived" in told
    assert "1 images of another plane" in told


def test_a_repeated_position_is_left_out_and_repeats_throughout_are_refused(head_ct: list[Dataset]) -> None:
    head_ct[5].ImagePositionPatient = head_ct[4].ImagePositionPatient
    volume = assemble(head_ct)
    assert len(volume.sop_instance_uids) == 27
    assert any("position already taken" in warning for warning in volume.warnings)
    for first, second in zip(head_ct[::2], head_ct[1::2], strict=True):
        second.ImagePositionPatient = first.ImagePositionPatient
    with pytest.raises(Unsupported, match="phases or echoes"):
        assemble(head_ct)


def test_four_slices_are_no_volume(head_ct: list[Dataset]) -> None:
    with pytest.raises(InvalidInput, match="a volume needs 5"):
        assemble(head_ct[:4])


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", None),
        ("PixelSpacing", [0.0, 0.5]),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
    ],
)
def test_a_series_without_geometry_is_refused_with_the_instance(
    head_ct: list[Dataset], keyword: str, value: list[float] | None
) -> None:
    for dataset in head_ct:
        setattr(dataset, keyword, value)
    with pytest.raises(InvalidInput, match=r"Image (Position|Orientation)") as refused:
        assemble(head_ct)
    assert str(head_ct[0].SOPInstanceUID) in refused.value.message


def test_multi_frame_images_are_refused_in_words(head_ct: list[Dataset]) -> None:
    for dataset in head_ct:
        dataset.NumberOfFrames = 4
    with pytest.raises(Unsupported, match="several frames"):
        assemble(head_ct)


def test_an_empty_mask_has_no_volume(head_ct: list[Dataset], brain: tuple[NDArray[np.bool_], Grid]) -> None:
    volume = assemble(head_ct)
    mask, grid = brain
    assert volume_ml(mask_on_slices(np.zeros_like(mask), grid, volume), volume) == 0
