"""The named operations do what their names say, and keep the volume where it lies."""

from __future__ import annotations

import numpy as np
import pytest

from wetread.errors import InvalidInput
from wetread.reading.manifest import VolumeInput
from wetread.reading.preprocess import (
    Prepared,
    crop,
    hounsfield_to_cormack,
    pad,
    prepare_volume,
    scale_to_uint8,
)
from wetread.reading.volume import Grid, Volume

GRID = Grid(np.array([10.0, 20.0, 30.0]), np.diag([1.0, -1.0, -1.0]), (1.0, 2.0, 4.0), (8, 8, 8))


def test_cormack_units_stretch_soft_tissue_elevenfold() -> None:
    hu = np.array([-3000, -1024, -100, 0, 40, 100, 1000], dtype=np.float32)
    assert hounsfield_to_cormack(hu).tolist() == [0, 0, 924, 2024, 2464, 3124, 4024]


def test_eight_bit_scaling_forgives_a_hot_voxel() -> None:
    array = np.concatenate(([-5.0], np.linspace(0, 100, 1001), [1e6])).astype(np.float32)
    scaled = scale_to_uint8(array, 0.999)
    assert scaled[0] == 0
    assert scaled[501] == pytest.approx(255 * 55 / 105, abs=1)
    assert scaled.max() == 255
    assert np.array_equal(scaled, np.rint(scaled))


def _where(prepared: Prepared, voxel: tuple[int, ...]) -> list[float]:
    grid = prepared.grid
    return (grid.origin_mm + (np.array(voxel) * grid.spacing_mm) @ grid.directions).tolist()


def test_cropping_and_padding_leave_every_voxel_in_its_place() -> None:
    array = np.zeros((8, 8, 8), dtype=np.float32)
    array[3:5, 2:7, 4] = 1
    whole = Prepared(array, GRID)
    place = _where(whole, (3, 2, 4))

    cropped = crop(whole, above=0.5, margin_mm=2)
    assert cropped.array.shape == cropped.grid.shape == (6, 7, 3)
    assert cropped.array[2, 1, 1] == 1
    assert _where(cropped, (2, 1, 1)) == place

    padded = pad(cropped, (4, 8, 8), value=-1)
    assert padded.array.shape == padded.grid.shape == (8, 8, 8)
    first = np.argwhere(padded.array == 1)[0]
    assert _where(padded, tuple(first.tolist())) == place


def _volume(values: np.ndarray, modality: str) -> Volume:
    positions = np.array([[0.0, 0.0, 2.0 * k] for k in range(len(values))])
    uids = tuple(str(k) for k in range(len(values)))
    return Volume(values, positions, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (1.0, 1.0), uids, modality)


STEPS = [
    {"op": "resample", "axes": "SPL", "spacing_mm": [2, 1, 1], "fill": "minimum"},
    {"op": "hounsfield_to_cormack", "modality": ["CT"]},
]


@pytest.mark.parametrize(("modality", "expected"), [("CT", 2464.0), ("MR", 40.0)])
def test_a_step_for_one_modality_leaves_the_others_alone(modality: str, expected: float) -> None:
    declared = VolumeInput.model_validate({"kind": "volume", "name": "image", "steps": STEPS})
    prepared = prepare_volume(_volume(np.full((6, 4, 5), 40, np.float32), modality), declared)
    assert np.allclose(prepared.array, expected)


@pytest.mark.parametrize(
    "step",
    [
        {"op": "scale_to_uint8", "upper_quantile": 0.999},
        {"op": "min_max"},
        {"op": "crop", "above": 50},
    ],
)
def test_a_blank_volume_is_refused(step: dict[str, object]) -> None:
    declared = VolumeInput.model_validate({"kind": "volume", "name": "image", "steps": [STEPS[0], step]})
    with pytest.raises(InvalidInput, match="nothing to read"):
        prepare_volume(_volume(np.full((6, 4, 5), 40, np.float32), "MR"), declared)
