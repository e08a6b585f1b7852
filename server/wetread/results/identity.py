"""The ids of everything that is made from a reading, all functions of natural keys.

The same tracking and SOP Instance UIDs stand in FHIR and in DICOM. A FHIR id or a tracking UID lives through the
revisions of a study; a DICOM instance never changes, so its UIDs carry the revision.
"""

from __future__ import annotations

from wetread.domain.finding import Finding, Reading
from wetread.domain.keys import dicom_uid, fhir_id


def _run(reading: Reading) -> tuple[str, str, str, str]:
    model = reading.model
    return reading.study_instance_uid, reading.series_instance_uid, model.digest, model.config_digest


def observation_id(reading: Reading, finding: Finding) -> str:
    """A later revision is a new version of the same Observation."""
    return fhir_id("observation", *_run(reading), finding.key)


def report_id(reading: Reading) -> str:
    """A later revision is a new version of the same DiagnosticReport."""
    return fhir_id("report", *_run(reading))


def provenance_id(reading: Reading) -> str:
    """Each revision has its own Provenance."""
    return fhir_id("provenance", *_run(reading), str(reading.revision))


def tracking_uid(reading: Reading, finding: Finding) -> str:
    """Tracking Unique Identifier (112040, DCM; PS3.16 TID 4108) of a finding, through all revisions."""
    return dicom_uid("tracking", *_run(reading), finding.key)


def tracking_id(reading: Reading, finding: Finding) -> str:
    """Tracking Identifier (112039, DCM): text for people; the UID is what identifies."""
    return f"{reading.model.name} {finding.key}"


def sop_instance_uid(reading: Reading, kind: str) -> str:
    """`kind` of object is sr, seg or presentation: one of each per revision."""
    return dicom_uid(kind, *_run(reading), str(reading.revision))


def series_uid_of(sop_instance_uid: str) -> str:
    """Each instance has a series of its own, found from its UID alone: also for a predecessor known only by it."""
    return dicom_uid("series", sop_instance_uid)


def model_device_uid(reading: Reading) -> str:
    """Device UID of the model: changes with its weights (IHE AIR 6.5.3.1)."""
    return dicom_uid("model", reading.model.digest)
