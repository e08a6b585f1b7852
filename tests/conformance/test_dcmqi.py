"""dcmqi (ITK, dcmtk), which 3D Slicer reads results with, reads our SR and SEG as they were meant."""

from __future__ import annotations

import gzip
import json
import subprocess
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from conformance import supply
from wetread.demo.studies import instances, load_cases
from wetread.domain.codes import SCT, Coded
from wetread.domain.finding import Finding, Measurement, ModelIdentity, Reading, Segment
from wetread.domain.phase import Phase
from wetread.results.context import ReadingContext
from wetread.results.instance import part10
from wetread.results.seg import seg
from wetread.results.sr import sr

pytestmark = pytest.mark.conformance

DEMO = Path(__file__).parents[2] / "demo"
BLEED = Finding(
    key="bleed",
    code=Coded("1386000", SCT, "Intracranial hemorrhage"),
    present=True,
    probability=Decimal("0.930"),
    threshold=Decimal("0.50"),
    critical=True,
    body_site=Coded("12738006", SCT, "Brain"),
    measurements=(Measurement("volume", Coded("118565006", SCT, "Volume"), Decimal("12.40"), "mL", "mL"),),
    segment=Segment(
        1,
        "Bleed",
        Coded("49755003", SCT, "Morphologically Abnormal Structure"),
        Coded("50960005", SCT, "Hemorrhage"),
        (220, 30, 30),
    ),
)


@pytest.fixture(scope="module")
def dcmqi() -> Path:
    return supply.dcmqi()


@pytest.fixture(scope="module")
def read() -> tuple[Reading, ReadingContext, list[Dataset]]:
    """A bleed in the phantom of the demonstration."""
    case = load_cases(DEMO)["head-ct-phantom-bleed"]
    sources = sorted(instances(case, DEMO), key=lambda s: float(s.ImagePositionPatient[2]))
    reading = Reading(
        run_id="run-1",
        study_instance_uid=sources[0].StudyInstanceUID,
        series_instance_uid=sources[0].SeriesInstanceUID,
        revision=1,
        model=ModelIdentity("headct-bleed", "1.0.0", "d" * 64, "c" * 64, "Wetread", synthetic=True),
        phase=Phase.ACTIVE,
        findings=(BLEED,),
        source_instances=tuple(s.SOPInstanceUID for s in sources),
        read_at=datetime(2026, 3, 1, 23, 30, tzinfo=UTC),
        runtime="onnxruntime",
        duration_ms=812,
    )
    context = ReadingContext(
        base_url="https://wetread.example/fhir",
        patient_id="patient-1",
        imaging_study_id="study-1",
        service_request_id=None,
        encounter_id=None,
        device_id="device-1",
        task_id=None,
        study_instance_uid=sources[0].StudyInstanceUID,
        accession=None,
        started=None,
        modality="CT",
        body_site=None,
        procedure=None,
        organization="Example Hospital",
        demo=False,
        previous_sr_uid=None,
    )
    return reading, context, sources


def masks(sources: list[Dataset]) -> dict[int, Any]:
    mask = np.zeros((len(sources), sources[0].Rows, sources[0].Columns), dtype=np.bool_)
    mask[5:12, 30:50, 20:60] = True
    mask[8, 30:40, 20:40] = False
    return {1: mask}


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_mask_lies_where_we_drew_it(
    dcmqi: Path, read: tuple[Reading, ReadingContext, list[Dataset]], tmp_path: Path
) -> None:
    reading, context, sources = read
    drawn = masks(sources)
    (tmp_path / "seg.dcm").write_bytes(part10(seg(reading, context, sources, drawn)))
    run(dcmqi / "segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path)
    header, _, body = (tmp_path / "1.nrrd").read_bytes().partition(b"\n\n")
    told = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    assert told["space"] == "left-posterior-superior"
    columns, rows, frames = map(int, told["sizes"].split())
    seen = np.frombuffer(gzip.decompress(body), dtype="<i2").reshape(frames, rows, columns).astype(bool)
    assert (rows, columns) == (sources[0].Rows, sources[0].Columns)

    origin = np.array(json.loads(f"[{told['space origin'].strip('()')}]"))
    first = next(n for n, s in enumerate(sources) if np.allclose(s.ImagePositionPatient, origin, atol=1e-3))
    expected = drawn[1][first : first + frames]
    assert expected.sum() == drawn[1].sum()
    assert np.array_equal(seen, expected)

    [[segment]] = json.loads((tmp_path / "meta.json").read_text())["segmentAttributes"]
    assert segment["SegmentAlgorithmType"] == "AUTOMATIC"
    assert segment["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "50960005"
    assert segment["recommendedDisplayRGBValue"] == pytest.approx([220, 30, 30], abs=1)  # CIELab and back


def test_the_report_tells_finding_site_algorithm_and_numbers(
    dcmqi: Path, read: tuple[Reading, ReadingContext, list[Dataset]], tmp_path: Path
) -> None:
    reading, context, sources = read
    segmentation = seg(reading, context, sources, masks(sources))
    (tmp_path / "sr.dcm").write_bytes(part10(sr(reading, context, sources, segmentation)))
    run(dcmqi / "tid1500reader", "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json")
    told = json.loads((tmp_path / "sr.json").read_text())
    assert (told["CompletionFlag"], told["VerificationFlag"]) == ("COMPLETE", "UNVERIFIED")
    [group] = told["Measurements"]
    assert group["Finding"]["CodeValue"] == BLEED.code.code
    assert group["FindingSite"]["CodeValue"] == "12738006"
    assert group["ReferencedSegment"] == 1
    assert group["segmentationSOPInstanceUID"] == segmentation.SOPInstanceUID
    algorithm = group["measurementAlgorithmIdentification"]
    assert (algorithm["AlgorithmName"], algorithm["AlgorithmVersion"]) == ("SYNTHETIC headct-bleed", "1.0.0")
    numbers = {
        m["quantity"]["CodeValue"]: (Decimal(m["value"]), m["units"]["CodeValue"]) for m in group["measurementItems"]
    }
    assert numbers["118565006"] == (Decimal("12.4"), "mL")
    assert numbers["111012"] == (Decimal("93"), "%")
