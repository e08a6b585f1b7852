"""What the documents of a reading need to know beside the reading itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from wetread.domain.codes import Coded
from wetread.domain.identity import AccessionNumber


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
