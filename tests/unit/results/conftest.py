"""Readings of real images: the shapes that models give, over the headers in tests/data/results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from wetread.domain.codes import SCT, Coded
from wetread.domain.finding import Finding, Measurement, ModelIdentity, Reading, Segment
from wetread.domain.identity import AccessionNumber
from wetread.domain.phase import Phase
from wetread.results.context import ReadingContext

DATA = Path(__file__).parents[2] / "data" / "results"

ICH = Coded("1386000", SCT, "Intracranial hemorrhage")
BRAIN = Coded("12738006", SCT, "Brain")
VOLUME = Coded("118565006", SCT, "Volume")
ABNORMAL = Coded("49755003", SCT, "Morphologically abnormal structure")
ANATOMICAL = Coded("91723000", SCT, "Anatomical Structure")
PNEUMONIA = Coded("233604007", SCT, "Pneumonia")
NODULE = Coded("27925004", SCT, "Nodule")
LUNG = Coded("39607008", SCT, "Lung")
LEFT = Coded("7771000", SCT, "Left")

MakeReading = Callable[..., Reading]
MakeContext = Callable[..., ReadingContext]


def headers(name: str) -> list[Dataset]:
    """The instances of a file or folder of tests/data/results, from feet to head."""
    path = DATA / name
    paths = sorted(path.glob("*.dcm")) if path.is_dir() else [path]
    images = [pydicom.dcmread(p, stop_before_pixels=True) for p in paths]
    return sorted(images, key=lambda i: i.ImagePositionPatient[2] if len(images) > 1 else 0)


@pytest.fixture
def headers_of() -> Callable[[str], list[Dataset]]:
    return headers


@pytest.fixture
def head_ct() -> list[Dataset]:
    return headers("ct_head")


@pytest.fixture
def chest_film() -> list[Dataset]:
    return headers("chest_pa_header.dcm")


@pytest.fixture
def bleed() -> Finding:
    """What `headct-bleed-synthetic` says of a positive study."""
    return Finding(
        key="bleed",
        code=ICH,
        present=True,
        probability=Decimal("0.930"),
        threshold=Decimal("0.50"),
        critical=True,
        body_site=BRAIN,
        measurements=(Measurement("volume", VOLUME, Decimal("12.40"), "mL", "mL", "per-slice cell widths"),),
        segment=Segment(1, "Bleed", ABNORMAL, ICH),
    )


@pytest.fixture
def brain() -> Finding:
    """A pure measurement: nothing is judged present or absent."""
    return Finding(
        key="brain",
        code=BRAIN,
        measurements=(Measurement("volume", VOLUME, Decimal("1507.10"), "mL", "mL", "per-slice cell widths"),),
        segment=Segment(2, "Brain", ANATOMICAL, BRAIN, (0, 200, 0)),
    )


@pytest.fixture
def no_pneumonia() -> Finding:
    return Finding(
        key="pneumonia",
        code=PNEUMONIA,
        present=False,
        probability=Decimal("0.031"),
        threshold=Decimal("0.5"),
        body_site=LUNG,
        laterality=LEFT,
    )


@pytest.fixture
def nodule(chest_film: list[Dataset]) -> Finding:
    return Finding(
        key="nodule",
        code=NODULE,
        present=True,
        probability=Decimal("0.8"),
        key_image=chest_film[0].SOPInstanceUID,
        outline=((100.0, 100.0), (180.5, 100.0), (180.0, 190.0)),
    )


@pytest.fixture
def make_reading() -> MakeReading:
    def make(sources: Sequence[Dataset], *findings: Finding, **changed: Any) -> Reading:
        model = ModelIdentity(
            name=changed.pop("model_name", "cxr-pneumonia-peds"),
            version="1.0.0",
            digest="5921b077fd1dc94e5dc4bee637fd4517747e6b1c987001664fd71599e84f54ec",
            config_digest="c" * 64,
            manufacturer="Wetread",
            synthetic=changed.pop("synthetic", False),
            intended_use="Integration and research only.",
        )
        values: dict[str, Any] = {
            "run_id": "run-1",
            "study_instance_uid": sources[0].StudyInstanceUID,
            "series_instance_uid": sources[0].SeriesInstanceUID,
            "revision": 1,
            "model": model,
            "phase": Phase.ACTIVE,
            "findings": findings,
            "source_instances": tuple(s.SOPInstanceUID for s in sources),
            "read_at": datetime(2026, 3, 1, 23, 30, 0, 250000, tzinfo=UTC),
            "runtime": "onnxruntime CPUExecutionProvider",
            "duration_ms": 812,
        }
        return Reading(**(values | changed))

    return make


@pytest.fixture
def make_context() -> MakeContext:
    def make(sources: Sequence[Dataset], **changed: Any) -> ReadingContext:
        values: dict[str, Any] = {
            "base_url": "https://wetread.example/fhir",
            "patient_id": "patient-1",
            "imaging_study_id": "study-1",
            "service_request_id": "order-1",
            "encounter_id": None,
            "device_id": "device-1",
            "task_id": "task-1",
            "study_instance_uid": sources[0].StudyInstanceUID,
            "accession": AccessionNumber("ACC-1", "urn:oid:1.2.3.4"),
            "started": datetime(2026, 3, 1, 22, 0, tzinfo=UTC),
            "modality": sources[0].Modality,
            "body_site": None,
            "procedure": None,
            "organization": "Example Hospital",
            "demo": False,
            "previous_sr_uid": None,
        }
        return ReadingContext(**(values | changed))

    return make
