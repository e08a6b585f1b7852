"""From a request's credential to a Reader: an access token, an API key, or the cookie of somebody who signed in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from starlette.requests import Request

from wetread.access.clients.known import KEY_PREFIX, KnownClients
from wetread.access.people import sessions
from wetread.access.tokens import Tokens
from wetread.domain.reader import Reader
from wetread.errors import Unauthorized
from wetread.store.database import Database

Authenticate: TypeAlias = Callable[[Request], Awaitable[Reader]]

COOKIE = "wetread_token"
"""The operator's token, as the sign-in page keeps it."""
_SAFE = ("GET", "HEAD")
_OTHER_SITES = ("cross-site", "same-site")


@dataclass(frozen=True)
class Credentials:
    """What a credential is checked against."""

    database: Database
    tokens: Tokens
    known: KnownClients
    https: bool


def authenticator(credentials: Credentials) -> Authenticate:
    """Reads `Authorization: Bearer` (RFC 6750 2.1) or, for reading only, a cookie of the sign-in pages.

    A cookie never authorises a change, and for another site's page nothing but that a person follows its link here; so
    another site's form or script can use it for nothing.
    """
    session_cookie = sessions.cookie_name(https=credentials.https)

    async def authenticate(request: Request) -> Reader:
        host = request.client.host if request.client else None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        token = given.strip()
        if scheme.lower() == "bearer" and token.startswith(KEY_PREFIX):
            return await credentials.known.holder_of(token, host)
        if scheme.lower() == "bearer" and token:
            return await _bearer(credentials, token, host)
        if request.method in _SAFE and _is_own_page(request):
            if COOKIE in request.cookies:
                return await _bearer(credentials, request.cookies[COOKIE], host)
            if session_cookie in request.cookies:
                return await _signed_in(credentials, request, request.cookies[session_cookie])
        raise Unauthorized("an access token is needed: Authorization: Bearer ...; or sign in at /login")

    return authenticate


async def _bearer(credentials: Credentials, token: str, host: str | None) -> Reader:
    reader = credentials.tokens.verify(token)
    if reader.client_id:
        await credentials.known.require_open(reader.client_id, host)
    return reader


async def _signed_in(credentials: Credentials, request: Request, cookie: str) -> Reader:
    active = request.headers.get("sec-fetch-mode", "navigate") == "navigate"
    async with credentials.database.statements() as conn:
        signed = await sessions.person(conn, cookie, active=active)
    if signed is None:
        raise Unauthorized("nobody is signed in, or it was too long ago; sign in at /login")
    return signed.account.reader()


def _is_own_page(request: Request) -> bool:
    """Whether the request is of our own page, or a person's who came here by a link (W3C Fetch Metadata 2.4)."""
    headers = request.headers
    return headers.get("sec-fetch-site") not in _OTHER_SITES or headers.get("sec-fetch-mode") == "navigate"
