"""Debian's Chromium, and a console on a real port for it to visit."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.webdriver import WebDriver
from starlette.types import ASGIApp
from tests.read_studies import ReadStudies, Site, site

from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database, SyncDatabase

CHROMIUM, CHROMEDRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,1000",
)

OpenBrowser = Callable[..., WebDriver]


class _Server(uvicorn.Server):
    """Leaves signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture
def ward(database: Database, sync_database: SyncDatabase, blobs: LocalBlobs) -> ReadStudies:
    return ReadStudies(database, sync_database, blobs)


@pytest.fixture
def console(database: Database, blobs: LocalBlobs) -> Site:
    return site(database, blobs, demo=True)


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, listening: socket.socket) -> AsyncIterator[None]:
    """The app on a socket that already listens."""
    server = _Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    running = asyncio.create_task(server.serve([listening]))
    yield
    server.should_exit = True
    await running


@pytest.fixture
async def address(console: Site) -> AsyncIterator[str]:
    """Where the console listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with serving(console.app, listening):
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def open_browser(tmp_path: Path) -> Iterator[OpenBrowser]:
    """Starts a Chromium with a profile of its own; `script=False` turns JavaScript off, as a person can."""
    if not (CHROMIUM.exists() and CHROMEDRIVER.exists()):
        pytest.fail("Chromium and its driver are missing: on Debian, apt-get install chromium chromium-driver")
    started: list[WebDriver] = []

    def start(*, script: bool = True) -> WebDriver:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--user-data-dir={tmp_path / f'profile{len(started)}'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        if not script:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(CHROMEDRIVER)))
        started.append(browser)
        browser.implicitly_wait(10)
        return browser

    yield start
    for browser in started:
        browser.quit()
