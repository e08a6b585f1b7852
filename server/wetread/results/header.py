"""What a source image lends to the objects derived from it, made valid.

highdicom wants type 2 attributes present and copies what it finds; real headers lack them or hold values that break
their VR. So the builders see a copy with known attributes only, each valid or empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydicom
from pydicom.config import RAISE
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName, validate_value

from wetread.domain.finding import Reading
from wetread.errors import InvalidInput

_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_TYPE_2 = (
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""PS3.3 C.7.1.1 Patient, C.7.2.1 General Study."""
_OPTIONAL = (
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "PatientAge",
    "TimezoneOffsetFromUTC",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "InstitutionName",
    "StationName",
    "BodyPartExamined",
    "PatientOrientation",
    "ImageType",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "PixelAspectRatio",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SliceLocation",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionOrganizationSequence",
    "DimensionIndexSequence",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
)


class Header(Dataset):
    """A header copy that `normalised` made. `told_name` is the patient's name, which the copy itself leaves empty:
    highdicom warns of every name of a single component, and those are common."""

    told_name: PersonName


def normalised(sources: Sequence[pydicom.Dataset], reading: Reading) -> list[Header]:
    """Header copies of the sources, in the order of `reading.source_instances`; a copy is not copied again.

    Raises InvalidInput where an instance has no UID of its own, or the sources are not those that were read.
    """
    headers = [source if isinstance(source, Header) else _normalised(source) for source in sources]
    if tuple(h.SOPInstanceUID for h in headers) != reading.source_instances:
        raise InvalidInput("the source headers are not the instances that were read, in their order")
    return headers


def patient_name(source: pydicom.Dataset) -> PersonName:
    """The patient's name as text, to be encoded in the derived object's own character set."""
    if isinstance(source, Header):
        return source.told_name
    return PersonName(str(_valid(source, "PatientName") or ""))


def _normalised(source: pydicom.Dataset) -> Header:
    header = Header()
    header.told_name = patient_name(source)
    for keyword in (*_REQUIRED, *_TYPE_2, *_OPTIONAL):
        value = _valid(source, keyword)
        if value is not None:
            setattr(header, keyword, value)
        elif keyword in _REQUIRED:
            raise InvalidInput("a source image has no valid UID", location=keyword)
        elif keyword in _TYPE_2:
            setattr(header, keyword, "")
    header.PatientName = ""
    if "WindowCenter" in header and "VOILUTSequence" in header:
        del header.VOILUTSequence  # Alternatives to show the image by (PS3.3 C.11.2); one must be chosen.
    if any(spacing <= 0 for spacing in header.get("PixelSpacing", [])):
        del header.PixelSpacing  # Zero is how some say unknown.
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = ""
    return header


def _valid(source: pydicom.Dataset, keyword: str) -> object | None:
    """The value of an attribute, or None where it is absent, empty, unreadable or against its VR (PS3.5 6.2)."""
    try:
        element = source[keyword]
        value = element.value
        if value in (None, "") or (element.VM == 0):
            return None
        for single in value if isinstance(value, pydicom.multival.MultiValue) else [value]:
            if element.VR == "PN":
                validate_value("PN", str(single), RAISE)
            elif isinstance(single, str) and keyword not in _REQUIRED:
                validate_value(element.VR, single, RAISE)
    except (KeyError, ValueError, TypeError, AttributeError, NotImplementedError):
        return None
    return PersonName(str(value)) if element.VR == "PN" else value
