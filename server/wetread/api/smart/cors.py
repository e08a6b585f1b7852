"""Which pages of other origins may read our answers (WHATWG Fetch 3.3, SMART App Launch 2.2
app-launch.html#considerations-for-cross-origin-resource-sharing-cors-support).

Discovery is for all; tokens and FHIR are for the origins to which apps have registered that people come back. No cookie
is ever sent along: these answers go to who brings a token.
"""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wetread.access.clients import clients
from wetread.errors import Unreachable
from wetread.store.database import Database

_PUBLIC = frozenset(
    {
        "/fhir/.well-known/smart-configuration",
        "/.well-known/openid-configuration",
        "/oauth/jwks.json",
        "/oauth/smart-style.json",
        "/fhir/metadata",
    }
)
_REGISTERED = frozenset({"/oauth/token", "/oauth/introspect", "/oauth/revoke"})
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_ASKED = "Authorization, Content-Type, Accept, Prefer, X-Request-Id, " + (
    "If-Match, If-None-Match, If-None-Exist, If-Modified-Since"
)
_SHOWN = "ETag, Last-Modified, Location, Content-Location, Retry-After, X-Progress, Expires, X-Request-Id"
_PREFLIGHT_S = "600"
_KEPT_S = 5.0
_PORTS = {"http": 80, "https": 443}


class Cors:
    """ASGI, around all that may refuse a request: a page must be able to read why, and when to come again."""

    def __init__(self, app: ASGIApp, database: Database) -> None:
        self._app = app
        self._origins = Origins(database)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = _asking(scope)
        if not origin:
            await self._app(scope, receive, send)
            return
        allowed = await self._origins.allowed(scope["path"], origin)

        async def shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.add_vary_header("Origin")
                if allowed:
                    answer["Access-Control-Allow-Origin"] = allowed
                    answer["Access-Control-Expose-Headers"] = _SHOWN
            await send(message)

        await self._app(scope, receive, shared)


class Preflights:
    """ASGI. Answers what a browser asks before it sends a page's request (WHATWG Fetch 4.8), behind what may refuse the
    request itself."""

    def __init__(self, app: ASGIApp, database: Database) -> None:
        self._app = app
        self._origins = Origins(database)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = _asking(scope)
        is_preflight = origin and scope["method"] == "OPTIONS"
        if is_preflight and "access-control-request-method" in Headers(scope=scope):
            allowed = await self._origins.allowed(scope["path"], origin)
            if allowed:
                await _preflight(send, allowed)
                return
        await self._app(scope, receive, send)


def _asking(scope: Scope) -> str:
    """The origin of the page that asks, where an answer of this path may be for pages of other origins; else empty."""
    if scope["type"] != "http":
        return ""
    path = scope["path"]
    is_ours = path in _PUBLIC or path in _REGISTERED or path == "/fhir" or path.startswith("/fhir/")
    return Headers(scope=scope).get("origin", "") if is_ours else ""


class Origins:
    """The origins of the redirect URIs of all open clients, known for some seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: frozenset[str] = frozenset()
        self._until = 0.0

    async def allowed(self, path: str, origin: str) -> str:
        """What Access-Control-Allow-Origin says; empty where it says nothing."""
        return "*" if path in _PUBLIC else origin if await self.knows(origin) else ""

    async def knows(self, origin: str) -> bool:
        """Also where the database is away: then of nobody."""
        if time.monotonic() >= self._until:
            try:
                async with self._database.statements() as conn:
                    all_of_them = await clients.all_of_them(conn)
            except Unreachable:
                return False
            open_ones = [client for client in all_of_them if client.disabled_at is None]
            self._known = frozenset(_origin(uri) for client in open_ones for uri in client.redirect_uris) - {""}
            self._until = time.monotonic() + _KEPT_S
        return origin in self._known


def _origin(uri: str) -> str:
    """RFC 6454 6.1; empty where the scheme is an app's own."""
    parts = urlsplit(uri)
    if parts.scheme not in _PORTS or parts.hostname is None:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


async def _preflight(send: Send, allowed: str) -> None:
    headers = {
        "access-control-allow-origin": allowed,
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": _ASKED,
        "access-control-max-age": _PREFLIGHT_S,
        "vary": "Origin",
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 204, "headers": raw})
    await send({"type": "http.response.body", "body": b""})
