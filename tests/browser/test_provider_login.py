"""A person with a browser comes in through an identity provider, and leaves both by one button."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import url_contains, url_to_be
from selenium.webdriver.support.wait import WebDriverWait
from tests import identity_provider
from tests.browser.conftest import OpenBrowser
from tests.identity_provider import CLIENT_ID, CLIENT_SECRET
from tests.read_studies import site

from wetread.access.providers.documents import ProviderDocuments
from wetread.access.providers.identity_providers import IdentityProvider, Provider
from wetread.domain.endpoint import AllowedEndpoints
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database
from wetread.wire.fetch import Fetch

pytestmark = pytest.mark.peer


@pytest.fixture
async def peer() -> AsyncIterator[identity_provider.IdentityProvider]:
    async with identity_provider.running() as peer:
        yield peer


@pytest.fixture
async def address(
    peer: identity_provider.IdentityProvider, database: Database, blobs: LocalBlobs
) -> AsyncIterator[str]:
    """Where the console listens; to the browser another site than the provider, since the host has another name."""
    fetch = Fetch(AllowedEndpoints.parse(("127.0.0.0/8",)))
    door = socket.create_server(("127.0.0.1", 0))
    address = f"http://localhost:{door.getsockname()[1]}"
    provider = Provider(
        name="kc",
        display_name="the hospital's account",
        issuer=peer.issuer,
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        scopes=("profile",),
        groups_claim="groups",
        roles={"radiology": ("radiologist",)},
    )
    ours = IdentityProvider(
        provider, f"{address}/login/provider/kc/callback", fetch, ProviderDocuments(peer.issuer, fetch)
    )
    console = site(database, blobs, providers={"kc": ours}, base_url=address)
    server = uvicorn.Server(uvicorn.Config(console.app, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve([door]))
    yield address
    server.should_exit = True
    await serving
    await fetch.close()


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
async def test_a_person_comes_in_by_the_button_and_leaves_both(
    address: str, peer: identity_provider.IdentityProvider, open_browser: OpenBrowser, script: bool
) -> None:
    def visit() -> None:
        browser = open_browser(script=script)
        browser.get(f"{address}/worklist?from=here")
        browser.find_element(By.LINK_TEXT, "Sign in with the hospital's account").send_keys(Keys.ENTER)
        WebDriverWait(browser, 60).until(url_to_be(f"{address}/worklist?from=here"))
        assert "Rae Reader" in browser.find_element(By.TAG_NAME, "header").text
        browser.find_element(By.CSS_SELECTOR, "header button").click()
        WebDriverWait(browser, 60).until(url_contains("/login"))
        WebDriverWait(browser, 60).until(lambda _: peer.times("/logout") == 1)
        WebDriverWait(browser, 60).until(url_to_be(f"{address}/login"))
        browser.get(f"{address}/worklist")
        assert browser.current_url.startswith(f"{address}/login?")
        assert [entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]] == []

    await asyncio.to_thread(visit)
