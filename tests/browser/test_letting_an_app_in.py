"""An app of another site sends a person here, in its own window or in one that it opens, and hears how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import pytest
from argon2 import PasswordHasher
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from tests.browser.conftest import OpenBrowser, serving
from tests.smart_apps import App, Pkce, smart_site

from wetread.access.people import accounts, passwords
from wetread.access.people.passwords import Passwords
from wetread.store.database import Database

pytestmark = pytest.mark.peer

PASSWORD = "correct horse battery staple"

# As fhirclient.js does it with the target `popup`: the window that comes back tells the one that opened it.
_FRONT = """
<!doctype html><title>App</title><p id="told"></p>
<button onclick="window.open('/start', 'SMARTAuthPopup', 'width=800,height=900')">Start</button>
<script>addEventListener('message', (event) => { document.getElementById('told').textContent = event.data })</script>
"""
_BACK = """
<!doctype html><title>App</title><p id="told"></p>
<script>
document.getElementById('told').textContent = location.search
if (window.opener) { window.opener.postMessage(location.search, location.origin); window.close() }
</script>
"""


@dataclass
class Stand:
    """Our server and an app, each at its address; `start` is where the app sends the browser."""

    server: str
    app: str
    registered: App
    start: str = ""

    def asks(self, **changed: str) -> None:
        wish = {
            "response_type": "code",
            "client_id": self.registered.client_id,
            "redirect_uri": f"{self.app}/back",
            "scope": "openid user/Patient.rs",
            "state": "s1",
            "aud": f"{self.server}/fhir",
            "code_challenge": Pkce.new().challenge,
            "code_challenge_method": "S256",
            **changed,
        }
        self.start = f"{self.server}/oauth/authorize?{urlencode(wish)}"


@pytest.fixture
async def stand(database: Database, tmp_path: Path) -> AsyncIterator[Stand]:
    async def front(request: Request) -> Response:
        return HTMLResponse(_FRONT)

    async def start(request: Request) -> Response:
        return RedirectResponse(at.start, 303)

    async def back(request: Request) -> Response:
        return HTMLResponse(_BACK)

    app = Starlette(routes=[Route("/", front), Route("/start", start), Route("/back", back)])
    async with contextlib.AsyncExitStack() as open_ones:
        ours, theirs = (open_ones.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        server, other = (f"http://{n}:{s.getsockname()[1]}" for n, s in (("127.0.0.1", ours), ("localhost", theirs)))
        site = await open_ones.enter_async_context(smart_site(database, tmp_path, server))
        registered = await site.register(redirect_uris=[f"{other}/back"], scope="openid launch user/*.rs")
        at = Stand(server, other, registered)
        at.asks()
        hashed = await Passwords(hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)).hashed(PASSWORD)
        async with database.transaction() as conn:
            await accounts.add(conn, "ana", "Ana Example", ["radiologist"])
            await passwords.keep(conn, "ana", hashed)
        await open_ones.enter_async_context(serving(site.app, ours))
        await open_ones.enter_async_context(serving(app, theirs))
        yield at


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
async def test_an_app_hears_of_a_refusal_right_after_the_login(
    stand: Stand, open_browser: OpenBrowser, script: bool
) -> None:
    # It is for somebody else, which shows only when the person is known.
    stand.asks(scope="openid launch", launch=await stand.registered.launched("ben"))

    def visit() -> None:
        browser = open_browser(script=script)
        browser.get(f"{stand.app}/start")
        _signs_in(browser)
        WebDriverWait(browser, 60).until(lambda seen: seen.current_url.startswith(f"{stand.app}/back?"))
        assert "error=invalid_request" in browser.current_url

    await asyncio.to_thread(visit)


async def test_a_window_that_an_app_opened_still_knows_who_opened_it(stand: Stand, open_browser: OpenBrowser) -> None:
    def visit() -> None:
        browser = open_browser()
        browser.get(stand.app)
        front = browser.current_window_handle
        browser.find_element(By.TAG_NAME, "button").click()
        WebDriverWait(browser, 60).until(lambda seen: len(seen.window_handles) == 2)
        browser.switch_to.window(next(handle for handle in browser.window_handles if handle != front))
        _signs_in(browser)
        browser.find_element(By.CSS_SELECTOR, "button[value='allow']").click()
        browser.switch_to.window(front)
        told = WebDriverWait(browser, 60).until(lambda seen: seen.find_element(By.ID, "told").text)
        assert {"code", "state", "iss"} == parse_qs(told.removeprefix("?")).keys()

    await asyncio.to_thread(visit)


def _signs_in(browser: WebDriver) -> None:
    form = "form[action='/login']"
    browser.find_element(By.CSS_SELECTOR, f"{form} #name").send_keys("ana")
    browser.find_element(By.CSS_SELECTOR, f"{form} #password").send_keys(PASSWORD)
    browser.find_element(By.CSS_SELECTOR, f"{form} button").click()
