"""A person with a browser at the door: name and password, the second factor, their own page, and out again."""

from __future__ import annotations

import asyncio
import time

import pyotp
import pytest
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import url_to_be
from selenium.webdriver.support.wait import WebDriverWait
from tests.browser.conftest import OpenBrowser
from tests.read_studies import Site

from wetread.access.people import accounts, passwords
from wetread.store.database import Database

pytestmark = pytest.mark.peer

PASSWORD = "correct horse battery staple"


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
async def test_an_administrator_sets_up_the_second_factor_and_comes_back_with_it(
    console: Site, database: Database, address: str, open_browser: OpenBrowser, script: bool
) -> None:
    hashed = await console.people.passwords.hashed(PASSWORD)
    async with database.transaction() as conn:
        await accounts.add(conn, "root", "Rosa Root", ["administrator"])
        await passwords.keep(conn, "root", hashed)

    def visit() -> None:
        browser = open_browser(script=script)
        browser.get(f"{address}/worklist")
        _type_name_and_password(browser, "wrong horse battery staple")
        assert "Not signed in" in browser.find_element(By.CSS_SELECTOR, "[role=alert]").text
        _type_name_and_password(browser, PASSWORD)
        WebDriverWait(browser, 60).until(url_to_be(f"{address}/login/code"))

        otpauth = str(browser.find_element(By.CSS_SELECTOR, "a[href^='otpauth:']").get_attribute("href"))
        app = pyotp.parse_uri(otpauth)
        assert isinstance(app, pyotp.TOTP)
        _type_code(browser, app.now())
        WebDriverWait(browser, 60).until(url_to_be(f"{address}/worklist"))

        browser.find_element(By.LINK_TEXT, "Rosa Root").send_keys(Keys.ENTER)
        WebDriverWait(browser, 60).until(url_to_be(f"{address}/account"))
        assert "(this one)" in browser.find_element(By.TAG_NAME, "main").text
        cookies = {cookie["name"]: cookie["httpOnly"] for cookie in browser.get_cookies()}
        assert cookies == {"wetread_session": True, "wetread_device": True}
        browser.find_element(By.CSS_SELECTOR, "header button").click()
        WebDriverWait(browser, 60).until(url_to_be(f"{address}/login"))
        assert "wetread_session" not in {cookie["name"] for cookie in browser.get_cookies()}

        _type_name_and_password(browser, PASSWORD)
        WebDriverWait(browser, 60).until(url_to_be(f"{address}/login/code"))
        assert app.secret not in browser.page_source
        _type_code(browser, app.at(int(time.time()) + 30))
        WebDriverWait(browser, 60).until(url_to_be(f"{address}/worklist"))

    await asyncio.to_thread(visit)


def _type_name_and_password(browser: WebDriver, password: str) -> None:
    """With the keyboard alone; the cursor stands in the first field."""
    name = browser.switch_to.active_element
    assert name.get_attribute("name") == "name"
    name.send_keys("root", Keys.TAB)
    field = browser.switch_to.active_element
    assert field.get_attribute("name") == "password"
    field.send_keys(password, Keys.ENTER)


def _type_code(browser: WebDriver, code: str) -> None:
    field = browser.switch_to.active_element
    assert field.get_attribute("name") == "code"
    field.send_keys(code, Keys.ENTER)
