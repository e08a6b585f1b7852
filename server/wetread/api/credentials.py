"""From a request's credential to a Reader: the one seam where SMART on FHIR will come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import Request

from wetread.access.tokens import Tokens
from wetread.domain.reader import Reader
from wetread.errors import Unauthorized

Authenticate: TypeAlias = Callable[[Request], Awaitable[Reader]]

COOKIE = "wetread_token"
_SAFE = ("GET", "HEAD")


def bearer(tokens: Tokens) -> Authenticate:
    """Reads `Authorization: Bearer` (RFC 6750 2.1), or, for reading only, the cookie that the sign-in page sets.

    The cookie never authorises a change, so another site's form cannot use it.
    """

    async def authenticate(request: Request) -> Reader:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            return tokens.verify(token.strip())
        cookie = request.cookies.get(COOKIE)
        if cookie and request.method in _SAFE:
            return tokens.verify(cookie)
        raise Unauthorized("an access token is needed: Authorization: Bearer ...; `wetread token` makes one")

    return authenticate
