"""Open images made into DICOM studies of invented patients: a film from a JPEG, a phantom, a real CT readdressed.

Identities come from `cases.json`, which the orders in `orders/` share. UIDs follow from case and source, so that the
same case always makes the same instances.
"""

from __future__ import annotations

import copy
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, CTImageStorage, ExplicitVRLittleEndian

from wetread.domain.keys import dicom_uid
from wetread.errors import InvalidInput

_MAKER = "Wetread demonstration"


@dataclass(frozen=True, slots=True)
class Patient:
    """An invented person. `issuer` is the assigning authority of `id` (0010,0021); `birth_date` YYYYMMDD."""

    id: str
    issuer: str
    family: str
    given: str
    birth_date: str
    sex: str


@dataclass(frozen=True, slots=True)
class Examination:
    """The study as the order knows it. `accession_issuer` is a local namespace (0008,0051); `started` has its zone."""

    accession_number: str
    accession_issuer: str
    study_instance_uid: str
    started: datetime
    description: str
    procedure_code: str
    referring_physician: str


@dataclass(frozen=True, slots=True)
class Case:
    """One story of the demonstration: who, what, which images, and the HL7 order (None: a study with no order)."""

    name: str
    kind: str
    source: str
    order: str | None
    patient: Patient
    examination: Examination


def load_cases(folder: Path) -> dict[str, Case]:
    """The cases of `<folder>/cases.json`, by name."""
    told = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    cases = {}
    for name, case in told["cases"].items():
        examination = {**case["examination"], "started": datetime.fromisoformat(case["examination"]["started"])}
        cases[name] = Case(
            name=name,
            kind=case["kind"],
            source=case["source"],
            order=case.get("order"),
            patient=Patient(issuer=told["patient_id_issuer"], **case["patient"]),
            examination=Examination(accession_issuer=told["accession_issuer"], **examination),
        )
    return cases


def instances(case: Case, folder: Path) -> list[Dataset]:
    """The DICOM instances of a case, from its source under `folder`, with file meta information, ready to send."""
    source = folder / case.source
    if case.kind == "film":
        return [film(source.read_bytes(), case.patient, case.examination)]
    if case.kind == "phantom":
        with np.load(source) as stored:
            hu, (slice_mm, row_mm, column_mm) = stored["hu"], stored["spacing_mm"].tolist()
        return head_ct_phantom(hu, (slice_mm, row_mm, column_mm), case.patient, case.examination)
    return [readdress(d, case.patient, case.examination) for d in _from_archive(source)]


def film(content: bytes, patient: Patient, examination: Examination, *, view_position: str = "AP") -> Dataset:
    """A CR chest film (PS3.3 A.2) from the bytes of a grey JPEG or PNG, 8 bits, stored uncompressed.

    A JPEG's pixels are marked Derived and lossy (PS3.3 C.7.6.1.1.5) with the ratio of its own bytes. Raises
    InvalidInput where the bytes are no image.
    """
    try:
        picture = Image.open(io.BytesIO(content))
        pixels = np.asarray(picture.convert("L"))
    except OSError as error:
        raise InvalidInput("not a JPEG or PNG image") from error
    made = _instance(ComputedRadiographyImageStorage, "film", patient, examination, number=1, series_number=1)
    made.Modality = "CR"
    made.SeriesDescription = f"CHEST {view_position}"
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.DerivationDescription = f"Made from a published {picture.format} of a chest film"
    made.BodyPartExamined = "CHEST"
    made.ViewPosition = view_position
    made.PatientOrientation = ["L", "F"]
    made.LossyImageCompression = "01" if picture.format == "JPEG" else "00"
    if picture.format == "JPEG":
        made.LossyImageCompressionRatio = f"{pixels.nbytes / len(content):.3f}"
        made.LossyImageCompressionMethod = "ISO_10918_1"
    made.WindowCenter, made.WindowWidth = 128, 256
    made.BurnedInAnnotation = "NO"
    _set_pixels(made, pixels, signed=False)
    return made


def head_ct_phantom(
    hu: NDArray[np.int16], spacing_mm: tuple[float, float, float], patient: Patient, examination: Examination
) -> list[Dataset]:
    """An axial CT series (PS3.3 A.3) from Hounsfield units, slices x rows x columns.

    The array runs to superior, anterior and right; `spacing_mm` is between slices, rows, columns. Series Description
    says that it is synthetic.
    """
    count, rows, columns = hu.shape
    slice_mm, row_mm, column_mm = spacing_mm
    series = []
    for index in range(count):
        made = _instance(CTImageStorage, "phantom", patient, examination, number=index + 1, series_number=1)
        made.Modality = "CT"
        made.SeriesDescription = "SYNTHETIC HEAD PHANTOM"
        made.ProtocolName = "SYNTHETIC PHANTOM"
        made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        made.BodyPartExamined = "HEAD"
        made.PatientPosition = "HFS"
        made.KVP = None
        made.AcquisitionNumber = 1
        made.FrameOfReferenceUID = dicom_uid("demo-frame-of-reference", examination.study_instance_uid)
        made.PositionReferenceIndicator = None
        made.SliceThickness = slice_mm
        made.PixelSpacing = [row_mm, column_mm]
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.ImagePositionPatient = [
            round(-(columns - 1) / 2 * column_mm, 6),
            round(-(rows - 1) / 2 * row_mm, 6),
            round((index - (count - 1) / 2) * slice_mm, 6),
        ]
        made.RescaleIntercept, made.RescaleSlope, made.RescaleType = 0, 1, "HU"
        made.WindowCenter, made.WindowWidth = 40, 80
        made.LossyImageCompression = "00"
        # The first DICOM row is anterior and the first column is the patient's right.
        _set_pixels(made, np.ascontiguousarray(hu[index, ::-1, ::-1], dtype=np.int16), signed=True)
        series.append(made)
    return series


def readdress(dataset: Dataset, patient: Patient, examination: Examination) -> Dataset:
    """A copy of a de-identified instance that belongs to an invented patient and examination.

    Study, Series, Frame of Reference and SOP Instance UIDs are new and follow from the old ones, so that a series stays
    a series. Image pixels and geometry stay as they are.
    """
    made = copy.deepcopy(dataset)
    key = examination.study_instance_uid
    for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        if keyword in made:
            setattr(made, keyword, dicom_uid("demo-readdressed", key, str(made[keyword].value)))
    made.StudyID = "1"
    _address(made, patient, examination)
    # The identity is no longer removed, it is invented (PS3.3 C.7.1.1).
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod"):
        if keyword in made:
            delattr(made, keyword)
    made.PatientComments = "Invented identity on de-identified images"
    made.remove_private_tags()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    _finish(made, meta)
    return made


def _from_archive(source: Path) -> Sequence[Dataset]:
    with tarfile.open(source, "r:xz") as archive:
        files = [archive.extractfile(member) for member in sorted(archive.getmembers(), key=lambda m: m.name)]
        return [pydicom.dcmread(io.BytesIO(file.read())) for file in files if file is not None]


def _instance(
    sop_class: UID, kind: str, patient: Patient, examination: Examination, *, number: int, series_number: int
) -> Dataset:
    made = Dataset()
    made.SOPClassUID = sop_class
    made.SOPInstanceUID = dicom_uid("demo-instance", kind, examination.study_instance_uid, str(number))
    made.SeriesInstanceUID = dicom_uid("demo-series", kind, examination.study_instance_uid)
    made.SeriesNumber = series_number
    made.InstanceNumber = number
    made.Manufacturer = _MAKER
    made.ManufacturerModelName = f"{kind} maker"
    made.StudyID = "1"
    _address(made, patient, examination)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    _finish(made, meta)
    return made


def _address(made: Dataset, patient: Patient, examination: Examination) -> None:
    day, time = examination.started.strftime("%Y%m%d"), examination.started.strftime("%H%M%S")
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientName = f"{patient.family}^{patient.given}"
    made.PatientID = patient.id
    made.IssuerOfPatientID = patient.issuer
    made.PatientBirthDate = patient.birth_date
    made.PatientSex = patient.sex
    made.PatientAge = _age(patient.birth_date, day)
    made.StudyInstanceUID = examination.study_instance_uid
    made.StudyDate = made.SeriesDate = made.AcquisitionDate = made.ContentDate = day
    made.StudyTime = made.SeriesTime = made.AcquisitionTime = made.ContentTime = time
    made.TimezoneOffsetFromUTC = examination.started.strftime("%z")
    made.StudyDescription = examination.description
    made.ReferringPhysicianName = examination.referring_physician
    made.AccessionNumber = examination.accession_number
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = examination.accession_issuer
    made.IssuerOfAccessionNumberSequence = [issuer]


def _finish(made: Dataset, meta: FileMetaDataset) -> None:
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    meta.ImplementationClassUID = UID(dicom_uid("implementation", "wetread"))
    meta.ImplementationVersionName = "WETREAD_DEMO"
    made.file_meta = meta


def _set_pixels(made: Dataset, pixels: NDArray[Any], *, signed: bool) -> None:
    bits = pixels.dtype.itemsize * 8
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows, made.Columns = pixels.shape
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit = bits - 1
    made.PixelRepresentation = int(signed)
    content = pixels.tobytes()
    made.PixelData = content + b"\0" * (len(content) % 2)
    made["PixelData"].VR = "OB" if bits == 8 else "OW"


def _age(birth_date: str, day: str) -> str:
    """Patient's Age (0010,1010): years from two on, months before."""
    years = int(day[:4]) - int(birth_date[:4]) - (day[4:] < birth_date[4:])
    months = (
        (int(day[:4]) - int(birth_date[:4])) * 12 + int(day[4:6]) - int(birth_date[4:6]) - (day[6:] < birth_date[6:])
    )
    return f"{years:03d}Y" if years >= 2 else f"{months:03d}M"
