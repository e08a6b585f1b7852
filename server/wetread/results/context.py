"""What the documents of a reading need to know beside the reading itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from wetread.domain.codes import Coded
from wetread.domain.finding import Finding
from wetread.domain.identity import AccessionNumber
from wetread.results.vocabulary import ANATOMICAL_STRUCTURES


@dataclass(frozen=True, slots=True)
class ReadingContext:
    """The study, the order and the site around a reading.

    The ids are FHIR logical ids, `base_url` is the FHIR base without a closing slash. `accession.issuer` is a URI or a
    plain name. `previous_sr_uid` is the SOP Instance UID of the SR of the revision that this one supersedes.
    """

    base_url: str
    patient_id: str
    imaging_study_id: str
    service_request_id: str | None
    encounter_id: str | None
    device_id: str
    task_id: str | None
    study_instance_uid: str
    accession: AccessionNumber | None
    started: datetime | None
    modality: str
    body_site: Coded | None
    procedure: Coded | None
    organization: str
    demo: bool
    previous_sr_uid: str | None


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One DICOM instance that was made from a reading."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str


def body_site(finding: Finding, context: ReadingContext) -> Coded | None:
    """Where a finding is, the same in every document: its own site, the structure it outlines, or the study's."""
    segment = finding.segment
    if finding.body_site is None and segment and segment.category.code in ANATOMICAL_STRUCTURES:
        return segment.type
    return finding.body_site or context.body_site
