"""Elements of a DICOM header as values: decoded on demand, by VR and character set (PS3.5 6)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, time
from functools import lru_cache

from pydicom import charset

from wetread.errors import InvalidInput
from wetread.wire.dicom_elements import Encoded, Place

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_ESCAPE = re.compile(rb"(?=\x1b)")
_DELIMITER = re.compile(rb"(?=[\\^=\r\n\f\t])")
_CHARACTER_SET = re.compile(r"ISO[ _-]?(2022)?[ _-]?IR[ _-]?([0-9]+)", re.IGNORECASE)
_LONGEST_VALUE = 1024
"""No attribute among the facts may be longer (PS3.5 6.2); what is breaks its VR."""
TAGS = {
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
WANTED = frozenset(TAGS.values())


class Values:
    """The found elements of one data set or item, decoded on demand."""

    def __init__(self, encoded: Encoded, found: Mapping[int, Place], encodings: tuple[str, ...] | None = None) -> None:
        self.encoded = encoded
        self.found = found
        self.encodings = encodings if encodings is not None else _encodings(self.code("SpecificCharacterSet"))

    def raw(self, keyword: str) -> bytes:
        place = self.found.get(TAGS[keyword])
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

    def items(self, keyword: str) -> list[Values]:
        place = self.found.get(TAGS[keyword])
        if place is None:
            return []
        return [
            Values(self.encoded, self.encoded.walk(start, end, WANTED)[0], self.encodings)
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


@lru_cache(maxsize=64)
def _encodings(character_set: str) -> tuple[str, ...]:
    """The Python codecs of a Specific Character Set (PS3.3 C.12.1.1.2); an unknown one is read as Latin-1."""
    terms = (_CHARACTER_SET.sub(_canonical, part.strip()) for part in character_set.split("\\"))
    return tuple(charset.python_encoding.get(term, "iso8859") for term in terms)


def _canonical(term: re.Match[str]) -> str:
    """`ISO-IR 100` and its like, as many devices write them, in the standard's own spelling."""
    return f"ISO 2022 IR {term[2]}" if term[1] else f"ISO_IR {term[2]}"


def iso_date(value: str) -> str:
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


def iso_time(value: str) -> str:
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
