"""The headers that fence in every answer, also one of an error. What a door has set itself stays."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DEFAULTS = (
    # Nothing but a page of the console, which sets its own, has anything to load or to run.
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"),
    # Patient data stay out of the caches of browsers and proxies. An ETag works as before: a client that keeps what it
    # has read asks with If-None-Match.
    (b"cache-control", b"no-store"),
)
_HSTS = (b"strict-transport-security", b"max-age=31536000")
"""A year (RFC 6797 6.1.1). Not of subdomains, which may be others' machines."""


class SecurityHeaders:
    """ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def fenced(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                given += [header for header in _DEFAULTS if header[0] not in names]
                # The scheme is what a trusted proxy told, which is known only when the answer leaves.
                if scope["scheme"] == "https":
                    given.append(_HSTS)
                message["headers"] = given
            await send(message)

        await self._app(scope, receive, fenced)
