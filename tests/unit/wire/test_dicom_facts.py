"""What a header says, read in place: checked against pydicom over every transfer syntax and character set we hold."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from tests.soak import times

from wetread.domain.codes import Coded
from wetread.errors import InvalidInput
from wetread.wire import dicom
from wetread.wire.dicom_frames import frames

DATA = Path(__file__).parents[2] / "data/dicom"
SYNTAXES = sorted((DATA / "syntaxes").glob("*.dcm"))
CHARSETS = sorted((DATA / "charsets").glob("*.dcm"))


def part10(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def mr() -> pydicom.FileDataset:
    return pydicom.dcmread(DATA / "syntaxes/MR_small.dcm")


@pytest.mark.parametrize("path", SYNTAXES, ids=lambda p: p.stem)
def test_facts_are_those_that_pydicom_reads(path: Path) -> None:
    facts = dicom.facts(path)
    header = pydicom.dcmread(path, stop_before_pixels=True)
    assert facts.transfer_syntax_uid == header.file_meta.TransferSyntaxUID
    assert facts.sop_instance_uid == header.SOPInstanceUID
    assert facts.sop_class_uid == header.SOPClassUID
    assert facts.study_instance_uid == header.StudyInstanceUID
    assert facts.series_instance_uid == header.SeriesInstanceUID
    assert facts.modality == header.Modality
    assert facts.patient_id == header.PatientID
    assert facts.patient_name == str(header.PatientName).rstrip("^")
    assert (facts.rows, facts.columns) == (header.Rows, header.Columns)
    assert facts.image_type == tuple(header.ImageType)
    assert facts.instance_number == header.InstanceNumber
    assert facts.study_date.replace("-", "") == header.StudyDate.replace(".", "")


@pytest.mark.parametrize("path", CHARSETS, ids=lambda p: p.stem)
def test_names_are_decoded_by_their_character_set(path: Path) -> None:
    groups = str(pydicom.dcmread(path).PatientName).split("=")
    assert dicom.facts(path).patient_name == next(group for group in groups if group)


def test_a_name_without_an_alphabetic_group_is_given_by_the_next() -> None:
    dataset = mr()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "=山田^太郎"
    assert dicom.facts(part10(dataset)).patient_name == "山田^太郎"


def test_a_character_set_in_a_device_s_own_spelling_is_understood() -> None:
    dataset = mr()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "Müller"
    raw = part10(dataset).replace(b"ISO_IR 100", b"ISO-IR 100")
    assert dicom.facts(raw).patient_name == "Müller"


def test_issuers_and_procedure_codes_come_from_their_sequences() -> None:
    dataset = mr()
    issuer = pydicom.Dataset()
    issuer.LocalNamespaceEntityID = "RIS"
    issuer.UniversalEntityID = "1.2.840.99"
    issuer.UniversalEntityIDType = "ISO"
    dataset.IssuerOfAccessionNumberSequence = [issuer]
    dataset.IssuerOfPatientID = "HOSPITAL"
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "24627-2", "LN", "CT Chest"
    local = pydicom.Dataset()
    local.CodeValue, local.CodingSchemeDesignator, local.CodeMeaning = "CTTHX", "99RIS 1", "Thorax"
    dataset.ProcedureCodeSequence = [code, local]
    dataset["ProcedureCodeSequence"].is_undefined_length = True
    facts = dicom.facts(part10(dataset))
    assert facts.accession_issuer == "1.2.840.99"
    assert facts.patient_id_issuer == "HOSPITAL"
    assert facts.procedure_codes == (
        Coded("24627-2", "http://loinc.org", "CT Chest"),
        Coded("CTTHX", "urn:wetread:coding-scheme:99RIS%201", "Thorax"),
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [("20261121", "2026-11-21"), ("2026.11.21", "2026-11-21"), ("1970", "1970"), ("20261321", ""), ("unknown", "")],
)
def test_dates_are_iso_or_empty(written: str, read: str) -> None:
    dataset = mr()
    dataset.StudyDate = "20000101"
    padded = written.ljust(len(written) + len(written) % 2).encode()
    tag = b"\x08\x00\x20\x00DA"
    raw = part10(dataset).replace(tag + b"\x08\x0020000101", tag + struct.pack("<H", len(padded)) + padded)
    assert dicom.facts(raw).study_date == read


@pytest.mark.parametrize(
    ("written", "read"), [("0914", "09:14:00"), ("091456.25", "09:14:56.250000"), ("09:14:56", "09:14:56"), ("9h", "")]
)
def test_times_are_iso_or_empty(written: str, read: str) -> None:
    dataset = mr()
    dataset.StudyTime = "000000"
    padded = written.ljust(len(written) + len(written) % 2).encode()
    tag = b"\x08\x00\x30\x00TM"
    raw = part10(dataset).replace(tag + b"\x06\x00000000", tag + struct.pack("<H", len(padded)) + padded)
    assert dicom.facts(raw).study_time == read


def test_a_value_that_breaks_its_vr_is_left_out_and_the_rest_is_read() -> None:
    facts = dicom.facts(DATA / "malformed/badVR.dcm")
    assert facts.number_of_frames == 1
    assert facts.modality == "RTDOSE"


def test_a_data_set_that_is_explicit_though_it_names_the_implicit_syntax_is_read() -> None:
    raw = part10(mr())
    wrong = raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0", 1)
    assert dicom.facts(wrong).patient_id == dicom.facts(raw).patient_id
    assert dicom.facts(wrong).transfer_syntax_uid == ImplicitVRLittleEndian


@pytest.mark.parametrize(
    ("name", "keyword"),
    [("meta_missing_tsyntax", "TransferSyntaxUID"), ("chrSQEncoding", "SOPInstanceUID"), ("no_meta", None)],
)
def test_what_cannot_be_filed_is_refused_by_keyword(name: str, keyword: str | None) -> None:
    with pytest.raises(InvalidInput) as refused:
        dicom.facts(DATA / f"malformed/{name}.dcm")
    assert refused.value.location == keyword


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, b"", b"1.2.x ", b"1..2"])
def test_missing_and_invalid_uids_are_refused_by_keyword(keyword: str, value: bytes | None) -> None:
    dataset = mr()
    if value is None:
        del dataset[keyword]
    else:
        tag = pydicom.datadict.tag_for_keyword(keyword)
        dataset[tag] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(tag), "UI", len(value), value, 0, is_implicit_VR=False, is_little_endian=True
        )
    with pytest.raises(InvalidInput, match=keyword) as refused:
        dicom.facts(part10(dataset))
    assert refused.value.location == keyword


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(InvalidInput, match="zero bytes"):
        dicom.facts(b"")


def test_a_file_with_pixel_data_cut_short_is_refused() -> None:
    with pytest.raises(InvalidInput, match="truncated"):
        dicom.facts(DATA / "malformed/MR_truncated.dcm")


@pytest.mark.parametrize("path", SYNTAXES, ids=lambda p: p.stem)
def test_a_file_cut_anywhere_is_refused_or_read_but_never_a_surprise(path: Path) -> None:
    whole = path.read_bytes()
    complete = dicom.facts(whole)
    rng = random.Random(path.name)
    for _ in range(times(150)):
        cut = whole[: rng.randrange(len(whole))]
        try:
            facts = dicom.facts(cut)
        except InvalidInput:
            continue
        assert facts.sop_instance_uid == complete.sop_instance_uid


@pytest.mark.parametrize("path", SYNTAXES + CHARSETS, ids=lambda p: p.stem)
def test_a_damaged_header_is_refused_or_read_but_never_a_surprise(path: Path) -> None:
    whole = path.read_bytes()
    rng = random.Random(path.name)
    for _ in range(times(200)):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(128, min(len(whole), 4000))] = rng.randrange(256)
        try:
            facts = dicom.facts(damaged)
        except InvalidInput:
            continue
        assert "\0" not in facts.patient_name + facts.patient_id


def test_sequences_nested_without_end_are_refused() -> None:
    header = dicom.part10_header(
        sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid=ExplicitVRLittleEndian, source_ae="A"
    )
    opening = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(InvalidInput, match="nested"):
        dicom.facts(header + opening * 100_000)


@pytest.mark.parametrize("path", SYNTAXES, ids=lambda p: p.stem)
def test_a_received_data_set_gets_a_header_that_pydicom_accepts(path: Path) -> None:
    raw = path.read_bytes()
    start = dicom.data_set_start(raw)
    original = pydicom.dcmread(path)
    header = dicom.part10_header(
        sop_class_uid=original.SOPClassUID,
        sop_instance_uid=original.SOPInstanceUID,
        transfer_syntax_uid=original.file_meta.TransferSyntaxUID,
        source_ae="MODALITY",
    )
    again = dicom.read(header + raw[start:])
    assert again == original
    assert again.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    assert again.file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert again.file_meta.ImplementationClassUID == dicom.IMPLEMENTATION_CLASS_UID
    assert again.file_meta.FileMetaInformationVersion == b"\0\1"
    assert dicom.data_set_start(header) == len(header)


@pytest.mark.parametrize("name", ["MR_small", "MR_small_implicit", "MR_small_bigendian"])
def test_an_uncompressed_frame_is_its_pixels_in_little_endian(name: str) -> None:
    cut = frames((DATA / f"syntaxes/{name}.dcm").read_bytes(), [1])
    assert cut.media_type == "application/octet-stream"
    assert cut.frames[0] == mr().PixelData


@pytest.mark.parametrize(
    ("name", "kind", "begins"),
    [
        ("MR_small_jpeg_ls_lossless", "image/jls", b"\xff\xd8"),
        ("MR_small_jp2klossless", "image/jp2", b"\xff\x4f"),
        ("CT_jpeg_baseline", "image/jpeg", b"\xff\xd8"),
        ("MR_small_RLE", "image/dicom-rle", b"\x02\0\0\0"),
    ],
)
def test_an_encapsulated_frame_is_given_as_it_is_encoded(name: str, kind: str, begins: bytes) -> None:
    cut = frames((DATA / f"syntaxes/{name}.dcm").read_bytes(), [1])
    assert cut.media_type == kind
    assert cut.frames[0].startswith(begins)
