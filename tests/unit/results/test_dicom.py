"""SR, SEG and presentation state over real headers, judged by dicom3tools and dcmtk."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from wetread.domain.codes import SCT, Coded
from wetread.domain.finding import Finding, Segment
from wetread.domain.identity import AccessionNumber
from wetread.errors import InvalidInput, Unsupported
from wetread.results.fhir import documents
from wetread.results.instance import part10, reference
from wetread.results.presentation import presentation
from wetread.results.seg import seg
from wetread.results.sr import sr

HeadersOf = Callable[[str], list[Dataset]]
NODULE = Coded("27925004", SCT, "Nodule")
SINGLE_IMAGES = ("chest_pa_header.dcm", "dx_thorax_header.dcm", "mr_small.dcm", "name_korean_header.dcm")


def head_masks(sources: list[Dataset]) -> dict[int, Any]:
    masks = {n: np.zeros((len(sources), sources[0].Rows, sources[0].Columns), dtype=np.bool_) for n in (1, 2)}
    masks[1][2:4, 200:240, 210:250] = True
    masks[2][1:7, 100:400, 120:380] = True
    return masks


def tool(*command: str | Path) -> str:
    """What a tool prints on either stream; fails where it exits with an error."""
    done = subprocess.run(command, capture_output=True, check=False)
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, output
    return output


def assert_sound(dataset: Dataset, folder: Path) -> Path:
    """dciodvfy finds no error, dcmdump reads it, and so does dsr2html where it is a report."""
    path = folder / f"{dataset.SOPInstanceUID}.dcm"
    path.write_bytes(part10(dataset))
    judged = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (judged.stdout + judged.stderr).splitlines()
    assert lines, "dciodvfy says at least which IOD it took the file for"
    assert [line for line in lines if line.startswith("Error")] == []
    tool("dcmdump", "-q", path)
    if dataset.Modality == "SR":
        assert "<html" in tool("dsr2html", path)
    return path


def groups(report: Dataset) -> list[Dataset]:
    """The measurement groups (125007, DCM) of a TID 1500 report."""
    container = next(i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "126010")
    return list(container.ContentSequence)


def items(group: Dataset, code: str) -> list[Dataset]:
    return [i for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == code]


@pytest.fixture
def head(head_ct: list[Dataset], bleed: Finding, brain: Finding, make_reading: Any, make_context: Any) -> Any:
    """(reading, context, sources, SEG, SR) of the head CT."""
    reading, context = make_reading(head_ct, bleed, brain), make_context(head_ct)
    segmentation = seg(reading, context, head_ct, head_masks(head_ct))
    return reading, context, head_ct, segmentation, sr(reading, context, head_ct, segmentation)


def test_sr_and_seg_of_the_tilted_head_ct_are_sound_and_consistent(head: Any, tmp_path: Path) -> None:
    _, _, _, segmentation, report = head
    paths = [assert_sound(segmentation, tmp_path), assert_sound(report, tmp_path)]
    judged = subprocess.run(["dcentvfy", *paths], capture_output=True, text=True, check=False)
    assert "Error" not in judged.stdout + judged.stderr


@pytest.mark.parametrize("name", SINGLE_IMAGES)
def test_all_objects_of_a_single_image_are_sound(
    name: str, headers_of: HeadersOf, no_pneumonia: Finding, make_reading: Any, make_context: Any, tmp_path: Path
) -> None:
    sources = headers_of(name)
    image = sources[0]
    square = ((2.0, 2.0), (20.5, 2.0), (20.0, 20.0))
    outlined = Finding("nodule", NODULE, present=True, key_image=image.SOPInstanceUID, outline=square)
    masked = Finding("mass", NODULE, present=True, segment=Segment(1, "Mass", NODULE, NODULE))
    reading = make_reading(sources, no_pneumonia, outlined, masked)
    context = make_context(sources)
    mask = np.zeros((1, image.Rows, image.Columns), dtype=np.bool_)
    mask[0, 4:12, 5:15] = True

    segmentation = seg(reading, context, sources, {1: mask})
    assert_sound(segmentation, tmp_path)
    assert_sound(sr(reading, context, sources, segmentation), tmp_path)
    assert_sound(presentation(reading, context, sources), tmp_path)


def test_a_multi_frame_source_carries_one_mask_frame_per_frame(
    headers_of: HeadersOf, bleed: Finding, make_reading: Any, make_context: Any, tmp_path: Path
) -> None:
    sources = headers_of("ct_enhanced_header.dcm")
    mask = np.zeros((2, 512, 512), dtype=np.bool_)
    mask[1, 10:20, 10:20] = True
    reading, context = make_reading(sources, bleed), make_context(sources)
    segmentation = seg(reading, context, sources, {1: mask})
    assert segmentation.NumberOfFrames == 1
    assert_sound(segmentation, tmp_path)
    assert_sound(sr(reading, context, sources, segmentation), tmp_path)


def test_frames_without_a_place_can_be_reported_but_not_drawn_on(
    headers_of: HeadersOf, bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    sources = headers_of("mr_enhanced_header.dcm")
    mask = np.zeros((10, 64, 64), dtype=np.bool_)
    with pytest.raises(Unsupported, match="where their frames lie"):
        seg(make_reading(sources, bleed), make_context(sources), sources, {1: mask})
    with pytest.raises(Unsupported, match="no presentation state"):
        presentation(make_reading(sources, bleed), make_context(sources), sources)


def test_the_seg_holds_the_mask_frame_for_frame_on_its_sources(head: Any) -> None:
    _, _, sources, segmentation, _ = head
    read = highdicom.seg.Segmentation.from_dataset(pydicom.dcmread(BytesIO(part10(segmentation))))
    pixels = read.get_pixels_by_source_instance(
        [s.SOPInstanceUID for s in sources], assert_missing_frames_are_empty=True
    )
    masks = head_masks(sources)
    for index, number in enumerate((1, 2)):
        assert np.array_equal(pixels[..., index].astype(bool), masks[number])
    assert segmentation.NumberOfFrames == 2 + 6


def test_the_seg_keeps_the_place_of_every_slice(head: Any) -> None:
    _, _, sources, segmentation, _ = head
    place = {s.SOPInstanceUID: list(s.ImagePositionPatient) for s in sources}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(place[source])


def test_segments_are_numbered_without_a_gap_when_a_finding_has_none(
    head_ct: list[Dataset], bleed: Finding, brain: Finding, make_reading: Any, make_context: Any, tmp_path: Path
) -> None:
    reading = make_reading(head_ct, replace(bleed, present=False, segment=None), brain)
    context = make_context(head_ct)
    segmentation = seg(reading, context, head_ct, head_masks(head_ct))
    report = sr(reading, context, head_ct, segmentation)
    assert_sound(segmentation, tmp_path)
    assert [(s.SegmentNumber, s.SegmentLabel) for s in segmentation.SegmentSequence] == [(1, "Brain")]
    assert segmentation.NumberOfFrames == 6
    named = items(groups(report)[1], "121191")[0].ReferencedSOPSequence[0]
    assert named.ReferencedSegmentNumber == 1


def test_two_findings_may_share_a_segment(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    reading = make_reading(head_ct, bleed, replace(bleed, key="bleed-volume", present=None))
    context = make_context(head_ct)
    segmentation = seg(reading, context, head_ct, head_masks(head_ct))
    assert len(segmentation.SegmentSequence) == 1
    assert len(groups(sr(reading, context, head_ct, segmentation))) == 2


def test_an_empty_mask_still_makes_a_sound_seg(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any, tmp_path: Path
) -> None:
    mask = np.zeros((len(head_ct), 512, 512), dtype=np.bool_)
    reading, context = make_reading(head_ct, replace(bleed, present=False)), make_context(head_ct)
    segmentation = seg(reading, context, head_ct, {1: mask})
    assert_sound(segmentation, tmp_path)
    assert_sound(sr(reading, context, head_ct, segmentation), tmp_path)


def test_the_report_says_complete_unverified_and_preliminary(head: Any) -> None:
    *_, report = head
    flags = (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert report.SOPClassUID == pydicom.uid.Comprehensive3DSRStorage
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_evidence_lists_every_input_and_the_seg(head: Any) -> None:
    reading, _, _, segmentation, report = head
    listed = {
        instance.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert listed == {*reading.source_instances, segmentation.SOPInstanceUID}


def test_each_finding_is_a_group_of_the_template_that_fits_it(
    head: Any, chest_film: list[Dataset], no_pneumonia: Finding, nodule: Finding, make_reading: Any, make_context: Any
) -> None:
    *_, volumetric = head
    planar = sr(make_reading(chest_film, no_pneumonia, nodule), make_context(chest_film), chest_film, None)
    templates = [g.ContentTemplateSequence[0].TemplateIdentifier for g in (*groups(volumetric), *groups(planar))]
    assert templates == ["1411", "1411", "1501", "1410"]
    region = items(groups(planar)[1], "111030")[0]
    assert list(region.GraphicData) == [100, 100, 180.5, 100, 180, 190, 100, 100]


def test_an_absent_finding_is_said_to_be_absent_and_never_listed_as_a_finding(
    chest_film: list[Dataset], no_pneumonia: Finding, make_reading: Any, make_context: Any
) -> None:
    (group,) = groups(sr(make_reading(chest_film, no_pneumonia), make_context(chest_film), chest_film, None))
    assert items(group, "121071") == []
    assert items(group, "233604007")[0].ConceptCodeSequence[0].CodeValue == "272519000"
    assert items(group, "111012")[0].MeasuredValueSequence[0].NumericValue == pytest.approx(3.1)
    site = items(group, "363698007")[0]
    assert site.ContentSequence[0].ConceptCodeSequence[0].CodeValue == "7771000"


def test_the_referenced_segment_names_only_the_slices_under_it(head: Any) -> None:
    reading, _, _, segmentation, report = head
    first = groups(report)[0]
    reference_item = items(first, "121191")[0].ReferencedSOPSequence[0]
    assert reference_item.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
    assert reference_item.ReferencedSegmentNumber == 1
    sources = [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in items(first, "121233")]
    assert sources == list(reading.source_instances[2:4])


def test_the_algorithm_is_identified_with_all_that_decides_its_answer(head: Any) -> None:
    reading, _, _, segmentation, report = head
    group = groups(report)[0]
    assert items(group, "111001")[0].TextValue == reading.model.name
    assert items(group, "111003")[0].TextValue == reading.model.version
    parameters = "\n".join(i.TextValue for i in items(group, "111002"))
    for part in (reading.model.digest, reading.model.config_digest, "threshold = 0.50", "phase = active"):
        assert part in parameters
    algorithm = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (reading.model.name, reading.model.version)
    assert reading.model.digest in algorithm.AlgorithmParameters


def test_the_model_is_contributing_equipment(head: Any) -> None:
    reading, _, _, segmentation, report = head
    for dataset in (segmentation, report):
        equipment = next(
            i for i in dataset.ContributingEquipmentSequence if i.get("DeviceSerialNumber") == reading.model.digest
        )
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


def test_uids_and_codes_are_the_same_in_fhir_and_dicom(head: Any) -> None:
    reading, context, _, segmentation, report = head
    made = documents(reading, context, sr=reference(report), seg=reference(segmentation))
    assert made.report["identifier"][0]["value"] == f"urn:oid:{report.SOPInstanceUID}"
    for observation, group, segment in zip(
        made.observations, groups(report), segmentation.SegmentSequence, strict=True
    ):
        tracking = items(group, "112040")[0].UID
        assert observation["identifier"][0]["value"] == f"urn:oid:{tracking}"
        assert segment.TrackingUID == tracking
        site = items(group, "363698007")[0].ConceptCodeSequence[0].CodeValue
        assert observation["bodySite"]["coding"][0]["code"] == site
        assert observation["code"]["coding"][0]["code"] == items(group, "121071")[0].ConceptCodeSequence[0].CodeValue
    verdict = items(groups(report)[0], "1386000")[0].ConceptCodeSequence[0].CodeValue
    assert made.observations[0]["valueCodeableConcept"]["coding"][0]["code"] == verdict


def test_a_later_revision_names_its_predecessor_under_new_uids_and_the_same_tracking(head: Any) -> None:
    reading, context, sources, _, first = head
    second = sr(replace(reading, revision=2), replace(context, previous_sr_uid=first.SOPInstanceUID), sources, None)
    assert second.SOPInstanceUID != first.SOPInstanceUID
    assert second.SeriesInstanceUID != first.SeriesInstanceUID
    series = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert [items(g, "112040")[0].UID for g in groups(second)] == [items(g, "112040")[0].UID for g in groups(first)]


def test_doing_it_twice_gives_the_same_bytes(head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, context, sources, segmentation, report = head
    time.sleep(1.1)  # DICOM times have a second's resolution in places
    again = seg(reading, context, sources, head_masks(sources))
    assert part10(again) == part10(segmentation)
    assert part10(sr(reading, context, sources, again)) == part10(report)


def test_a_presentation_state_made_twice_is_the_same(
    chest_film: list[Dataset], nodule: Finding, make_reading: Any, make_context: Any
) -> None:
    first = part10(presentation(make_reading(chest_film, nodule), make_context(chest_film), chest_film))
    time.sleep(1.1)
    assert part10(presentation(make_reading(chest_film, nodule), make_context(chest_film), chest_film)) == first


def test_times_are_those_of_the_reading_in_utc(head: Any) -> None:
    *_, report = head
    assert (report.ContentDate, report.ContentTime) == ("20260301", "233000.250000")
    assert report.TimezoneOffsetFromUTC == "+0000"


def test_a_source_with_a_time_zone_keeps_its_study_time_true(
    headers_of: HeadersOf, bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    """The offset governs every time of the dataset, the copied ones too (PS3.3 C.12.1.1.8)."""
    sources = headers_of("mr_small.dcm")
    report = sr(make_reading(sources, bleed), make_context(sources), sources, None)
    assert report.TimezoneOffsetFromUTC == "-0400"
    assert report.StudyTime == sources[0].StudyTime
    assert (report.ContentDate, report.ContentTime) == ("20260301", "193000.250000")


@pytest.mark.parametrize(
    ("name", "patient"),
    [("name_japanese_header.dcm", "Yamada^Tarou=山田^太郎=やまだ^たろう"), ("name_korean_header.dcm", "김희중")],
)
def test_a_name_of_another_character_set_arrives_whole(
    name: str,
    patient: str,
    headers_of: HeadersOf,
    no_pneumonia: Finding,
    make_reading: Any,
    make_context: Any,
    tmp_path: Path,
) -> None:
    sources = headers_of(name)
    report = sr(make_reading(sources, no_pneumonia), make_context(sources), sources, None)
    read = pydicom.dcmread(assert_sound(report, tmp_path))
    assert str(read.PatientName) == patient


def test_missing_and_invalid_attributes_of_a_source_become_empty(
    chest_film: list[Dataset], no_pneumonia: Finding, make_reading: Any, make_context: Any, tmp_path: Path
) -> None:
    for keyword in ("PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "PatientID"):
        del chest_film[0][keyword]
    chest_film[0].PatientSex = "U"
    report = sr(make_reading(chest_film, no_pneumonia), make_context(chest_film), chest_film, None)
    assert_sound(report, tmp_path)
    assert report.PatientSex == ""
    assert "PatientAge" not in report


def test_a_source_is_left_as_it_was(
    chest_film: list[Dataset], nodule: Finding, make_reading: Any, make_context: Any
) -> None:
    before = chest_film[0].to_json()
    presentation(make_reading(chest_film, nodule), make_context(chest_film), chest_film)
    sr(make_reading(chest_film, nodule), make_context(chest_film), chest_film, None)
    assert chest_film[0].to_json() == before


def test_demo_and_synthetic_stand_in_the_series_and_algorithm_names(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    reading = make_reading(head_ct, bleed, demo=True, synthetic=True, model_name="headct-bleed")
    context = make_context(head_ct)
    segmentation = seg(reading, context, head_ct, {1: head_masks(head_ct)[1]})
    report = sr(reading, context, head_ct, segmentation)
    for dataset in (segmentation, report):
        assert dataset.SeriesDescription == "DEMO AI SYNTHETIC headct-bleed 1.0.0"
        assert dataset.SeriesNumber >= 9000
    assert items(groups(report)[0], "111001")[0].TextValue == "SYNTHETIC headct-bleed"
    algorithm = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "SYNTHETIC headct-bleed"


def test_the_presentation_state_writes_finding_and_caveat_on_the_image(
    chest_film: list[Dataset], no_pneumonia: Finding, nodule: Finding, make_reading: Any, make_context: Any
) -> None:
    state = presentation(make_reading(chest_film, no_pneumonia, nodule), make_context(chest_film), chest_film)
    annotation = state.GraphicAnnotationSequence[0]
    text = annotation.TextObjectSequence[0].UnformattedTextValue
    for part in ("AI - NOT FOR DIAGNOSIS", "cxr-pneumonia-peds 1.0.0", "Pneumonia: absent", "0.031", "Nodule: present"):
        assert part in text
    outline = annotation.GraphicObjectSequence[0]
    assert list(outline.GraphicData)[:4] == [101, 101, 181.5, 101]
    assert outline.TrackingUID.startswith("2.25.")


def test_the_order_is_referenced_by_its_accession_number(head: Any) -> None:
    *_, report = head
    assert report.ReferencedRequestSequence[0].AccessionNumber == "ACC-1"


def test_a_sites_own_procedure_code_and_long_names_do_not_break_the_objects(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any, tmp_path: Path
) -> None:
    procedure = Coded("CT\\HEAD", "urn:wetread:codes:ris", "CT of the head\\neck, " + "without contrast " * 6)
    reading = make_reading(head_ct, bleed, model_name="m" * 80)
    context = make_context(
        head_ct, procedure=procedure, organization="Klinik\\Süd " * 9, accession=AccessionNumber("1" * 20)
    )
    segmentation = seg(reading, context, head_ct, {1: head_masks(head_ct)[1]})
    report = sr(reading, context, head_ct, segmentation)
    assert_sound(segmentation, tmp_path)
    assert_sound(report, tmp_path)
    reported = next(i for i in report.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121058")
    assert reported.ConceptCodeSequence[0].CodingSchemeDesignator == "99LOCAL"
    assert report.ReferencedRequestSequence[0].AccessionNumber == ""


def test_sources_that_were_not_read_are_refused(head: Any) -> None:
    reading, context, sources, segmentation, _ = head
    with pytest.raises(InvalidInput, match="not the instances that were read"):
        sr(reading, context, sources[::-1], segmentation)
    with pytest.raises(InvalidInput, match="not the instances that were read"):
        seg(reading, context, sources[:-1], head_masks(sources))


def test_masks_that_do_not_fit_segments_or_sources_are_refused(head: Any) -> None:
    reading, context, sources, *_ = head
    masks = head_masks(sources)
    with pytest.raises(InvalidInput, match="needs its mask"):
        seg(reading, context, sources, {1: masks[1]})
    with pytest.raises(InvalidInput, match="8 frames of 512 x 512"):
        seg(reading, context, sources, {1: masks[1], 2: masks[2][:-1]})


def test_a_reading_without_findings_makes_no_report(
    head_ct: list[Dataset], make_reading: Any, make_context: Any
) -> None:
    with pytest.raises(InvalidInput, match="at least one finding"):
        sr(make_reading(head_ct), make_context(head_ct), head_ct, None)
    with pytest.raises(InvalidInput, match="needs a finding"):
        presentation(make_reading(head_ct), make_context(head_ct), head_ct)
