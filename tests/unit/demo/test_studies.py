"""The demonstration's studies are valid DICOM, belong to their orders, and keep what was measured."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import hl7
import numpy as np
import pydicom
import pytest
from hl7apy.parser import parse_message
from PIL import Image
from pydicom import Dataset

from wetread.demo.studies import Case, film, instances, load_cases
from wetread.errors import InvalidInput

DEMO = Path(__file__).parents[3] / "demo"
CASES = load_cases(DEMO)
ORDERED = [name for name, case in CASES.items() if case.order]


def _order(case: Case) -> hl7.Message:
    return hl7.parse((DEMO / str(case.order)).read_bytes().decode("utf-8"))


@pytest.mark.peer
@pytest.mark.parametrize("name", CASES)
def test_dciodvfy_finds_no_error(name: str, tmp_path: Path) -> None:
    dciodvfy = shutil.which("dciodvfy")
    assert dciodvfy, "dciodvfy is missing: apt install dicom3tools"
    made = instances(CASES[name], DEMO)
    for number in {0, len(made) // 2, len(made) - 1}:
        file = tmp_path / f"{number}.dcm"
        made[number].save_as(file, enforce_file_format=True)
        told = subprocess.run([dciodvfy, "-new", str(file)], capture_output=True, text=True, check=False)
        assert "Error" not in told.stdout + told.stderr


@pytest.mark.parametrize("name", CASES)
def test_a_study_has_one_identity_and_unique_instances(name: str) -> None:
    case = CASES[name]
    made = instances(case, DEMO)
    assert len({d.SOPInstanceUID for d in made}) == len(made)
    assert {d.SOPInstanceUID for d in made} == {d.file_meta.MediaStorageSOPInstanceUID for d in made}
    assert {d.StudyInstanceUID for d in made} == {case.examination.study_instance_uid}
    assert len({d.SeriesInstanceUID for d in made}) == 1
    assert {(d.PatientID, d.IssuerOfPatientID) for d in made} == {(case.patient.id, "DEMO-HOSPITAL")}
    assert {d.AccessionNumber for d in made} == {case.examination.accession_number}
    assert {d.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID for d in made} == {"DEMO-RIS"}


def test_no_two_cases_share_an_identity() -> None:
    cases = CASES.values()
    assert len({c.patient.id for c in cases}) == len(CASES)
    assert len({c.examination.accession_number for c in cases}) == len(CASES)
    assert len({c.examination.study_instance_uid for c in cases}) == len(CASES)


def test_the_same_case_makes_the_same_bytes_twice() -> None:
    def content(dataset: Dataset) -> bytes:
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    first, again = (instances(CASES["head-ct"], DEMO)[7] for _ in range(2))
    assert content(first) == content(again)


@pytest.mark.parametrize("name", ORDERED)
def test_the_order_names_the_same_patient_accession_and_study(name: str) -> None:
    case = CASES[name]
    order = _order(case)
    pid, orc, obr = order.segment("PID"), order.segment("ORC"), order.segment("OBR")
    assert str(pid[3]) == f"{case.patient.id}^^^DEMO-HOSPITAL^MR"
    assert str(pid[5]).startswith(f"{case.patient.family}^{case.patient.given}^")
    assert (str(pid[7]), str(pid[8])) == (case.patient.birth_date, case.patient.sex)
    assert str(obr[4]).startswith(case.examination.procedure_code + "^")
    assert str(obr[4]).endswith("^LN")
    assert (str(orc[2]), str(orc[3])) == (str(obr[2]), str(obr[3]))
    assert "^DR^" in str(obr[16])
    assert str(orc[12]) == str(obr[16])
    assert str(order.segment("PV1")[19]).startswith("DEMO-V")
    modality = {d.Modality for d in instances(case, DEMO)}
    assert modality == {str(obr[24])}
    if str(order["MSH.9.1"]) == "ORM":
        assert str(obr[18]) == case.examination.accession_number
        assert str(order.segment("ZDS")[1]) == f"{case.examination.study_instance_uid}^DEMO-RIS^Application^DICOM"
    else:
        ipc = order.segment("IPC")
        assert str(ipc[1]) == f"{case.examination.accession_number}^DEMO-RIS"
        assert (str(ipc[3]), str(ipc[5])) == (case.examination.study_instance_uid, modality.pop())


@pytest.mark.parametrize(("name", "priority"), [("chest-film", "R"), ("head-ct", "R"), ("head-ct-phantom-bleed", "S")])
def test_only_the_phantom_with_the_bleed_is_stat(name: str, priority: str) -> None:
    assert str(_order(CASES[name]).segment("TQ1")[9]).split("^")[0] == priority


@pytest.mark.parametrize("name", [n for n in ORDERED if n != "chest-film"])
def test_the_omi_orders_are_valid_hl7_2_5_1(name: str) -> None:
    """By hl7apy's structure tables. The ORM is left out: its ZDS is IHE's own (RAD TF-2 4.4.4.1.2.2)."""
    message = parse_message((DEMO / str(CASES[name].order)).read_bytes().decode("utf-8"))
    assert message.validate()
    assert "\rIPC|" in message.to_er7()


def test_the_child_of_the_film_is_four_years_old() -> None:
    (made,) = instances(CASES["chest-film"], DEMO)
    assert made.PatientAge == "004Y"


def test_a_film_keeps_every_decoded_pixel_and_says_it_was_lossy() -> None:
    (made,) = instances(CASES["chest-film"], DEMO)
    jpeg = DEMO / CASES["chest-film"].source
    with Image.open(jpeg) as picture:
        assert np.array_equal(made.pixel_array, np.asarray(picture.convert("L")))
    assert (made.LossyImageCompression, made.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert float(made.LossyImageCompressionRatio) == pytest.approx(224 * 224 / jpeg.stat().st_size, abs=0.001)
    assert list(made.ImageType) == ["DERIVED", "PRIMARY"]


def test_a_png_film_is_not_called_lossy() -> None:
    case = CASES["chest-film"]
    buffer = io.BytesIO()
    Image.fromarray(np.arange(63, dtype=np.uint8).reshape(7, 9)).save(buffer, "PNG")
    made = film(buffer.getvalue(), case.patient, case.examination)
    assert made.LossyImageCompression == "00"
    assert "LossyImageCompressionRatio" not in made
    assert np.array_equal(made.pixel_array.ravel(), np.arange(63))


def test_bytes_that_are_no_picture_are_refused() -> None:
    case = CASES["chest-film"]
    with pytest.raises(InvalidInput, match="not a JPEG or PNG"):
        film(b"\xff\xd8 not really", case.patient, case.examination)


def test_readdressing_changes_names_and_nothing_that_is_measured() -> None:
    case = CASES["head-ct"]
    with tarfile.open(DEMO / case.source) as archive:
        member = archive.extractfile("14.dcm")
        assert member is not None
        original = pydicom.dcmread(io.BytesIO(member.read()))
    made = next(d for d in instances(case, DEMO) if d.InstanceNumber == original.InstanceNumber)
    for keyword in ("PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        assert made[keyword].value == original[keyword].value
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert made[keyword].value != original[keyword].value
    assert "PatientIdentityRemoved" not in made


def test_the_phantom_lies_as_a_patient_would() -> None:
    """Feet to head ascending, the nose towards the first row, Hounsfield units as generated."""
    made = instances(CASES["head-ct-phantom-bleed"], DEMO)
    with np.load(DEMO / CASES["head-ct-phantom-bleed"].source) as stored:
        hu = stored["hu"]
    heights = [float(d.ImagePositionPatient[2]) for d in made]
    assert np.allclose(np.diff(heights), 4.0)
    assert np.array_equal(made[12].pixel_array, hu[12, ::-1, ::-1])
    assert "SYNTHETIC" in made[0].SeriesDescription
