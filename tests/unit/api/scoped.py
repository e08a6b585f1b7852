"""A client of the FHIR face whose token is its rights: `Bearer [patient id] scope scope ...`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.requests import Request

from wetread.api import fhir
from wetread.domain.reader import Reader, Scope
from wetread.record import resources
from wetread.record.audit import audit
from wetread.store.database import Database

BASE = "http://wetread.example/fhir"
JSON = {"Content-Type": "application/fhir+json"}


def token(scopes: str, patient: str = "") -> dict[str, str]:
    """The header of a caller with these scopes, separated by blanks."""
    return {"Authorization": f"Bearer [{patient}] {scopes}"}


def reader(scopes: str, patient: str = "") -> Reader:
    return Reader("app", tuple(Scope.parse(text) for text in scopes.split()), patient_id=patient or None)


async def _authenticate(request: Request) -> Reader:
    patient, _, scopes = request.headers["authorization"].removeprefix("Bearer [").partition("]")
    return reader(scopes, patient)


async def _nobody_is_told(*_: object) -> None:
    pass


@asynccontextmanager
async def face(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(
        fhir.router(
            database, _authenticate, audit.write_many, BASE, on_write=_nobody_is_told, max_body_bytes=1_000_000,
            update_create=True,
        )
    )  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"{BASE}/") as client:
        yield client


async def store(database: Database, *contents: dict[str, Any]) -> None:
    async with database.transaction() as conn:
        for content in contents:
            await resources.put(conn, content)


def ref(what: str) -> dict[str, str]:
    return {"reference": what}


def observation(id_: str, subject: str, code: str = "8867-4", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": ref(subject),
        **more,
    }


def found(answer: httpx.Response) -> set[str]:
    """`Type/id` of every resource in a Bundle."""
    assert answer.status_code == 200, answer.text
    entries = answer.json().get("entry", [])
    return {f"{r['resourceType']}/{r['id']}" for e in entries for r in (e.get("resource"),) if r and "id" in r}
