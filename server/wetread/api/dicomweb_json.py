"""The DICOM JSON model (PS3.18 F): query answers from the index, metadata from headers, the STOW response."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from wetread.archive.query import Found, Level

Json = dict[str, Any]

_INLINE_BYTES = 1024
"""A larger binary value is left to be fetched from its BulkDataURI."""
_BULK = frozenset({"PixelData", "FloatPixelData", "DoubleFloatPixelData"})


def answer(found: Found, level: Level, root: str) -> Json:
    """One item of a QIDO-RS response: the attributes of PS3.18 tables 10.6.3-3 to 5 at its level and those above."""
    facts = found.facts
    url = f"{root}/studies/{facts.study_instance_uid}"
    values: dict[str, Any] = {
        "StudyDate": facts.study_date.replace("-", ""),
        "StudyTime": facts.study_time.replace(":", ""),
        "AccessionNumber": facts.accession_number,
        "InstanceAvailability": "ONLINE",
        "ModalitiesInStudy": list(found.modalities),
        "ReferringPhysicianName": facts.referring_physician,
        "StudyDescription": facts.study_description,
        "PatientName": facts.patient_name,
        "PatientID": facts.patient_id,
        "PatientBirthDate": facts.patient_birth_date.replace("-", ""),
        "PatientSex": facts.patient_sex,
        "StudyInstanceUID": facts.study_instance_uid,
        "StudyID": facts.study_id,
    }
    if level == "study":
        values |= {
            "NumberOfStudyRelatedSeries": found.series_count,
            "NumberOfStudyRelatedInstances": found.instance_count,
        }
    else:
        url += f"/series/{facts.series_instance_uid}"
        values |= {
            "Modality": facts.modality,
            "SeriesDescription": facts.series_description,
            "BodyPartExamined": facts.body_part,
            "SeriesInstanceUID": facts.series_instance_uid,
            "SeriesNumber": facts.series_number,
        }
    if level == "series":
        values["NumberOfSeriesRelatedInstances"] = found.instance_count
    if level == "instance":
        url += f"/instances/{facts.sop_instance_uid}"
        values |= {
            "SOPClassUID": facts.sop_class_uid,
            "SOPInstanceUID": facts.sop_instance_uid,
            "AvailableTransferSyntaxUID": facts.transfer_syntax_uid,
            "InstanceNumber": facts.instance_number,
            "NumberOfFrames": facts.number_of_frames if facts.number_of_frames > 1 else None,
            "Rows": facts.rows,
            "Columns": facts.columns,
        }
        if not found.modalities:
            del values["ModalitiesInStudy"]
    values["RetrieveURL"] = url
    return attributes(values)


def attributes(values: Mapping[str, Any]) -> Json:
    """Keyword to value, as DICOM JSON: sorted by tag, `Value` omitted where there is none (PS3.18 F.2.2, F.2.5)."""
    result: Json = {}
    for keyword, value in sorted(values.items(), key=lambda pair: tag_for_keyword(pair[0]) or 0):
        tag = tag_for_keyword(keyword)
        assert tag is not None  # noqa: S101
        vr = dictionary_VR(tag)
        entry: Json = {"vr": vr}
        if value not in ("", None, []):
            listed = value if isinstance(value, list) else [value]
            entry["Value"] = [{"Alphabetic": one} for one in listed] if vr == "PN" else listed
        result[f"{tag:08X}"] = entry
    return result


def metadata(header: Dataset, url: str) -> Json:
    """The whole header as DICOM JSON, without pixel data; large binary values by BulkDataURI below `url`."""
    for keyword in _BULK:
        if keyword in header:
            del header[keyword]
    # What breaks its VR is left out: one bad value must not hide the rest.
    document: Json = header.to_json_dict(
        suppress_invalid_tags=True,
        bulk_data_threshold=_INLINE_BYTES,
        bulk_data_element_handler=lambda element: f"{url}/bulkdata/{element.tag:08X}",
    )
    return {tag: value for tag, value in sorted(document.items()) if not tag.endswith("0000")}


def stow_response(root: str, stored: Iterable[Json], failed: Iterable[Json], study_instance_uid: str | None) -> Json:
    """PS3.18 table I.2-1. The sequences are there only where they hold something."""
    values: dict[str, Any] = {"ReferencedSOPSequence": list(stored), "FailedSOPSequence": list(failed)}
    values = {keyword: items for keyword, items in values.items() if items}
    if study_instance_uid:
        values["RetrieveURL"] = f"{root}/studies/{study_instance_uid}"
    return attributes(values)
