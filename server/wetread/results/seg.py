"""The masks of a reading as a DICOM Segmentation (PS3.3 A.51), BINARY, frame for frame on the source images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import highdicom.seg as hd
import numpy as np
import pydicom
from highdicom.color import CIELabColor
from highdicom.content import AlgorithmIdentificationSequence
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from wetread.domain.finding import Finding, Reading, Segment
from wetread.domain.keys import dicom_uid
from wetread.errors import InvalidInput, Unsupported
from wetread.results import identity
from wetread.results.context import ReadingContext
from wetread.results.header import normalised
from wetread.results.instance import common, concept, long_string, processing_equipment, stamped
from wetread.results.narrative import NOT_FOR_CLINICAL_USE, model_label, model_name


def seg(
    reading: Reading,
    context: ReadingContext,
    sources: Sequence[pydicom.Dataset],
    masks: Mapping[int, NDArray[np.bool_]],
) -> pydicom.Dataset:
    """The SEG of a reading; empty frames are left out, the geometry stays that of each source image.

    `masks` gives for each segment's number frames x rows x columns, frame i on `sources[i]` (on frame i of the one
    source, where that is multi-frame); masks of segments that no finding names are left out. Raises InvalidInput where
    masks, segments and sources do not fit together, Unsupported where the sources lack the geometry that is needed.
    """
    headers = normalised(sources, reading)
    numbers = segment_numbers(reading)
    if not numbers or not set(numbers) <= set(masks):
        raise InvalidInput("each segment of the findings needs its mask, and there must be one")
    frames = int(headers[0].get("NumberOfFrames", 1)) if len(headers) == 1 else len(headers)
    shape = (frames, headers[0].Rows, headers[0].Columns)
    if any(masks[number].shape != shape for number in numbers):
        raise InvalidInput(f"a mask must be {shape[0]} frames of {shape[1]} x {shape[2]}, as its sources are")

    pixels = np.stack([masks[number] for number in numbers], axis=-1).astype(np.uint8)
    try:
        segmentation = hd.Segmentation(
            source_images=headers,
            pixel_array=pixels,
            segmentation_type=hd.SegmentationTypeValues.BINARY,
            segment_descriptions=_descriptions(reading),
            content_label="AI_SEGMENTATION",
            content_description=_content_description(reading),
            omit_empty_frames=bool(pixels.any()),
            contributing_equipment=[processing_equipment(reading, context)],
            **common(reading, context, "seg"),
        )
    except (ValueError, AttributeError) as error:
        raise Unsupported(
            "the source images do not say where their frames lie: no segmentation can refer to them"
        ) from error
    _settle_dimension_uid(segmentation, reading)
    if "FrameOfReferenceUID" not in segmentation:
        # General Image (PS3.3 C.7.6.1): 2C where no plane orientation says it.
        segmentation.PatientOrientation = headers[0].get("PatientOrientation", "")
    return stamped(segmentation, reading, sources[0])


def segment_numbers(reading: Reading) -> dict[int, int]:
    """The Segment Number in the SEG of each segment that the findings name: 1 to n without gap (PS3.3 C.8.20.2.4)."""
    named = sorted({finding.segment.number for finding in reading.findings if finding.segment})
    return {number: place for place, number in enumerate(named, 1)}


def _descriptions(reading: Reading) -> list[hd.SegmentDescription]:
    """One per segment; where several findings share one, the first describes it."""
    first: dict[int, hd.SegmentDescription] = {}
    for finding in reading.findings:
        if finding.segment and finding.segment.number not in first:
            first[finding.segment.number] = _description(reading, finding, finding.segment)
    return [first[number] for number in sorted(first)]


def _description(reading: Reading, finding: Finding, segment: Segment) -> hd.SegmentDescription:
    model = reading.model
    return hd.SegmentDescription(
        segment_number=segment_numbers(reading)[segment.number],
        segment_label=long_string(segment.label),
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.type),
        algorithm_type=hd.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=long_string(model_name(model)),
            family=codes.DCM.ArtificialIntelligence,
            version=long_string(model.version),
            source=long_string(model.manufacturer),
            parameters=_parameters(reading, finding),
        ),
        tracking_uid=identity.tracking_uid(reading, finding),
        tracking_id=identity.tracking_id(reading, finding),
        anatomic_regions=[concept(finding.body_site)] if finding.body_site else None,
        display_color=CIELabColor.from_rgb(*segment.colour),
    )


def _parameters(reading: Reading, finding: Finding) -> dict[str, str]:
    """The same parameters as in the SR (TID 4019)."""
    parameters = {
        "model sha256": reading.model.digest,
        "configuration digest": reading.model.config_digest,
        "phase": reading.phase.value,
    }
    if finding.threshold is not None:
        parameters["threshold"] = f"{finding.threshold:f}"
    return parameters


def _content_description(reading: Reading) -> str:
    caveat = f" {NOT_FOR_CLINICAL_USE}" if reading.model.not_for_clinical_use else ""
    return long_string(model_label(reading.model), 64 - len(caveat)) + caveat


def _settle_dimension_uid(segmentation: Dataset, reading: Reading) -> None:
    """highdicom draws the Dimension Organization UID at random (PS3.3 C.7.6.17); ours is a function of the reading."""
    uid = dicom_uid("seg-dimensions", identity.sop_instance_uid(reading, "seg"))
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
