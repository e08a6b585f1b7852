"""Instances to store: the MR slice under as many UIDs as a test needs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

DATA = Path(__file__).parents[2] / "data/dicom"
MakeInstance = Callable[..., bytes]


@pytest.fixture
def instance() -> MakeInstance:
    """A Part 10 file: `instance(3, study="1.2", PatientID="X")`; the number makes its SOP Instance UID."""

    def make(number: int = 1, *, study: str = "1.2.1", series: str = "1.2.1.1", **values: object) -> bytes:
        dataset = pydicom.dcmread(DATA / "syntaxes/MR_small.dcm")
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{series}.{number}"
        dataset.InstanceNumber = number
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        return buffer.getvalue()

    return make
