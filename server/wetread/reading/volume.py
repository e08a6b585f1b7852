"""A series of slices as one volume, by true slice positions (PS3.3 C.7.6.2): assembled, resampled, measured.

Nothing here trusts Instance Number, Slice Location, Slice Thickness or Gantry/Detector Tilt: the order, the gaps and
the tilt come from Image Position and Image Orientation (Patient) alone. Coordinates are DICOM's patient system, mm, x
to the left, y to posterior, z to superior.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pydicom
from numpy.typing import NDArray
from scipy import ndimage

from wetread.errors import InvalidInput, Refused, Unsupported
from wetread.reading.image import modality_values
from wetread.reading.manifest import Resample

MIN_SLICES = 5
"""Fewer are a localizer or a screen save, not a volume."""
MAX_LOST_SHARE = 0.1
"""At most so many slices of a series may be unreadable; they are skipped with a warning, more refuse the series."""
AIR_HU = -1024.0

Floats = NDArray[np.float64]
_DIRECTIONS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


@dataclass(frozen=True)
class Volume:
    """`values`: frames x rows x columns in modality units (HU for CT), frame i from `sop_instance_uids[i]`.

    `positions_mm`: frames x 3, centre of each frame's first pixel, ascending along the normal. `row_direction` leads
    along a row (growing column index), `column_direction` down a column. `pixel_spacing_mm`: between rows, between
    columns (0028,0030).
    """

    values: NDArray[np.float32]
    positions_mm: Floats
    row_direction: Floats
    column_direction: Floats
    pixel_spacing_mm: tuple[float, float]
    sop_instance_uids: tuple[str, ...]
    modality: str
    warnings: tuple[str, ...] = field(default=())

    @property
    def normal(self) -> Floats:
        return np.cross(self.row_direction, self.column_direction)

    @property
    def offsets_mm(self) -> Floats:
        """Distance of each frame along the normal."""
        return self.positions_mm @ self.normal

    @property
    def cell_widths_mm(self) -> Floats:
        """What each frame stands for along the normal: half the gap to each neighbour, mirrored at the ends."""
        gaps = np.diff(self.offsets_mm)
        return (np.concatenate((gaps[:1], gaps)) + np.concatenate((gaps, gaps[-1:]))) / 2


@dataclass(frozen=True)
class Grid:
    """A regular grid in patient axes. `directions`: one unit vector per array axis; `origin_mm`: centre of voxel 0."""

    origin_mm: Floats
    directions: Floats
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing_mm)) / 1000

    def part(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        """The grid of a block that starts at voxel `start` (may be negative: a padded grid)."""
        moved = self.origin_mm + (np.asarray(start) * self.spacing_mm) @ self.directions
        a, b, c = shape
        return Grid(moved, self.directions, self.spacing_mm, (a, b, c))


def assemble(datasets: Sequence[pydicom.Dataset]) -> Volume:
    """The volume of a series, its frames sorted by dot(Image Position, row x column direction).

    Left out, each with a warning: localizers, derived copies beside originals, images of another plane or matrix,
    repeated positions, and slices that cannot be read, if these are at most a tenth (MAX_LOST_SHARE).
    Raises InvalidInput, naming the SOP Instance UID and the reason, where more cannot be read or fewer than five slices
    are left, and Unsupported where positions repeat throughout (several phases or echoes in one series).
    """
    if not datasets:
        raise InvalidInput("the series has no images")
    warnings: list[str] = []
    lost: list[Refused] = []
    slices: list[_Slice] = []
    for dataset in _originals(datasets, warnings):
        try:
            slices.append(_slice(dataset))
        except Refused as error:
            lost.append(error)
    slices = _one_stack(slices, warnings)
    slices, values = _decoded(_by_position(slices, warnings), lost)
    if lost and (not slices or len(lost) > MAX_LOST_SHARE * (len(lost) + len(slices))):
        raise type(lost[0])(f"{len(lost)} of {len(lost) + len(slices)} slices cannot be read: {lost[0].message}")
    if len(slices) < MIN_SLICES:
        raise InvalidInput(f"the series has {len(slices)} slices of one plane; a volume needs {MIN_SLICES}")
    warnings += [f"slice skipped: {error.message}" for error in lost]

    first = slices[0]
    volume = Volume(
        values=values,
        positions_mm=np.array([s.position for s in slices]),
        row_direction=first.row,
        column_direction=first.column,
        pixel_spacing_mm=first.spacing,
        sop_instance_uids=tuple(str(s.dataset.SOPInstanceUID) for s in slices),
        modality=str(first.dataset.get("Modality", "")),
        warnings=(),
    )
    warnings += _geometry_warnings(volume, [s.dataset.get("SliceThickness") for s in slices])
    return Volume(**{**volume.__dict__, "warnings": tuple(warnings)})


def resample(volume: Volume, spec: Resample) -> tuple[NDArray[np.float32], Grid]:
    """The volume on a grid of patient axes that covers it, by linear interpolation along the true slice positions.

    Tilted and unevenly spaced stacks are mapped exactly: a point's place between two frames comes from its distance
    along the normal, its place in the plane from the position interpolated between those two frames. With `area`, an
    axis coarser than the source averages as many samples per voxel as source pixels fit in. Outside is `spec.fill`.
    """
    directions = np.array([_DIRECTIONS[letter] for letter in spec.axes], dtype=np.float64)
    grid = _covering(volume, directions, spec.spacing_mm)
    factors = _samples_per_voxel(volume, grid) if spec.method == "area" else (1, 1, 1)
    shifts = [[((m + 0.5) / f - 0.5) * mm for m in range(f)] for f, mm in zip(factors, grid.spacing_mm, strict=True)]
    fill = float(volume.values.min()) if spec.fill == "minimum" else spec.fill
    result = np.empty(grid.shape, dtype=np.float32)
    axes = [np.arange(n) * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)]
    plane = axes[1][:, None, None] * directions[1] + axes[2][None, :, None] * directions[2]
    for i in range(grid.shape[0]):
        total = np.zeros(grid.shape[1:])
        for shift in product(*shifts):
            start = grid.origin_mm + (axes[0][i] + shift[0]) * directions[0]
            total += _sample(volume, plane + (start + shift[1] * directions[1] + shift[2] * directions[2]), fill)
        result[i] = total / np.prod(factors)
    return result, grid


def mask_on_slices(mask: NDArray[np.bool_], grid: Grid, volume: Volume) -> NDArray[np.bool_]:
    """A mask of the grid drawn on the source images: frames x rows x columns, a pixel inside where interpolation of
    the mask at its centre is at least one half. Frame i belongs to `volume.sop_instance_uids[i]`."""
    frames = np.zeros(volume.values.shape, dtype=np.bool_)
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return frames
    rows = np.arange(volume.values.shape[1]) * volume.pixel_spacing_mm[0]
    columns = np.arange(volume.values.shape[2]) * volume.pixel_spacing_mm[1]
    plane = rows[:, None, None] * volume.column_direction + columns[None, :, None] * volume.row_direction
    to_voxels = (grid.directions / np.asarray(grid.spacing_mm)[:, None]).T
    in_plane = plane @ to_voxels
    low = np.array([s.start - 1 for s in box[0]])
    high = np.array([s.stop for s in box[0]])
    weights = mask.astype(np.float32)
    for k, position in enumerate(volume.positions_mm):
        places = in_plane + (position - grid.origin_mm) @ to_voxels
        near = np.all((places > low) & (places < high), axis=-1)
        if near.any():
            frames[k][near] = ndimage.map_coordinates(weights, places[near].T, order=1, mode="constant") >= 0.5
    return frames


def volume_ml(frames: NDArray[np.bool_], volume: Volume) -> float:
    """The volume of a mask on the source images: pixels x pixel area x each frame's own width along the normal."""
    pixels = frames.sum(axis=(1, 2))
    area = volume.pixel_spacing_mm[0] * volume.pixel_spacing_mm[1]
    return float(np.sum(pixels * volume.cell_widths_mm) * area / 1000)


@dataclass(frozen=True)
class _Slice:
    dataset: pydicom.Dataset
    position: Floats
    row: Floats
    column: Floats
    spacing: tuple[float, float]

    @property
    def stack(self) -> tuple[object, ...]:
        """Slices of one stack agree in this; 0.001 is the rounding that scanners leave in direction cosines."""
        cosines = tuple(float(v) for v in np.round(np.concatenate((self.row, self.column)), 2) + 0.0)
        return cosines, self.spacing, self.dataset.get("Rows"), self.dataset.get("Columns")

    @property
    def offset(self) -> float:
        return float(self.position @ np.cross(self.row, self.column))


def _slice(dataset: pydicom.Dataset) -> _Slice:
    uid = dataset.get("SOPInstanceUID")
    if not uid:
        raise InvalidInput("an image has no SOP Instance UID")
    if dataset.get("NumberOfFrames") not in (None, "", 1):
        raise Unsupported(f"instance {uid} has several frames; volumes are read from single-frame images")
    try:
        position = np.array([float(v) for v in dataset.ImagePositionPatient])
        cosines = np.array([float(v) for v in dataset.ImageOrientationPatient])
        spacing = float(dataset.PixelSpacing[0]), float(dataset.PixelSpacing[1])
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise InvalidInput(f"instance {uid} has no Image Position, Image Orientation or Pixel Spacing") from error
    if position.shape != (3,) or cosines.shape != (6,) or min(spacing) <= 0:
        raise InvalidInput(f"instance {uid} has a malformed Image Position, Image Orientation or Pixel Spacing")
    row, column = cosines[:3], cosines[3:]
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        raise InvalidInput(f"the Image Orientation of instance {uid} is not two perpendicular unit vectors")
    return _Slice(dataset, position, row, column, spacing)


def _originals(datasets: Sequence[pydicom.Dataset], warnings: list[str]) -> list[pydicom.Dataset]:
    """Image Type (0008,0008), PS3.3 C.7.6.1.1.2: no localizers, no derived images where originals are."""
    kept = [d for d in datasets if "LOCALIZER" not in _image_type(d)]
    if len(kept) < len(datasets):
        warnings.append(f"{len(datasets) - len(kept)} localizer images left out")
    originals = [d for d in kept if _image_type(d)[:1] != ["DERIVED"]]
    if not originals:
        warnings.append("all images are derived (reformatted or processed)")
        return kept
    if len(originals) < len(kept):
        warnings.append(f"{len(kept) - len(originals)} derived images left out")
    return originals


def _image_type(dataset: pydicom.Dataset) -> list[str]:
    value = dataset.get("ImageType") or []
    return [str(v).upper() for v in ([value] if isinstance(value, str) else value)]


def _one_stack(slices: list[_Slice], warnings: list[str]) -> list[_Slice]:
    if not slices:
        return slices
    stack, count = Counter(s.stack for s in slices).most_common(1)[0]
    if count < len(slices):
        warnings.append(f"{len(slices) - count} images of another plane, matrix or pixel size left out")
    return [s for s in slices if s.stack == stack]


def _by_position(slices: list[_Slice], warnings: list[str]) -> list[_Slice]:
    """Sorted along the normal, one slice a position; the first that came stays."""
    ordered = sorted(slices, key=lambda s: round(s.offset, 3))
    kept = [s for i, s in enumerate(ordered) if i == 0 or s.offset - ordered[i - 1].offset > 0.01]
    repeated = len(ordered) - len(kept)
    if repeated > MAX_LOST_SHARE * len(ordered):
        raise Unsupported("slice positions repeat: the series holds several phases or echoes and must be split first")
    if repeated:
        warnings.append(f"{repeated} images at a position already taken left out")
    return kept


def _decoded(slices: list[_Slice], lost: list[Refused]) -> tuple[list[_Slice], NDArray[np.float32]]:
    kept: list[_Slice] = []
    values: list[NDArray[np.float32]] = []
    for one in slices:
        try:
            pixels = modality_values(one.dataset)
        except Refused as error:
            lost.append(error)
            continue
        kept.append(one)
        values.append(_without_padding(pixels, one.dataset))
    return kept, np.stack(values) if values else np.empty((0, 0, 0), dtype=np.float32)


def _without_padding(pixels: NDArray[np.float32], dataset: pydicom.Dataset) -> NDArray[np.float32]:
    """CT only: Pixel Padding Value (0028,0120), and all below air, become air."""
    if dataset.get("Modality") != "CT":
        return pixels
    padding = dataset.get("PixelPaddingValue")
    if isinstance(padding, int):
        slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
        pixels = np.where(pixels == padding * slope + intercept, np.float32(AIR_HU), pixels)
    return np.maximum(pixels, np.float32(AIR_HU))


def _geometry_warnings(volume: Volume, thicknesses: Sequence[object]) -> list[str]:
    gaps = np.diff(volume.offsets_mm)
    warnings = []
    if gaps.max() - gaps.min() > max(0.1, 0.01 * float(np.median(gaps))):
        warnings.append(f"uneven slice gaps, {gaps.min():.2f} to {gaps.max():.2f} mm: true positions used")
    start = 0
    for end in range(1, len(thicknesses) + 1):
        if end < len(thicknesses) and thicknesses[end] == thicknesses[start]:
            continue
        run = gaps[start : end - 1]
        missing = int(np.sum(run > 1.5 * np.median(run))) if len(run) >= 3 else 0
        if missing:
            warnings.append(f"incomplete: at {missing} place(s) a slice seems to be missing; the gap was interpolated")
        start = end
    steps = np.diff(volume.positions_mm, axis=0)
    drift = np.linalg.norm(steps - gaps[:, None] * volume.normal, axis=1) / gaps
    tilt = float(np.degrees(np.arctan(np.median(drift))))
    if tilt > 0.5:
        warnings.append(f"tilted gantry, {tilt:.1f} degrees: true positions used")
    return warnings


def _covering(volume: Volume, directions: Floats, spacing: tuple[float, float, float]) -> Grid:
    """The least grid over all pixel centres; it falls on them where the source is aligned and equally spaced."""
    height = (volume.values.shape[1] - 1) * volume.pixel_spacing_mm[0] * volume.column_direction
    width = (volume.values.shape[2] - 1) * volume.pixel_spacing_mm[1] * volume.row_direction
    corners = np.concatenate([volume.positions_mm + a * height + b * width for a in (0, 1) for b in (0, 1)])
    along = corners @ directions.T
    extent = along.max(axis=0) - along.min(axis=0)
    counts = np.floor(extent / spacing + 1e-3).astype(int) + 1
    margin = (extent - (counts - 1) * spacing) / 2
    a, b, c = (int(n) for n in counts)
    return Grid((along.min(axis=0) + margin) @ directions, directions, spacing, (a, b, c))


def _samples_per_voxel(volume: Volume, grid: Grid) -> tuple[int, ...]:
    source = np.array([volume.column_direction, volume.row_direction, volume.normal])
    steps = np.array([*volume.pixel_spacing_mm, float(np.median(np.diff(volume.offsets_mm)))])
    nearest = np.argmax(np.abs(grid.directions @ source.T), axis=1)
    return tuple(max(1, round(mm / steps[n])) for mm, n in zip(grid.spacing_mm, nearest, strict=True))


def _sample(volume: Volume, points: Floats, fill: float) -> Floats:
    """Values at points (… x 3, mm). A frame reaches half a gap beyond its ends, a pixel half its size."""
    offsets = volume.offsets_mm
    distance = points @ volume.normal
    index = np.arange(len(offsets), dtype=np.float64)
    frame = np.interp(distance, offsets, index)
    position = np.stack([np.interp(frame, index, volume.positions_mm[:, axis]) for axis in range(3)], axis=-1)
    position += (distance - np.interp(frame, index, offsets))[..., None] * volume.normal
    inside_plane = points - position
    row = inside_plane @ volume.column_direction / volume.pixel_spacing_mm[0]
    column = inside_plane @ volume.row_direction / volume.pixel_spacing_mm[1]
    _, rows, columns = volume.values.shape
    values = np.asarray(
        ndimage.map_coordinates(volume.values, [frame, row, column], np.float64, order=1, mode="nearest")
    )
    ends = (offsets[1] - offsets[0]) / 2, (offsets[-1] - offsets[-2]) / 2
    outside = (distance < offsets[0] - ends[0]) | (distance > offsets[-1] + ends[1])
    outside |= (row < -0.5) | (row > rows - 0.5) | (column < -0.5) | (column > columns - 0.5)
    return np.where(outside, fill, values)
