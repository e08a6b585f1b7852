"""DICOM Part 10 files (PS3.10 7): what a header says, as facts; the header that a received data set gets.

`facts` is for the receive path and reads the bytes in place; pydicom reads wherever a whole data set is wanted.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from wetread import __version__
from wetread.domain.codes import DCM, LOINC, RADLEX, SCT, UCUM, Coded
from wetread.domain.keys import dicom_uid
from wetread.domain.study import InstanceFacts
from wetread.errors import InvalidInput
from wetread.wire.dicom_elements import PIXEL_DATA, Encoded, Place
from wetread.wire.dicom_values import WANTED, Values, iso_date, iso_time

IMPLEMENTATION_CLASS_UID = dicom_uid("implementation class")
IMPLEMENTATION_VERSION_NAME = f"WETREAD_{__version__}"[:16]

_DATA_SET_START = 132
_LARGEST_INFLATED = 512 * 1024 * 1024
"""A deflated data set that grows beyond this is refused, not inflated."""
_SYSTEM_OF_SCHEME = {"SCT": SCT, "LN": LOINC, "DCM": DCM, "UCUM": UCUM, "RADLEX": RADLEX}


def facts(data: bytes | bytearray | memoryview | Path) -> InstanceFacts:
    """What the header of a Part 10 file says. Pixel data are not read, only checked for being all there.

    Dates are ISO (`2026-11-21`, partial where the header's are), times `HH:MM:SS` with a fraction where there is one,
    names and texts decoded by Specific Character Set; a value that breaks its VR is empty or None. Of an issuer the
    universal id is given where there is one, else the local name.

    Raises InvalidInput, with the DICOM keyword as its location where one is to blame: no Part 10 file, no transfer
    syntax, a truncated data set, a missing or invalid SOP Class, SOP Instance, Study or Series Instance UID.
    """
    view = memoryview(data.read_bytes() if isinstance(data, Path) else data)
    meta, start = _file_meta(view)
    syntax = _ascii(view, meta.get(0x00020010))
    if not syntax:
        raise InvalidInput("the file meta information names no TransferSyntaxUID", location="TransferSyntaxUID")
    encoded = _encoded(view[start:], syntax)
    found, stopped = encoded.walk(0, len(encoded.data), WANTED)
    if stopped < len(encoded.data):
        _check_rest(encoded, stopped)
    return _facts(Values(encoded, found), syntax)


def data_set_start(data: bytes | bytearray | memoryview) -> int:
    """Where the data set begins: the byte after the file meta information. Raises InvalidInput when not Part 10."""
    return _file_meta(memoryview(data))[1]


def part10_header(*, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str) -> bytes:
    """Preamble and File Meta Information (PS3.10 7.1) for a data set received in `transfer_syntax_uid`."""
    elements = b"".join(
        (
            struct.pack("<HH2sHL2s", 0x0002, 0x0001, b"OB", 0, 2, b"\0\1"),
            _meta_element(0x0002, b"UI", sop_class_uid),
            _meta_element(0x0003, b"UI", sop_instance_uid),
            _meta_element(0x0010, b"UI", transfer_syntax_uid),
            _meta_element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _meta_element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _meta_element(0x0016, b"AE", source_ae[:16]),
        )
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(elements)) + elements


def read_header(data: bytes | Path) -> pydicom.Dataset:
    """The data set without its pixel data. Raises InvalidInput where it cannot be read."""
    return _read(data, stop_before_pixels=True)


def read(data: bytes | Path) -> pydicom.Dataset:
    """The whole data set, pixel data undecoded. Raises InvalidInput where it cannot be read."""
    return _read(data, stop_before_pixels=False)


def _read(data: bytes | Path, *, stop_before_pixels: bool) -> pydicom.Dataset:
    source = data if isinstance(data, Path) else io.BytesIO(data)
    try:
        return pydicom.dcmread(source, stop_before_pixels=stop_before_pixels)
    except Exception as error:  # pydicom lets struct, zlib, index and its own errors through
        raise InvalidInput("not a readable DICOM Part 10 file") from error


def _meta_element(element: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii", "replace")
    if len(encoded) % 2:
        encoded += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(encoded)) + encoded


def _file_meta(view: memoryview) -> tuple[Mapping[int, Place], int]:
    """The elements of group 0002 and the byte after them; always explicit VR little endian (PS3.10 7.1)."""
    if not len(view):
        raise InvalidInput("the file is empty (zero bytes)")
    if bytes(view[128:132]) != b"DICM":
        raise InvalidInput("not a DICOM Part 10 file: no DICM prefix after the preamble")
    position, end = _DATA_SET_START, len(view)
    places: dict[int, Place] = {}
    while position + 8 <= end and bytes(view[position : position + 2]) == b"\x02\x00":
        element = struct.unpack_from("<H", view, position + 2)[0]
        if bytes(view[position + 4 : position + 6]) in (b"OB", b"UN"):
            start = position + 12
            length = struct.unpack_from("<L", view, position + 8)[0] if start <= end else end
        else:
            start = position + 8
            length = struct.unpack_from("<H", view, position + 6)[0]
        if start + length > end:
            raise InvalidInput("the file is truncated: it ends within the file meta information")
        places[0x00020000 | element] = (start, start + length)
        position = start + length
    return places, position


def _encoded(data: memoryview, syntax: str) -> Encoded:
    if syntax == DeflatedExplicitVRLittleEndian:
        data = _inflated(data)
    # Some writers name the implicit syntax and write the explicit, or the reverse: the first element tells.
    explicit = syntax != ImplicitVRLittleEndian
    vr = bytes(data[4:6])
    if len(vr) == 2 and (vr.isalpha() and vr.isupper()) != explicit:
        explicit = not explicit
    return Encoded(data, explicit=explicit, little=syntax != ExplicitVRBigEndian)


def _inflated(data: memoryview) -> memoryview:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, _LARGEST_INFLATED)
    except zlib.error as error:
        raise InvalidInput("the deflated data set cannot be inflated") from error
    if stream.unconsumed_tail:
        raise InvalidInput(f"the deflated data set is larger than {_LARGEST_INFLATED} bytes")
    if not stream.eof:
        raise InvalidInput("the data set is truncated: its deflated stream does not end")
    return memoryview(inflated)


def _check_rest(encoded: Encoded, position: int) -> None:
    order = "<" if encoded.little else ">"
    group, element = struct.unpack_from(f"{order}HH", encoded.data, position)
    if group << 16 | element not in PIXEL_DATA:
        raise InvalidInput("the data set holds a delimiter where an element should be")
    encoded.check_pixel_data(position)


def _ascii(view: memoryview, place: Place | None) -> str:
    if place is None:
        return ""
    return bytes(view[place[0] : place[1]]).decode("ascii", "replace").strip(" \0")


def _facts(values: Values, syntax: str) -> InstanceFacts:
    return InstanceFacts(
        sop_instance_uid=values.uid("SOPInstanceUID"),
        sop_class_uid=values.uid("SOPClassUID"),
        study_instance_uid=values.uid("StudyInstanceUID"),
        series_instance_uid=values.uid("SeriesInstanceUID"),
        transfer_syntax_uid=syntax,
        modality=values.code("Modality"),
        instance_number=values.integer("InstanceNumber"),
        number_of_frames=max(values.integer("NumberOfFrames") or 1, 1),
        series_number=values.integer("SeriesNumber"),
        series_description=values.text("SeriesDescription"),
        body_part=values.code("BodyPartExamined"),
        view_position=values.code("ViewPosition"),
        laterality=values.code("ImageLaterality") or values.code("Laterality"),
        image_type=tuple(part.strip() for part in values.code("ImageType").split("\\") if part.strip()),
        contrast_agent=values.text("ContrastBolusAgent"),
        study_date=iso_date(values.code("StudyDate")),
        study_time=iso_time(values.code("StudyTime")),
        study_description=values.text("StudyDescription"),
        study_id=values.text("StudyID"),
        accession_number=values.text("AccessionNumber"),
        accession_issuer=_issuer(values.items("IssuerOfAccessionNumberSequence")),
        patient_id=values.text("PatientID"),
        patient_id_issuer=_issuer(values.items("IssuerOfPatientIDQualifiersSequence"))
        or values.text("IssuerOfPatientID"),
        patient_name=values.name("PatientName"),
        patient_birth_date=iso_date(values.code("PatientBirthDate")),
        patient_sex=values.code("PatientSex"),
        patient_age=values.code("PatientAge"),
        referring_physician=values.name("ReferringPhysicianName"),
        procedure_codes=tuple(
            coded
            for keyword in ("ProcedureCodeSequence", "RequestedProcedureCodeSequence")
            for item in values.items(keyword)
            if (coded := _coded(item)) is not None
        ),
        manufacturer=values.text("Manufacturer"),
        model_name=values.text("ManufacturerModelName"),
        station_name=values.text("StationName"),
        images_in_acquisition=values.integer("ImagesInAcquisition"),
        rows=values.short("Rows"),
        columns=values.short("Columns"),
    )


def _issuer(items: list[Values]) -> str:
    """Of an HL7v2 Hierarchic Designator (PS3.3 10.14)."""
    return next((i.text("UniversalEntityID") or i.text("LocalNamespaceEntityID") for i in items), "")


def _coded(item: Values) -> Coded | None:
    """Of a Code Sequence item (PS3.3 8.8)."""
    code = item.text("CodeValue") or item.text("LongCodeValue")
    if not code:
        return None
    scheme, uid = item.text("CodingSchemeDesignator"), item.code("CodingSchemeUID")
    system = _SYSTEM_OF_SCHEME.get(scheme) or (
        f"urn:oid:{uid}" if uid else f"urn:wetread:coding-scheme:{quote(scheme)}"
    )
    return Coded(code, system, item.text("CodeMeaning"))
