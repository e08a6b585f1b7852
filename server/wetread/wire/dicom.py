"""DICOM Part 10 files (PS3.10 7): what a header says, as facts; the header that a received data set gets.

`facts` is for the receive path and reads the bytes in place; pydicom reads wherever a whole data set is wanted.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Mapping
from datetime import date, time
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import pydicom
from pydicom import charset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from wetread import __version__
from wetread.domain.codes import DCM, LOINC, RADLEX, SCT, UCUM, Coded
from wetread.domain.keys import dicom_uid
from wetread.domain.study import InstanceFacts
from wetread.errors import InvalidInput
from wetread.wire.dicom_elements import PIXEL_DATA, Encoded, Place

IMPLEMENTATION_CLASS_UID = dicom_uid("implementation class")
IMPLEMENTATION_VERSION_NAME = f"WETREAD_{__version__}"[:16]

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_ESCAPE = re.compile(rb"(?=\x1b)")
_DELIMITER = re.compile(rb"(?=[\\^=\r\n\f\t])")
_CHARACTER_SET = re.compile(r"ISO[ _-]?(2022)?[ _-]?IR[ _-]?([0-9]+)", re.IGNORECASE)
_DATA_SET_START = 132
_LARGEST_INFLATED = 512 * 1024 * 1024
"""A deflated data set that grows beyond this is refused, not inflated."""
_LONGEST_VALUE = 1024
"""No attribute among the facts may be longer (PS3.5 6.2); what is breaks its VR."""
_SYSTEM_OF_SCHEME = {"SCT": SCT, "LN": LOINC, "DCM": DCM, "UCUM": UCUM, "RADLEX": RADLEX}

_TAGS = {
    "SpecificCharacterSet": 0x00080005,
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "StudyDate": 0x00080020,
    "StudyTime": 0x00080030,
    "AccessionNumber": 0x00080050,
    "IssuerOfAccessionNumberSequence": 0x00080051,
    "Modality": 0x00080060,
    "Manufacturer": 0x00080070,
    "ReferringPhysicianName": 0x00080090,
    "StationName": 0x00081010,
    "StudyDescription": 0x00081030,
    "ProcedureCodeSequence": 0x00081032,
    "SeriesDescription": 0x0008103E,
    "ManufacturerModelName": 0x00081090,
    "PatientName": 0x00100010,
    "PatientID": 0x00100020,
    "IssuerOfPatientID": 0x00100021,
    "IssuerOfPatientIDQualifiersSequence": 0x00100024,
    "PatientBirthDate": 0x00100030,
    "PatientSex": 0x00100040,
    "PatientAge": 0x00101010,
    "ContrastBolusAgent": 0x00180010,
    "BodyPartExamined": 0x00180015,
    "ViewPosition": 0x00185101,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "StudyID": 0x00200010,
    "SeriesNumber": 0x00200011,
    "InstanceNumber": 0x00200013,
    "Laterality": 0x00200060,
    "ImageLaterality": 0x00200062,
    "ImagesInAcquisition": 0x00201002,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "RequestedProcedureCodeSequence": 0x00321064,
    "CodeValue": 0x00080100,
    "CodingSchemeDesignator": 0x00080102,
    "CodeMeaning": 0x00080104,
    "CodingSchemeUID": 0x0008010C,
    "LongCodeValue": 0x00080119,
    "LocalNamespaceEntityID": 0x00400031,
    "UniversalEntityID": 0x00400032,
}
_WANTED = frozenset(_TAGS.values())


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
    found, stopped = encoded.walk(0, len(encoded.data), _WANTED)
    if stopped < len(encoded.data):
        _check_rest(encoded, stopped)
    return _facts(_Values(encoded, found), syntax)


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


class _Values:
    """The found elements of one data set or item, decoded on demand."""

    def __init__(self, encoded: Encoded, found: Mapping[int, Place], encodings: tuple[str, ...] | None = None) -> None:
        self.encoded = encoded
        self.found = found
        self.encodings = encodings if encodings is not None else _encodings(self.code("SpecificCharacterSet"))

    def raw(self, keyword: str) -> bytes:
        place = self.found.get(_TAGS[keyword])
        if place is None or place[1] - place[0] > _LONGEST_VALUE:
            return b""
        return bytes(self.encoded.data[place[0] : place[1]])

    def code(self, keyword: str) -> str:
        """A value of the default repertoire: CS, UI, AE, AS."""
        return _clean(self.raw(keyword).decode("ascii", "replace"))

    def text(self, keyword: str) -> str:
        return _clean(_decoded(self.raw(keyword), self.encodings))

    def name(self, keyword: str) -> str:
        """The alphabetic group of a PN, or the first that holds something (PS3.5 6.2.1)."""
        groups = (_clean(group).rstrip("^") for group in _decoded(self.raw(keyword), self.encodings).split("="))
        return next((group for group in groups if group), "")

    def uid(self, keyword: str) -> str:
        value = self.code(keyword)
        if not value:
            raise InvalidInput(f"{keyword} is missing or empty", location=keyword)
        if len(value) > 64 or not _UID.fullmatch(value):
            raise InvalidInput(f"{keyword} is not a UID (PS3.5 9.1)", location=keyword)
        return value

    def integer(self, keyword: str) -> int | None:
        """An IS value."""
        try:
            value = int(float(self.code(keyword).split("\\")[0]))
        except (ValueError, OverflowError):
            return None
        return value if abs(value) < 2**31 else None

    def short(self, keyword: str) -> int | None:
        """A US value."""
        raw = self.raw(keyword)
        return int.from_bytes(raw[:2], "little" if self.encoded.little else "big") if len(raw) >= 2 else None

    def items(self, keyword: str) -> list[_Values]:
        place = self.found.get(_TAGS[keyword])
        if place is None:
            return []
        return [
            _Values(self.encoded, self.encoded.walk(start, end, _WANTED)[0], self.encodings)
            for start, end in self.encoded.items(place)
        ]


def _decoded(raw: bytes, encodings: tuple[str, ...]) -> str:
    """Text in the first character set, or in those that its escape sequences call (PS3.5 6.1.2.5). Never fails."""
    start, *escaped = _ESCAPE.split(raw)
    text = start.decode(encodings[0], "replace")
    for piece in escaped:
        code = next((code for code in charset.CODES_TO_ENCODINGS if piece.startswith(code)), b"\x1b")
        codec = charset.CODES_TO_ENCODINGS.get(code, encodings[0])
        if codec in charset.handled_encodings:
            text += piece.decode(codec, "replace")
            continue
        # A delimiter calls the first character set back (PS3.5 6.1.2.5.3).
        called, *back = _DELIMITER.split(piece[len(code) :], maxsplit=1)
        text += called.decode(codec, "replace") + b"".join(back).decode(encodings[0], "replace")
    return text


def _clean(text: str) -> str:
    """Without padding, and without the NULs that some writers leave inside and no database takes."""
    return text.replace("\0", "").strip()


def _facts(values: _Values, syntax: str) -> InstanceFacts:
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
        study_date=_date(values.code("StudyDate")),
        study_time=_time(values.code("StudyTime")),
        study_description=values.text("StudyDescription"),
        study_id=values.text("StudyID"),
        accession_number=values.text("AccessionNumber"),
        accession_issuer=_issuer(values.items("IssuerOfAccessionNumberSequence")),
        patient_id=values.text("PatientID"),
        patient_id_issuer=_issuer(values.items("IssuerOfPatientIDQualifiersSequence"))
        or values.text("IssuerOfPatientID"),
        patient_name=values.name("PatientName"),
        patient_birth_date=_date(values.code("PatientBirthDate")),
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


def _issuer(items: list[_Values]) -> str:
    """Of an HL7v2 Hierarchic Designator (PS3.3 10.14)."""
    return next((i.text("UniversalEntityID") or i.text("LocalNamespaceEntityID") for i in items), "")


def _coded(item: _Values) -> Coded | None:
    """Of a Code Sequence item (PS3.3 8.8)."""
    code = item.text("CodeValue") or item.text("LongCodeValue")
    if not code:
        return None
    scheme, uid = item.text("CodingSchemeDesignator"), item.code("CodingSchemeUID")
    system = _SYSTEM_OF_SCHEME.get(scheme) or (
        f"urn:oid:{uid}" if uid else f"urn:wetread:coding-scheme:{quote(scheme)}"
    )
    return Coded(code, system, item.text("CodeMeaning"))


@lru_cache(maxsize=64)
def _encodings(character_set: str) -> tuple[str, ...]:
    """The Python codecs of a Specific Character Set (PS3.3 C.12.1.1.2); an unknown one is read as Latin-1."""
    terms = (_CHARACTER_SET.sub(_canonical, part.strip()) for part in character_set.split("\\"))
    return tuple(charset.python_encoding.get(term, "iso8859") for term in terms)


def _canonical(term: re.Match[str]) -> str:
    """`ISO-IR 100` and its like, as many devices write them, in the standard's own spelling."""
    return f"ISO 2022 IR {term[2]}" if term[1] else f"ISO_IR {term[2]}"


def _date(value: str) -> str:
    """DA, also of the old form with dots, or only a year or a month."""
    digits = value.replace(".", "").replace("-", "")
    if not digits.isascii() or not digits.isdigit() or len(digits) not in (4, 6, 8):
        return ""
    parts = (digits[:4], digits[4:6], digits[6:8])
    try:
        date(int(parts[0]), int(parts[1] or 1), int(parts[2] or 1))
    except ValueError:
        return ""
    return "-".join(part for part in parts if part)


def _time(value: str) -> str:
    """TM, also of the old form with colons; missing minutes and seconds are 00."""
    whole, _, fraction = value.replace(":", "").partition(".")
    if (
        not whole.isascii()
        or not whole.isdigit()
        or len(whole) not in (2, 4, 6)
        or (fraction and not fraction.isdigit())
    ):
        return ""
    hour, minute, second = int(whole[:2]), int(whole[2:4] or 0), min(int(whole[4:6] or 0), 59)
    try:
        return time(hour, minute, second, int(fraction[:6].ljust(6, "0")) if fraction else 0).isoformat()
    except ValueError:
        return ""
