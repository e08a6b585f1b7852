"""Studies in the archive and on the record, and a DICOMweb client whose token is its rights (`scoped.token`)."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pydicom
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from wetread.api import dicomweb, problem
from wetread.archive import instances
from wetread.domain.identity import PatientIdentity
from wetread.domain.priority import Priority
from wetread.domain.reader import Reader
from wetread.domain.study import MatchState, StudyState
from wetread.errors import WetreadError
from wetread.reading import studies
from wetread.reading.studies import Study
from wetread.record import resources
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database
from wetread.wire import dicom

from .scoped import reader

MR = (Path(__file__).parents[2] / "data/dicom/syntaxes/MR_small.dcm").read_bytes()
DCM = "http://dicom.nema.org/resources/ontology/DCM"


def image(study: str, series: str = "1", modality: str = "MR") -> bytes:
    """The first instance of a series of a study."""
    dataset = pydicom.dcmread(io.BytesIO(MR))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.{series}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{study}.{series}.1"
    dataset.Modality = modality
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


async def arrived(database: Database, blobs: LocalBlobs, uid: str, patient: str, modality: str) -> None:
    """A study of one image, which is the patient's."""
    file, at = image(uid), datetime.now(UTC)
    study = Study(
        study_instance_uid=uid, id=f"study-{patient}", state=StudyState.READ, revision=1, patient_id=patient,
        identity=PatientIdentity(), accession_number="", accession_issuer="", modalities=(modality,), description="",
        study_date="", service_request_id=None, task_id="t", match_state=MatchState.NONE, match_reason="",
        candidates=(),
        first_at=at, last_at=at, instance_count=1, expected_count=None, declared_complete=False, completed_at=at,
        completed_why="", priority=Priority.ROUTINE, critical=False, critical_reason="", error=None,
    )  # fmt: skip
    content = {
        "resourceType": "ImagingStudy",
        "id": study.id,
        "status": "available",
        "subject": {"reference": f"Patient/{patient}"},
        "series": [{"uid": f"{uid}.1", "modality": {"system": DCM, "code": modality}}],
    }
    async with database.transaction() as conn:
        await instances.store_async(conn, blobs, dicom.facts(file), file, source="test")
        await studies.insert(conn, study)
        await resources.put(conn, content)


@asynccontextmanager
async def archive_client(database: Database, blobs: LocalBlobs) -> AsyncIterator[httpx.AsyncClient]:
    async def authenticate(request: Request) -> Reader:
        patient, _, scopes = request.headers["authorization"].removeprefix("Bearer [").partition("]")
        return reader(scopes, patient)

    app = FastAPI()
    app.include_router(dicomweb.router(database, blobs, authenticate))

    @app.exception_handler(WetreadError)
    async def on_error(request: Request, error: WetreadError) -> Response:
        return problem.problem(error)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://wetread.example/dicom-web") as client:
        yield client
