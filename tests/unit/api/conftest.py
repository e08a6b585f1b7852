"""The FHIR face under test, with everybody allowed everything: interactions are tried here, not access."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from wetread.api import fhir
from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import Unauthorized
from wetread.record.audit import audit
from wetread.record.cursors import OF_THIS_PROCESS, Cursors
from wetread.store.database import Database

READERS = {
    "all": SYSTEM,
    "observations": Reader("observer", (Scope("system", "Observation", frozenset("cruds")),)),
}

Calls = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


async def _authenticate(request: Request) -> Reader:
    reader = READERS.get(request.headers.get("authorization", "").removeprefix("Bearer "))
    if reader is None:
        raise Unauthorized("an access token is needed")
    return reader


async def _nobody_is_told(*_: object) -> None:
    pass


@asynccontextmanager
async def _calls(
    database: Database, *, update_create: bool = True, cursors: Cursors = OF_THIS_PROCESS
) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    base = "http://wetread.example/fhir"
    app.include_router(
        fhir.router(
            database,
            _authenticate,
            audit.write_many,
            base,
            on_write=_nobody_is_told,
            max_body_bytes=1_000_000,
            update_create=update_create,
            cursors=cursors,
        )
    )
    headers = {"Authorization": "Bearer all"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"{base}/", headers=headers) as client:
        yield client


@pytest.fixture(scope="session")
def calls() -> Calls:
    """A client of the face on a database."""
    return _calls


@pytest.fixture
async def fhir_client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """On a database that no other test sees."""
    async with _calls(database) as client:
        yield client


@pytest.fixture(scope="module")
async def shared_fhir_client(module_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """On one database for the file."""
    async with _calls(module_database) as client:
        yield client
