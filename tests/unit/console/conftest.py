"""A console over a real database, and a browser's way of asking it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.read_studies import ReadStudies, Site, site

from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database, SyncDatabase


@pytest.fixture
def ward(database: Database, sync_database: SyncDatabase, blobs: LocalBlobs) -> ReadStudies:
    return ReadStudies(database, sync_database, blobs)


@pytest.fixture
def console(database: Database, blobs: LocalBlobs) -> Site:
    return site(database, blobs)


@pytest.fixture
async def visitor(console: Site) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that nobody has signed in with."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(console.app), base_url="http://wetread.test") as client:
        yield client


@pytest.fixture
async def radiologist(console: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with _with_cookie(console, console.token("radiologist")) as client:
        yield client


@pytest.fixture
async def service(console: Site) -> AsyncIterator[httpx.AsyncClient]:
    """Reads everything that is released, but may not decide on matches."""
    async with _with_cookie(console, console.token("service")) as client:
        yield client


def _with_cookie(console: Site, token: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(console.app)
    return httpx.AsyncClient(transport=transport, base_url="http://wetread.test", cookies={"wetread_token": token})


@pytest.fixture
def console_token(console: Site) -> str:
    """A token that opens Observations only."""
    return console.token(scope="system/Observation.rs", principal="observer")


@pytest.fixture
def images_only_token(console: Site) -> str:
    return console.token("radiologist", scope="system/ImagingStudy.rs")
