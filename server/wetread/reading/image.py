"""Pixels of one DICOM image: decoded, in modality units, and as displayed (PS3.3 C.7.6.3, C.11; PS3.4 N.2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from wetread.errors import InvalidInput, Unsupported


def modality_values(dataset: pydicom.Dataset) -> NDArray[np.float32]:
    """Rows x columns in modality units (HU for CT), after the Modality LUT or rescale (PS3.3 C.11.1).

    Raises InvalidInput, naming the SOP Instance UID, where the pixels cannot be decoded, and Unsupported for colour,
    for several frames, and for a transfer syntax that no installed codec reads.
    """
    with _header_of(dataset):
        return np.asarray(apply_modality_lut(_stored(dataset), dataset), dtype=np.float32)


def displayed(dataset: pydicom.Dataset) -> NDArray[np.float32]:
    """Rows x columns as a viewer would show them, 0 to 255, bright where the beam was stopped (MONOCHROME2).

    The first VOI LUT, else the first window, else the whole range of the stored bits. Raises as `modality_values`.
    """
    with _header_of(dataset):
        stored = _stored(dataset)
        if "VOILUTSequence" in dataset:
            shown = _looked_up(stored, dataset)
        else:
            values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
            shown = _windowed(values, dataset) if _has_window(dataset) else _full_range(values, dataset)
        # INVERSE comes together with MONOCHROME1 in DX (PS3.3 C.8.11.3): one inversion, not two.
        inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
        inverted = inverted or dataset.get("PresentationLUTShape") == "INVERSE"
        return (255.0 - shown if inverted else shown).astype(np.float32)


@contextmanager
def _header_of(dataset: pydicom.Dataset) -> Iterator[None]:
    """What the header lacks or garbles becomes InvalidInput with the instance's UID."""
    try:
        yield
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
        uid = dataset.get("SOPInstanceUID", "unknown")
        raise InvalidInput(f"the header of instance {uid} does not tell how to read its pixels") from error


def _stored(dataset: pydicom.Dataset) -> NDArray[Any]:
    uid = dataset.get("SOPInstanceUID", "unknown")
    if int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise Unsupported(f"instance {uid} is a colour image; models read grey ones")
    if int(dataset.get("NumberOfFrames", 1) or 1) != 1:
        raise Unsupported(f"instance {uid} has several frames; models read single-frame images")
    try:
        return np.asarray(dataset.pixel_array)
    except NotImplementedError as error:
        raise Unsupported(f"instance {uid} is in a transfer syntax that no installed codec reads") from error
    except Exception as error:
        raise InvalidInput(f"the pixels of instance {uid} cannot be decoded: {type(error).__name__}") from error


def _looked_up(stored: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.1; the table's own bits span 0..255."""
    values = apply_modality_lut(stored, dataset).astype(np.int32)
    bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
    shown: NDArray[np.float64] = np.asarray(apply_voi(values, dataset), dtype=np.float64)
    return np.asarray(shown * (255.0 / (2**bits - 1)))


def _has_window(dataset: pydicom.Dataset) -> bool:
    return dataset.get("WindowCenter") not in (None, "") and dataset.get("WindowWidth") not in (None, "")


def _windowed(values: NDArray[np.float64], dataset: pydicom.Dataset) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2 (LINEAR), C.11.2.1.3 (SIGMOID, LINEAR_EXACT), to 0..255."""
    centre, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
    function = dataset.get("VOILUTFunction", "LINEAR") or "LINEAR"
    if function == "SIGMOID":
        exponent: NDArray[np.float64] = np.clip(-4.0 * (values - centre) / max(width, 1e-6), -60, 60)
        return np.asarray(255.0 / (1.0 + np.exp(exponent)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1.0
    if width <= 0:
        return np.where(values > centre, 255.0, 0.0)
    return np.asarray(np.clip((values - centre) / width + 0.5, 0.0, 1.0) * 255.0)


def _full_range(values: NDArray[np.float64], dataset: pydicom.Dataset) -> NDArray[np.float64]:
    bits = int(dataset.BitsStored)
    low = -(2 ** (bits - 1)) if int(dataset.PixelRepresentation) else 0
    slope, intercept = float(dataset.get("RescaleSlope", 1) or 1), float(dataset.get("RescaleIntercept", 0) or 0)
    return np.asarray(np.clip((values - (low * slope + intercept)) / ((2**bits - 1) * slope), 0.0, 1.0) * 255.0)


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)
