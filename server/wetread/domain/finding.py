"""What a model said of a series: findings, measurements and masks, in the words of the field."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from wetread.domain.codes import Coded
from wetread.domain.phase import Phase


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model answered. `digest` is the sha256 of the ONNX file, `config_digest` of the settings it ran under."""

    name: str
    version: str
    digest: str
    config_digest: str
    manufacturer: str
    synthetic: bool = False
    not_for_clinical_use: bool = True
    intended_use: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number with its unit (UCUM). `method` says how it was got, e.g. `per-slice cell widths`."""

    key: str
    code: Coded
    value: Decimal
    unit: str
    unit_display: str
    method: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """One labelled region of a mask (PS3.3 C.8.20.2): number from 1, category and type coded, colour as sRGB."""

    number: int
    label: str
    category: Coded
    type: Coded
    colour: tuple[int, int, int] = (255, 0, 0)


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer of a model.

    `present` is None where the model does not judge presence (a volume of a normal organ). `critical` is the model's
    own claim under its manifest; whether it may alert is governance's to say. `key_image` is the SOP Instance UID that
    shows it best; `outline` is a closed polygon on that image, (column, row) in pixels (PS3.3 C.18.6).
    """

    key: str
    code: Coded
    present: bool | None = None
    probability: Decimal | None = None
    threshold: Decimal | None = None
    critical: bool = False
    body_site: Coded | None = None
    laterality: Coded | None = None
    measurements: tuple[Measurement, ...] = ()
    segment: Segment | None = None
    key_image: str | None = None
    outline: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """All that one run of one model said of one series of one study revision.

    `source_instances` are the SOP Instance UIDs that were read, in the order in which mask frames stand.
    `warnings` are the reader's own doubts (uneven gaps, a missing slice), shown with the result.
    """

    run_id: str
    study_instance_uid: str
    series_instance_uid: str
    revision: int
    model: ModelIdentity
    phase: Phase
    findings: tuple[Finding, ...]
    source_instances: tuple[str, ...]
    read_at: datetime
    runtime: str
    duration_ms: int
    warnings: tuple[str, ...] = field(default=())
    demo: bool = False
