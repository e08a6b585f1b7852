"""A radiologist with a browser: signs in, sees the sickest first, opens it, looks at the picture."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import (
    text_to_be_present_in_element as text_in,
)
from selenium.webdriver.support.expected_conditions import url_contains
from selenium.webdriver.support.wait import WebDriverWait
from tests.browser.conftest import OpenBrowser
from tests.read_studies import BLEED, FILM, PHANTOM, PNEUMONIA, ReadStudies, Site

from wetread.domain.phase import Phase
from wetread.domain.priority import Priority

pytestmark = pytest.mark.peer

REASON = "Intracranial hemorrhage (headct-bleed-synthetic)"


async def _two_studies(ward: ReadStudies) -> None:
    """An urgent film that only a silent model has read, and a later head CT with a critical bleed."""
    film = await ward.study(FILM, priority=Priority.STAT)
    await ward.run(film, FILM, PNEUMONIA, Phase.SILENT)
    critical = await ward.study(PHANTOM, minutes=5, critical=True, critical_reason=REASON)
    await ward.run(critical, PHANTOM, BLEED)


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
async def test_the_critical_study_is_found_opened_and_seen(
    ward: ReadStudies, console: Site, address: str, open_browser: OpenBrowser, script: bool
) -> None:
    await _two_studies(ward)
    token = console.token("radiologist")

    def visit() -> None:
        browser = open_browser(script=script)
        _sign_in(browser, address, token)

        first, second = browser.find_elements(By.CSS_SELECTOR, "#worklist tbody tr")
        assert "CRITICAL" in first.text
        assert f"critical: {REASON}" in first.text
        assert "SYNTHETIC Intracranial hemorrhage: present" in first.text
        assert "ordered STAT" in second.text
        assert "none reported" in second.text
        assert "DEMO - invented patients" in browser.find_element(By.CLASS_NAME, "demo").text
        _shows_nothing_silent(browser)

        first.find_element(By.TAG_NAME, "a").send_keys(Keys.ENTER)
        WebDriverWait(browser, 60).until(url_contains("/worklist/"))
        picture = browser.find_element(By.CSS_SELECTOR, "figure img")
        assert "Intracranial hemorrhage: present" in str(picture.get_attribute("alt"))
        WebDriverWait(browser, 60).until(lambda _: int(str(picture.get_property("naturalWidth"))) >= 512)
        assert "SYNTHETIC model" in browser.find_element(By.TAG_NAME, "article").text

        browser.back()
        browser.find_elements(By.CSS_SELECTOR, "#worklist tbody tr a")[1].click()
        assert "No model has been asked." in browser.find_element(By.TAG_NAME, "main").text
        _shows_nothing_silent(browser)

        browser.find_element(By.CSS_SELECTOR, "header button").click()
        WebDriverWait(browser, 60).until(url_contains("/login"))
        browser.get(f"{address}/worklist")
        assert browser.current_url == f"{address}/login?next=%2Fworklist"
        _complains_about_nothing(browser)

    await asyncio.to_thread(visit)


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
async def test_an_open_worklist_shows_what_arrives(
    ward: ReadStudies, console: Site, address: str, open_browser: OpenBrowser, script: bool
) -> None:
    await ward.study(FILM)
    browser = await asyncio.to_thread(open_browser, script=script)
    await asyncio.to_thread(_sign_in, browser, address, console.token("radiologist"))
    assert await asyncio.to_thread(_rows, browser) == 1

    await ward.study(PHANTOM, minutes=5, critical=True, critical_reason=REASON)

    def watch() -> None:
        WebDriverWait(browser, 60).until(text_in((By.CSS_SELECTOR, "#worklist tbody tr"), "CRITICAL"))
        assert _rows(browser) == 2
        said = "2 studies, 1 critical" if script else ""
        WebDriverWait(browser, 60).until(lambda _: browser.find_element(By.ID, "live-state").text == said)

    await asyncio.to_thread(watch)


async def test_a_list_that_is_no_longer_live_says_so(
    ward: ReadStudies, console: Site, address: str, open_browser: OpenBrowser
) -> None:
    await ward.study(FILM)
    browser = await asyncio.to_thread(open_browser)
    await asyncio.to_thread(_sign_in, browser, address, console.token("radiologist"))

    def watch() -> None:
        browser.execute_cdp_cmd("Network.enable", {})
        offline: dict[str, Any] = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        WebDriverWait(browser, 60).until(text_in((By.CSS_SELECTOR, "[role=status]"), "NOT LIVE"))
        assert _rows(browser) == 1

    await asyncio.to_thread(watch)


def _sign_in(browser: WebDriver, address: str, token: str) -> None:
    """Opens the worklist, is sent to the door, and types the operator's token with the keyboard alone."""
    browser.get(f"{address}/worklist")
    assert browser.current_url == f"{address}/login?next=%2Fworklist"
    browser.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    field = browser.find_element(By.ID, "token")
    field.send_keys(token, Keys.ENTER)
    WebDriverWait(browser, 60).until(url_contains("/worklist"))


def _rows(browser: WebDriver) -> int:
    return len(browser.find_elements(By.CSS_SELECTOR, "#worklist tbody tr"))


def _shows_nothing_silent(browser: WebDriver) -> None:
    for word in ("Pneumonia", PNEUMONIA, "silent"):
        assert word not in browser.page_source


def _complains_about_nothing(browser: WebDriver) -> None:
    """Neither the Content-Security-Policy nor a missing file."""
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
