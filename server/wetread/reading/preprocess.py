"""The named operations that manifests compose: from films and volumes to the arrays that models take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image

from wetread.errors import InvalidInput
from wetread.reading import manifest as m
from wetread.reading.image import displayed
from wetread.reading.volume import AIR_HU, Grid, Volume, resample


@dataclass(frozen=True)
class Prepared:
    """A volume on its way to the model: the array and where it lies."""

    array: NDArray[np.float32]
    grid: Grid


def prepare_film(dataset: pydicom.Dataset, declared: m.FilmInput) -> NDArray[np.float32]:
    """1 x 1 x rows x columns, as the manifest declares. Raises as `image.displayed`."""
    pixels = displayed(dataset)
    for step in declared.steps:
        if isinstance(step, m.Resize) and pixels.shape != (step.rows, step.columns):
            film = Image.fromarray(pixels)
            pixels = np.asarray(film.resize((step.columns, step.rows), Image.Resampling.BILINEAR), dtype=np.float32)
    return pixels[None, None]


def prepare_volume(volume: Volume, declared: m.VolumeInput) -> Prepared:
    """The volume on the model's grid, after every step that applies to its modality.

    Raises InvalidInput where nothing is left to read (all voxels alike, or none above the crop's value).
    """
    prepared = Prepared(*resample(volume, declared.grid))
    for step in declared.steps[1:]:
        if isinstance(step, m.Resample) or (step.modality and volume.modality not in step.modality):
            continue
        prepared = _apply(step, prepared)
    return prepared


def _apply(step: m.VolumeStep, before: Prepared) -> Prepared:
    array = before.array
    match step:
        case m.Clip():
            array = np.clip(array, step.minimum, step.maximum)
        case m.HounsfieldToCormack():
            array = hounsfield_to_cormack(array)
        case m.ScaleToUint8():
            array = scale_to_uint8(array, step.upper_quantile)
        case m.QuantileNormalise():
            low, high = np.quantile(array, (step.low, step.high))
            array = np.clip((array - low) / (high - low + 1e-3), 0.0, 1.0)
        case m.MinMax():
            low, high = float(array.min()), float(array.max())
            if high == low:
                raise InvalidInput("every voxel has the same value: there is nothing to read")
            array = (array - low) / (high - low)
        case m.Crop():
            return crop(before, step.above, step.margin_mm)
        case m.Pad():
            return pad(before, step.multiple, step.value)
        case m.Resample():
            raise AssertionError("resample comes first, once; the manifest's validation holds that")
    return Prepared(array.astype(np.float32), before.grid)


def hounsfield_to_cormack(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """-1024 HU becomes 0; from -100 to 100 HU each unit counts eleven, elsewhere one."""
    h = np.maximum(hu, AIR_HU)
    units = np.minimum(h, -100.0) - AIR_HU + 11.0 * (np.clip(h, -100.0, 100.0) + 100.0) + np.maximum(h - 100.0, 0.0)
    return np.asarray(units, dtype=np.float32)


def scale_to_uint8(array: NDArray[np.float32], upper_quantile: float) -> NDArray[np.float32]:
    """Whole numbers 0 to 255, as float. Raises InvalidInput where every voxel has the same value."""
    low = float(array.min())
    above = array[array > low]
    if not above.size:
        raise InvalidInput("every voxel has the same value: there is nothing to read")
    high = float(np.quantile(above, upper_quantile))
    steps = np.rint(np.clip((array - low) * (255.0 / (high - low)), 0.0, 255.0))
    return np.asarray(steps, dtype=np.float32)


def crop(before: Prepared, above: float, margin_mm: float) -> Prepared:
    """The box of all voxels above a value, plus a margin. Raises InvalidInput where there are none."""
    foreground = before.array > above
    start, stop = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hits = np.flatnonzero(foreground.any(axis=others))
        if not hits.size:
            raise InvalidInput("no voxel stands out from the background: there is nothing to read")
        margin = int(np.ceil(margin_mm / before.grid.spacing_mm[axis]))
        start.append(max(0, int(hits[0]) - margin))
        stop.append(min(foreground.shape[axis], int(hits[-1]) + 1 + margin))
    block = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    array = np.ascontiguousarray(before.array[block])
    return Prepared(array, before.grid.part(start, array.shape))


def pad(before: Prepared, multiple: tuple[int, int, int], value: float) -> Prepared:
    """Evenly on both sides, up to multiples of so many voxels."""
    missing = [-n % k for n, k in zip(before.array.shape, multiple, strict=True)]
    ahead = [n // 2 for n in missing]
    widths = [(a, n - a) for a, n in zip(ahead, missing, strict=True)]
    array = np.pad(before.array, widths, constant_values=value)
    return Prepared(array, before.grid.part([-a for a in ahead], array.shape))
