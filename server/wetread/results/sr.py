"""A reading as a DICOM structured report: Comprehensive 3D SR, TID 1500 (PS3.16 A), one per run.

Each finding is a measurement group with its tracking UID and algorithm identification (TID 4019): a volumetric ROI
(TID 1411) where it has a segment, a planar one (TID 1410) where it has an outline, else a qualitative group (TID 1501).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import highdicom.sr as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from wetread.domain.codes import ABSENT, PRESENT, UCUM, Coded
from wetread.domain.finding import Finding, Reading
from wetread.domain.finding import Measurement as MeasuredValue
from wetread.errors import InvalidInput
from wetread.results import identity, vocabulary
from wetread.results.context import ReadingContext, body_site
from wetread.results.header import normalised
from wetread.results.instance import common, concept, long_string, processing_equipment, stamped
from wetread.results.narrative import model_label, model_name, plain
from wetread.results.seg import segment_numbers

_Group = (
    hd.PlanarROIMeasurementsAndQualitativeEvaluations
    | hd.VolumetricROIMeasurementsAndQualitativeEvaluations
    | hd.MeasurementsAndQualitativeEvaluations
)
_PERCENT = Coded("%", UCUM, "percent")
_NO_UNIT = Coded("1", UCUM, "no units")


def sr(
    reading: Reading, context: ReadingContext, sources: Sequence[pydicom.Dataset], seg: pydicom.Dataset | None
) -> pydicom.Dataset:
    """The SR of a reading: COMPLETE, UNVERIFIED, preliminary (PS3.3 C.17.2); evidence lists every input and the SEG.

    `sources` are headers in the order of `reading.source_instances`; `seg` is what `seg()` made of the same reading.
    Raises InvalidInput where the sources are not those that were read, or there is no finding to report.
    """
    if not reading.findings:
        raise InvalidInput("a structured report needs at least one finding (TID 1500 row 10)")
    headers = normalised(sources, reading)
    report = hd.MeasurementReport(
        observation_context=hd.ObservationContext(observer_device_context=_observer(reading, context)),
        procedure_reported=concept(context.procedure or vocabulary.IMAGING_STUDY),
        imaging_measurements=[_group(reading, context, finding, headers, seg) for finding in reading.findings],
    )
    document = hd.Comprehensive3DSR(
        evidence=[*headers, seg] if seg is not None else headers,
        content=report,
        is_complete=True,
        is_final=False,
        is_verified=False,
        institution_name=long_string(context.organization) or None,
        previous_versions=_predecessors(context),
        requested_procedures=_requested(context),
        contributing_equipment=[processing_equipment(reading, context)],
        **common(reading, context, "sr"),
    )
    return stamped(document, reading, sources[0])


def _observer(reading: Reading, context: ReadingContext) -> hd.ObserverContext:
    model = reading.model
    return hd.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.DeviceObserverIdentifyingAttributes(
            uid=identity.model_device_uid(reading),
            name=model_label(model),
            manufacturer_name=plain(model.manufacturer),
            model_name=model_name(model),
            serial_number=model.digest,
        ),
    )


def _group(
    reading: Reading,
    context: ReadingContext,
    finding: Finding,
    headers: Sequence[Dataset],
    seg: pydicom.Dataset | None,
) -> _Group:
    site = body_site(finding, context)
    shared: dict[str, Any] = {
        "tracking_identifier": hd.TrackingIdentifier(
            uid=identity.tracking_uid(reading, finding), identifier=identity.tracking_id(reading, finding)
        ),
        # Finding (121071) would state what was absent; there only the evaluation names it.
        "finding_type": None if finding.present is False else concept(finding.code),
        "finding_category": concept(finding.segment.category) if finding.segment else None,
        "algorithm_id": _algorithm(reading, finding),
        "finding_sites": _sites(finding, site),
        "measurements": _measurements(finding),
        "qualitative_evaluations": _evaluations(finding, site),
    }
    if finding.segment and seg is not None:
        referenced = _referenced_segment(seg, segment_numbers(reading)[finding.segment.number], headers)
        return hd.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=referenced, **shared)
    image = next((h for h in headers if h.SOPInstanceUID == finding.key_image), None)
    if finding.outline and image is not None:
        region = _region(finding.outline, image)
        return hd.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **shared)
    key_images = [hd.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)] if image else None
    return hd.MeasurementsAndQualitativeEvaluations(source_images=key_images, **shared)


def _algorithm(reading: Reading, finding: Finding) -> hd.AlgorithmIdentification:
    """TID 4019. The parameters say all that decides the answer: weights, settings, threshold, phase, runtime."""
    model = reading.model
    parameters = [f"model sha256 = {model.digest}", f"configuration digest = {model.config_digest}"]
    if finding.threshold is not None:
        parameters.append(f"threshold = {finding.threshold:f}")
    parameters += [f"phase = {reading.phase.value}", f"runtime = {plain(reading.runtime)}"]
    parameters += [f"{m.key} method = {plain(m.method)}" for m in finding.measurements if m.method]
    parameters += [f"warning = {plain(w)}" for w in reading.warnings]
    if model.not_for_clinical_use:
        parameters.append("intended use = not for clinical use")
    return hd.AlgorithmIdentification(
        name=model_name(model),
        version=plain(model.version),
        parameters=parameters,
        family=concept(vocabulary.ARTIFICIAL_INTELLIGENCE),
        manufacturer=plain(model.manufacturer),
    )


def _sites(finding: Finding, site: Coded | None) -> list[hd.FindingSite] | None:
    if site is None:
        return None
    laterality = concept(finding.laterality) if finding.laterality else None
    return [hd.FindingSite(concept(site), laterality=laterality)]


def _evaluations(finding: Finding, site: Coded | None) -> list[hd.QualitativeEvaluation]:
    """Present or absent under the finding's own code, so that a negative is said and not left out (IHE AIR)."""
    evaluations = []
    if finding.present is not None:
        verdict = PRESENT if finding.present else ABSENT
        evaluations.append(hd.QualitativeEvaluation(concept(finding.code), concept(verdict)))
    if finding.laterality and site is None:
        evaluations.append(hd.QualitativeEvaluation(concept(vocabulary.LATERALITY), concept(finding.laterality)))
    return evaluations


def _measurements(finding: Finding) -> list[hd.Measurement]:
    measurements = []
    if finding.probability is not None:
        measurements.append(_numeric(vocabulary.CERTAINTY, finding.probability * 100, _PERCENT))
    if finding.threshold is not None:
        measurements.append(_numeric(vocabulary.THRESHOLD, finding.threshold, _NO_UNIT))
    measurements.extend(_numeric(m.code, m.value, _unit(m)) for m in finding.measurements)
    return measurements


def _numeric(name: Coded, value: Decimal, unit: Coded) -> hd.Measurement:
    return hd.Measurement(concept(name), float(value), concept(unit))


def _unit(measurement: MeasuredValue) -> Coded:
    return Coded(measurement.unit, UCUM, measurement.unit_display)


def _referenced_segment(seg: pydicom.Dataset, number: int, headers: Sequence[Dataset]) -> hd.ReferencedSegment:
    """Built by hand: highdicom's from_segmentation fails where a single segment is named in the shared groups.

    The source images are those under the segment's frames; all of them where it has none.
    """
    used = set()
    for frame in seg.PerFrameFunctionalGroupsSequence:
        holder = frame if "SegmentIdentificationSequence" in frame else seg.SharedFunctionalGroupsSequence[0]
        if holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            used |= {
                source.ReferencedSOPInstanceUID
                for derivation in frame.get("DerivationImageSequence", [])
                for source in derivation.SourceImageSequence
            }
    images = [h for h in headers if h.SOPInstanceUID in used] or headers
    return hd.ReferencedSegment(
        sop_class_uid=seg.SOPClassUID,
        sop_instance_uid=seg.SOPInstanceUID,
        segment_number=number,
        source_images=[hd.SourceImageForSegmentation(h.SOPClassUID, h.SOPInstanceUID) for h in images],
    )


def _region(outline: Sequence[tuple[float, float]], image: Dataset) -> hd.ImageRegion:
    return hd.ImageRegion(
        graphic_type=hd.GraphicTypeValues.POLYLINE,
        graphic_data=np.array([*outline, outline[0]] if outline[0] != outline[-1] else outline, dtype=np.float64),
        source_image=hd.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
    )


def _predecessors(context: ReadingContext) -> list[Dataset] | None:
    """Predecessor Documents Sequence (PS3.3 C.17.2): the SR of the superseded revision."""
    if not context.previous_sr_uid:
        return None
    previous = Dataset()
    previous.StudyInstanceUID = context.study_instance_uid
    previous.SeriesInstanceUID = identity.series_uid_of(context.previous_sr_uid)
    previous.SOPClassUID = pydicom.uid.Comprehensive3DSRStorage
    previous.SOPInstanceUID = context.previous_sr_uid
    return [previous]


def _requested(context: ReadingContext) -> list[Dataset] | None:
    """Referenced Request Sequence (PS3.3 C.17.2): the order by its accession number, what is unknown left empty."""
    if not context.accession:
        return None
    request = Dataset()
    request.StudyInstanceUID = context.study_instance_uid
    request.ReferencedStudySequence = []
    request.AccessionNumber = _short_string(context.accession.value)
    request.PlacerOrderNumberImagingServiceRequest = ""
    request.FillerOrderNumberImagingServiceRequest = ""
    request.RequestedProcedureID = ""
    request.RequestedProcedureDescription = long_string(context.procedure.display) if context.procedure else ""
    request.RequestedProcedureCodeSequence = [concept(context.procedure)] if context.procedure else []
    return [request]


def _short_string(text: str) -> str:
    """An SH (PS3.5 6.2), or empty: half an accession number would be another one."""
    return text if len(text) <= 16 and "\\" not in text else ""
