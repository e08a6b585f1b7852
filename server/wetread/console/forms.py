"""What comes back from a page: its fields, the proof that the page was ours, and where the person wants to go on."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request

from wetread.access.people import sessions
from wetread.errors import Forbidden, InvalidInput, TooLarge

TOKEN = "form_token"  # noqa: S105
"""The field with the form token."""
HOME = "/worklist"
_LIMIT_BYTES = 16 * 1024
_NOT_A_GOAL = ("/login", "/logout")


async def content(request: Request) -> bytes:
    """A form as it came. Raises TooLarge."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LIMIT_BYTES:
            raise TooLarge(f"a form holds at most {_LIMIT_BYTES} bytes")
    return bytes(body)


async def fields(request: Request) -> dict[str, str]:
    """An application/x-www-form-urlencoded body. Raises TooLarge."""
    pairs = parse_qs((await content(request)).decode("ascii", "replace"))
    return {name: values[0] for name, values in pairs.items()}


def require_text(given: Mapping[str, str]) -> None:
    """Raises InvalidInput for U+0000, which the database does not take."""
    if any("\x00" in value for value in given.values()):
        raise InvalidInput("a form holds text only")


async def own_fields(request: Request, cookie: str, purpose: str) -> dict[str, str]:
    """The fields of a form that was made here, for this browser and purpose.

    Another site's form could sign a person in as someone else, or out (Sec-Fetch-Site, W3C Fetch Metadata 2.1; the form
    token holds where a browser does not tell). Raises Forbidden, TooLarge.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("this form came from another site; open the page here and send it again")
    given = await fields(request)
    sessions.check_form_token(cookie, purpose, given.get(TOKEN, ""))
    return given


def own_path(text: str) -> str:
    """The path where it is one of this site, the worklist else: a login must not send people on to another site."""
    plain = all("!" <= char <= "~" and char != "\\" for char in text)
    if not plain or not text.startswith("/") or text.startswith("//"):
        return HOME
    try:
        parts = urlsplit(text)
    except ValueError:
        return HOME
    if parts.scheme or parts.netloc or parts.path.startswith(_NOT_A_GOAL):
        return HOME
    return text
