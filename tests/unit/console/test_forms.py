"""Where a person may go on after the door: `next` is a stranger's word."""

from __future__ import annotations

import pytest

from wetread.console.forms import own_path


@pytest.mark.parametrize(
    "wanted",
    ["/worklist", "/worklist/7?x=1%262", "/oauth/authorize?client_id=a&state=b%20c", "/%0d%0aSet-Cookie:x", "/x?u=//y"],
)
def test_a_path_of_this_site_is_a_goal(wanted: str) -> None:
    assert own_path(wanted) == wanted


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "\\\\evil.example",
        "/\t/evil.example",
        "/x\r\nSet-Cookie: x=y",
        "javascript:alert(1)",
        "evil.example",
        " /worklist",
        "/\u2028/evil.example",
        "/login?next=/worklist",
        "/logout",
        "//[",
        "",
    ],
)
def test_anything_else_leads_to_the_worklist(wanted: str) -> None:
    assert own_path(wanted) == "/worklist"
