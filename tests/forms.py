"""Forms of the pages, sent as a browser without script sends them."""

from __future__ import annotations

import html
import re

import httpx

_FORM = re.compile(r'<form[^>]*action="([^"]*)"[^>]*>(.*?)</form>', re.DOTALL)
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')


def hidden(page: httpx.Response, action: str) -> dict[str, str]:
    """The hidden fields of the page's first form with this action."""
    for found, content in _FORM.findall(page.text):
        if found == action:
            return {name: html.unescape(value) for name, value in _HIDDEN.findall(content)}
    raise AssertionError(f"no form leads to {action}")


async def send(browser: httpx.AsyncClient, page: httpx.Response, action: str, **typed: str) -> httpx.Response:
    """Sends a form of the page with what was typed into it."""
    return await browser.post(action, data={**hidden(page, action), **typed})
