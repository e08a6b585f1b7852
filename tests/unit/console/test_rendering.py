"""The headers that fence a page in, and what may be let through them."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from wetread.console.rendering import Pages, page_may_lead_to

_PAGES = Pages(ZoneInfo("UTC"), demo=False)


def directives(*addresses: str) -> dict[str, str]:
    """The policy of a page that may lead to these."""
    page = page_may_lead_to(_PAGES.page("onward.html", {"goal": "/"}), *addresses)
    parts = (part.strip().partition(" ") for part in page.headers["content-security-policy"].split(";"))
    return {name: value for name, _, value in parts}


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("https://app.example/back?x='none';script-src=*", "https://app.example"),
        ("https://app.example:8443/back;form-action", "https://app.example:8443"),
        ("http://[::1]:9/back,x", "http://[::1]:9"),
        ("https://app.example?x", "https://app.example"),
        ("org.example.growth:/back;script-src=*", "org.example.growth:"),
        ("org.example.growth://back;script-src/*", "org.example.growth:"),
    ],
)
def test_only_the_origin_of_an_address_stands_in_the_policy(address: str, source: str) -> None:
    bare = directives()
    assert directives(address) == {**bare, "form-action": f"'self' {source}"}


@pytest.mark.parametrize(
    "address",
    [
        "https://app.example;script-src/*",
        "https://app.example'unsafe-inline'/back",
        "https://app.example,evil.example/",
        "https://*.example/",
        "https://ana@evil.example/",
        "https:///back",
        "https:back",
        "org_example:/back",
        "",
    ],
)
def test_what_makes_no_source_opens_nothing(address: str) -> None:
    assert directives(address) == directives()


def test_several_addresses_stand_there_once_each() -> None:
    found = directives("https://a.example/1", "https://a.example/2", "https://b.example/")["form-action"]
    assert found == "'self' https://a.example https://b.example"
