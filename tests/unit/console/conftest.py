"""A console over a real database, and a browser's way of asking it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeAlias

import httpx
import pytest
from tests.forms import send
from tests.read_studies import ReadStudies, Site, site

from wetread.access.people import accounts, passwords
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database, SyncDatabase

PASSWORD = "correct horse battery staple"

Hire: TypeAlias = Callable[..., Awaitable[None]]
SignIn: TypeAlias = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
def ward(database: Database, sync_database: SyncDatabase, blobs: LocalBlobs) -> ReadStudies:
    return ReadStudies(database, sync_database, blobs)


@pytest.fixture
def console(database: Database, blobs: LocalBlobs) -> Site:
    return site(database, blobs)


@pytest.fixture
async def visitor(console: Site) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that nobody has signed in with."""
    async with _browser(console) as client:
        yield client


@pytest.fixture
async def other_browser(console: Site) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody else's, or the same person's at home."""
    async with _browser(console) as client:
        yield client


@pytest.fixture
async def radiologist(console: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with _browser(console, console.token("radiologist")) as client:
        yield client


@pytest.fixture
async def service(console: Site) -> AsyncIterator[httpx.AsyncClient]:
    """Reads everything that is released, but may not decide on matches."""
    async with _browser(console, console.token("service")) as client:
        yield client


def _browser(console: Site, token: str = "") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(console.app, client=("10.1.2.3", 50000))
    cookies = {"wetread_token": token} if token else {}
    return httpx.AsyncClient(transport=transport, base_url="http://wetread.test", cookies=cookies)


@pytest.fixture
def hire(console: Site, database: Database) -> Hire:
    """Makes an account, by default the radiologist Maria Curie's with PASSWORD."""

    async def hired(name: str = "maria", roles: Iterable[str] = ("radiologist",), password: str = PASSWORD) -> None:
        hashed = await console.people.passwords.hashed(password)
        async with database.transaction() as conn:
            await accounts.add(conn, name, f"{name.title()} Curie", roles)
            await passwords.keep(conn, name, hashed)

    return hired


@pytest.fixture
def sign_in() -> SignIn:
    """Fills in the form of the door; the answer to it."""

    async def signed_in(
        browser: httpx.AsyncClient, name: str = "maria", password: str = PASSWORD, path: str = "/login"
    ) -> httpx.Response:
        return await send(browser, await browser.get(path), "/login", name=name, password=password)

    return signed_in


@pytest.fixture
def console_token(console: Site) -> str:
    """A token that opens Observations only."""
    return console.token(scope="system/Observation.rs", principal="observer")


@pytest.fixture
def images_only_token(console: Site) -> str:
    return console.token("radiologist", scope="system/ImagingStudy.rs")
