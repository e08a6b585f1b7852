"""The frames of an image as they are encoded: cut out, not decoded (PS3.5 8 and A.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import encaps
from pydicom.uid import UID, ExplicitVRLittleEndian

from wetread.errors import InvalidInput, NotFound
from wetread.wire.dicom import read

_MEDIA_TYPES = {
    **dict.fromkeys(("50", "51", "57", "70"), "image/jpeg"),
    **dict.fromkeys(("80", "81"), "image/jls"),
    **dict.fromkeys(("90", "91"), "image/jp2"),
    **dict.fromkeys(("92", "93"), "image/jpx"),
    **dict.fromkeys(("201", "202", "203"), "image/jphc"),
}
"""By what follows 1.2.840.10008.1.2.4. in the transfer syntax (PS3.18 table 8.7.3-5)."""
_OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Frames:
    media_type: str
    transfer_syntax_uid: str
    frames: tuple[bytes, ...]


def frames(data: bytes, numbers: Sequence[int]) -> Frames:
    """Frames by number, counted from 1, of a Part 10 file: uncompressed ones in little endian, others as encapsulated.

    Raises NotFound for a frame or pixel data that are not there, InvalidInput where they cannot be cut.
    """
    dataset = read(data)
    if "PixelData" not in dataset:
        raise NotFound("the instance has no Pixel Data")
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    count = int(dataset.get("NumberOfFrames") or 1)
    if any(number > count for number in numbers):
        raise NotFound(f"the instance has {count} frames")
    if syntax.is_compressed and not syntax.is_deflated:
        kind = _MEDIA_TYPES.get(
            str(syntax).rpartition(".1.2.4.")[2], "image/dicom-rle" if syntax.endswith(".2.5") else _OCTETS
        )
        try:
            cut = tuple(encaps.get_frame(dataset.PixelData, n - 1, number_of_frames=count) for n in numbers)
        except (ValueError, IndexError) as error:
            raise InvalidInput("the encapsulated Pixel Data cannot be cut into frames") from error
        return Frames(kind, str(syntax), cut)
    try:
        bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated)
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidInput("the header does not say how large a frame is") from error
    pixels = dataset.PixelData
    if len(pixels) * 8 < bits * count:
        raise InvalidInput("PixelData is shorter than Rows, Columns and NumberOfFrames say", location="PixelData")
    if not syntax.is_little_endian and dataset.BitsAllocated == 16:
        pixels = np.frombuffer(pixels, ">u2").astype("<u2").tobytes()
    return Frames(_OCTETS, str(ExplicitVRLittleEndian), tuple(_bits(pixels, (n - 1) * bits, bits) for n in numbers))


def _bits(pixels: bytes, start: int, count: int) -> bytes:
    """Single-bit frames may begin within a byte (PS3.5 8.1.1)."""
    if start % 8 == 0 and count % 8 == 0:
        return pixels[start // 8 : (start + count) // 8]
    unpacked = np.unpackbits(np.frombuffer(pixels, np.uint8), bitorder="little")
    return np.packbits(unpacked[start : start + count], bitorder="little").tobytes()
