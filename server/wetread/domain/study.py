"""Studies, series and instances as facts, and the rule that says when a study is complete."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from wetread.domain.codes import Coded


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What the header of one instance says, normalised (dates ISO, text decoded). Empty where absent."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str = ""
    instance_number: int | None = None
    number_of_frames: int = 1
    series_number: int | None = None
    series_description: str = ""
    body_part: str = ""
    view_position: str = ""
    laterality: str = ""
    image_type: tuple[str, ...] = ()
    contrast_agent: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    study_id: str = ""
    accession_number: str = ""
    accession_issuer: str = ""
    """Issuer as the header tells it: Local Namespace or Universal Entity ID (0008,0051)."""
    patient_id: str = ""
    patient_id_issuer: str = ""
    """Issuer of Patient ID (0010,0021), or the universal id of its qualifiers sequence (0010,0024)."""
    patient_name: str = ""
    """DICOM PN, alphabetic group: `family^given^middle^prefix^suffix` (PS3.5 6.2.1)."""
    patient_birth_date: str = ""
    patient_sex: str = ""
    patient_age: str = ""
    """DICOM AS (`005Y`), as sent."""
    referring_physician: str = ""
    procedure_codes: tuple[Coded, ...] = ()
    manufacturer: str = ""
    model_name: str = ""
    station_name: str = ""
    images_in_acquisition: int | None = None
    rows: int | None = None
    columns: int | None = None


class StudyState(StrEnum):
    """RECEIVING -> COMPLETE -> READ; a late instance goes back to RECEIVING with the next revision."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    READ = "read"
    FAILED = "failed"


class MatchState(StrEnum):
    """How a study stands to an order. HELD: read, but nothing leaves until a person resolves it."""

    NONE = "none"
    PROPOSED = "proposed"
    MATCHED = "matched"
    HELD = "held"


def age_years(patient_age: str, birth_date: str, study_date: str) -> float | None:
    """Patient's Age (0010,1010; PS3.5 6.2 AS) where sent, else from birth and study date; None where neither tells.

    Dates are YYYYMMDD, with or without hyphens.
    """
    told = re.fullmatch(r"(\d{3})([DWMY])", patient_age)
    if told:
        return int(told.group(1)) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[told.group(2)]
    born, seen = birth_date.replace("-", ""), study_date.replace("-", "")
    if not (re.fullmatch(r"\d{8}", born) and re.fullmatch(r"\d{8}", seen)):
        return None
    return float(max(0, int(seen[:4]) - int(born[:4]) - (seen[4:] < born[4:])))


@dataclass(frozen=True, slots=True)
class CompletenessRule:
    """The site's rule: quiet for so long, or as many instances as were announced, or a deadline since the first."""

    quiet: timedelta
    deadline: timedelta


@dataclass(frozen=True, slots=True)
class Arrived:
    """What is known of a study's arrival when the rule is asked."""

    first_at: datetime
    """When the first image came; of a study that grew again, the first of those that came late."""
    last_at: datetime
    instance_count: int
    expected_count: int | None = None
    declared_complete: bool = False


def completeness(rule: CompletenessRule, arrived: Arrived, now: datetime) -> str | datetime:
    """Why the study is complete, or the moment at which to ask again."""
    if arrived.declared_complete:
        return "declared complete"
    if arrived.expected_count is not None and arrived.instance_count >= arrived.expected_count:
        return "all expected instances are here"
    quiet_at = arrived.last_at + rule.quiet
    deadline_at = arrived.first_at + rule.deadline
    if now >= quiet_at:
        return "quiet period over"
    if now >= deadline_at:
        return "deadline passed"
    return min(quiet_at, deadline_at)
