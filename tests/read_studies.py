"""Studies that have been read: images of the demonstration in the archive, real answers of shipped models in rows."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from argon2 import PasswordHasher
from fastapi import FastAPI, Request
from joserfc.jwk import ECKey
from pydicom import Dataset
from starlette.responses import Response

from wetread.access.clients.known import KnownClients
from wetread.access.people.attempts import LockOut
from wetread.access.people.passwords import Passwords
from wetread.access.people.sessions import Lifetime
from wetread.access.people.totp import Seeds
from wetread.access.providers.identity_providers import IdentityProvider
from wetread.access.tokens import Tokens
from wetread.api import credentials, pictures, problem
from wetread.archive import instances
from wetread.console import pages
from wetread.console.sign_in import People
from wetread.demo import studies as demo
from wetread.domain.finding import Reading
from wetread.domain.identity import PatientIdentifier, PatientIdentity
from wetread.domain.keys import fhir_id
from wetread.domain.phase import Phase
from wetread.domain.priority import Priority
from wetread.domain.study import MatchState, StudyState
from wetread.errors import WetreadError
from wetread.reading import inbox, orders, runs, studies
from wetread.reading.infer import pack_masks
from wetread.reading.models import ModelPackage, load_packages
from wetread.reading.orders import Order
from wetread.reading.read import Answer, read_series
from wetread.reading.runtime import Runtime
from wetread.reading.studies import Study
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database, SyncDatabase
from wetread.wire import dicom

REPOSITORY = Path(__file__).parents[1]
FILM, PHANTOM = "chest-film", "head-ct-phantom-bleed"
PNEUMONIA, BLEED = "cxr-pneumonia-peds", "headct-bleed-synthetic"
FIRST_ARRIVAL = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


@cache
def _cases() -> dict[str, demo.Case]:
    return demo.load_cases(REPOSITORY / "demo")


@cache
def _images(case: str) -> list[Dataset]:
    return demo.instances(_cases()[case], REPOSITORY / "demo")


@cache
def package(model: str) -> ModelPackage:
    return load_packages(REPOSITORY / "models")[model]


@cache
def _answer(model: str, case: str) -> Answer:
    return read_series(package(model), _images(case), Runtime("cpu", threads=2))


@dataclass(frozen=True)
class ReadStudies:
    """Puts studies and runs where the steps of the reading would have put them."""

    database: Database
    sync_database: SyncDatabase
    blobs: LocalBlobs

    async def study(self, case: str, **changed: Any) -> Study:
        """The images of a case in the archive, and its study: read, arrived `minutes` after the first. `changed` are
        fields of Study."""
        files = [part10(image) for image in _images(case)]
        with self.sync_database.transaction() as conn:
            for file in files:
                instances.store(conn, self.blobs, dicom.facts(file), file, source="MODALITY")
        told = _cases()[case]
        at = FIRST_ARRIVAL + timedelta(minutes=changed.pop("minutes", 0))
        uid = told.examination.study_instance_uid
        study = Study(
            study_instance_uid=uid,
            id=fhir_id("imaging-study", uid),
            state=StudyState.READ,
            revision=1,
            patient_id=fhir_id("patient", told.patient.id),
            identity=_identity(told.patient),
            accession_number=told.examination.accession_number,
            accession_issuer=told.examination.accession_issuer,
            modalities=(str(_images(case)[0].Modality),),
            description=told.examination.description,
            study_date="2026-11-20",
            service_request_id=None,
            task_id=fhir_id("task", uid),
            match_state=MatchState.NONE,
            match_reason="",
            candidates=(),
            first_at=at,
            last_at=at,
            instance_count=len(files),
            expected_count=None,
            declared_complete=False,
            completed_at=at,
            completed_why="quiet period over",
            priority=Priority.ROUTINE,
            critical=False,
            critical_reason="",
            error=None,
        )
        study = replace(study, **changed)
        async with self.database.transaction() as conn:
            await studies.insert(conn, study)
        return study

    async def run(
        self, study: Study, case: str, model: str, phase: Phase = Phase.ACTIVE, state: str = "reported"
    ) -> str:
        """A run with the model's real answer to the case; gives its id. `queued` has no answer."""
        identity, images, answer = package(model).identity, _images(case), _answer(model, case)
        series = str(images[0].SeriesInstanceUID)
        async with self.database.transaction() as conn:
            run_id = await runs.queue(
                conn, study.study_instance_uid, series, study.revision, identity, phase, "by modality"
            )
            if state == "queued":
                return run_id
            reading = Reading(
                run_id=run_id,
                study_instance_uid=study.study_instance_uid,
                series_instance_uid=series,
                revision=study.revision,
                model=identity,
                phase=phase,
                findings=answer.findings,
                source_instances=answer.source_instances,
                read_at=FIRST_ARRIVAL,
                runtime="onnxruntime CPUExecutionProvider",
                duration_ms=answer.duration_ms,
                warnings=answer.warnings,
            )
            mask_key = f"masks/{run_id}.npz" if answer.masks else None
            if mask_key:
                self.blobs.put(mask_key, pack_masks(answer.masks))
            await runs.finished(conn, run_id, reading, mask_key)
            if state != "done":
                await runs.move(conn, run_id, state, "2.25.1" if state == "reported" else None)
        return run_id

    async def order(self, case: str) -> Order:
        """The order of a case, with the HL7 message it came by."""
        told = _cases()[case]
        raw = (REPOSITORY / "demo" / str(told.order)).read_bytes()
        uid = told.examination.study_instance_uid
        message = inbox.NewMessage(
            peer="127.0.0.1:1",
            listener="mllp",
            sending_application="DEMO-RIS",
            sending_facility="DEMO-HOSPITAL",
            control_id=case,
            message_type="OMI^O23^OMI_O23",
            version="2.5.1",
            digest=hashlib.sha256(raw).digest(),
            size_bytes=len(raw),
            raw=raw,
            verdict="AA",
            answer=b"",
            lanes=(),
            error=None,
        )
        async with self.database.transaction() as conn:
            message_id = await inbox.keep(conn, message)
            assert message_id is not None
            order = Order(
                service_request_id=fhir_id("service-request", uid),
                task_id=fhir_id("task", "order", uid),
                patient_id=fhir_id("patient", told.patient.id),
                encounter_id=None,
                placer=f"PLACER-{case}",
                filler=f"FILLER-{case}",
                accession_number=told.examination.accession_number,
                accession_issuer=told.examination.accession_issuer,
                study_instance_uid=uid,
                identity=_identity(told.patient),
                priority=Priority.STAT,
                modality=str(_images(case)[0].Modality),
                patient_class="E",
                ordering_location="ED",
                status="active",
                message_id=message_id,
            )
            await orders.put(conn, order, [])
        return order


def _identity(patient: demo.Patient) -> PatientIdentity:
    born = f"{patient.birth_date[:4]}-{patient.birth_date[4:6]}-{patient.birth_date[6:]}"
    identifier = PatientIdentifier(patient.id, f"urn:wetread:authority:{patient.issuer}")
    return PatientIdentity((identifier,), patient.family, patient.given, born, patient.sex)


def part10(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@dataclass(frozen=True)
class Site:
    """The console and the picture's route as one application, and a maker of tokens for it."""

    app: FastAPI
    tokens: Tokens
    people: People

    def token(self, *roles: str, scope: str = "system/*.rs", principal: str = "dr-demo") -> str:
        return self.tokens.issue(principal, scope, roles, timedelta(minutes=5)).token


def site(
    database: Database,
    blobs: LocalBlobs,
    *,
    demo: bool = False,
    https: bool = False,
    providers: Mapping[str, IdentityProvider] | None = None,
    base_url: str = "http://wetread.test",
) -> Site:
    tokens = Tokens(ECKey.generate_key("P-256", private=True), "urn:test")
    known = KnownClients(database, remembered_s=0)
    authenticate = credentials.authenticator(credentials.Credentials(database, tokens, known, https))
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    people = People(
        Passwords(hasher=quick),
        Seeds(bytes(32)),
        LockOut(after=3, first=timedelta(seconds=30), most=timedelta(minutes=15)),
        Lifetime(timedelta(hours=12), timedelta(minutes=30)),
        frozenset({"administrator"}),
    )
    app = FastAPI()
    app.include_router(pictures.router(database, blobs, authenticate))
    app.include_router(
        pages.router(
            pages.Console(
                database,
                tokens,
                authenticate,
                people,
                credentials.COOKIE,
                ZoneInfo("Europe/Berlin"),
                demo,
                https,
                providers or {},
                base_url,
            )
        )
    )

    @app.exception_handler(WetreadError)
    async def on_error(request: Request, error: WetreadError) -> Response:
        return problem.problem(error)

    return Site(app, tokens, people)


async def audited(database: Database) -> Sequence[tuple[str, str, str, str | None]]:
    """Kind, outcome, principal and patient of every audit row, in order."""
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT kind, outcome, principal, patient_id FROM audit_event ORDER BY position")
        return await rows.fetchall()
