"""No answer leaves before its request is on record.

Each door writes its own AuditEvent with what it did. This stands around all doors, and writes one where none did: no
such path, a wrong method, an unreadable form, too many requests, a fault. Where it cannot, the answer is 503 instead.
A door that says with 304 that nothing is new, and means that to leave no row, sets `request.state.told_nothing`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wetread.api.audited import access
from wetread.api.credentials import Authenticate
from wetread.domain.reader import Reader
from wetread.record.audit import audit, noted
from wetread.store.database import Database

logger = logging.getLogger(__name__)

_LONGEST_PATH = 1024
_FAULT_WAITS_S = 2.0
"""The database may be what is at fault."""


def remembered(authenticate: Authenticate) -> Authenticate:
    """The same, whose Reader the record of the request will name."""

    async def authenticated(request: Request) -> Reader:
        request.state.reader = reader = await authenticate(request)
        return reader

    return authenticated


class EveryRequest:
    """ASGI. `unrecorded` are paths that give nothing about anybody away: probes, style sheets."""

    def __init__(self, app: ASGIApp, database: Database, unrecorded: Collection[str]) -> None:
        self._app = app
        self._database = database
        self._unrecorded = frozenset(unrecorded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._unrecorded or _is_preflight(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        held = False

        async def recorded(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and not await self._recorded(request, message["status"], added):
                held = True
                await _refuse(send)
            if not held:
                await send(message)

        with noted.noting() as added:
            try:
                await self._app(scope, receive, recorded)
            except Exception:
                if not held:
                    await self._recorded(request, 500, added)
                raise

    async def _recorded(self, request: Request, status: int, added: list[str]) -> bool:
        """Whether the answer may leave. One that tells only of our own fault may, even where it cannot be recorded."""
        if (added and status < 400) or (status == 304 and getattr(request.state, "told_nothing", False)):
            return True
        is_fault = status >= 500
        try:
            async with asyncio.timeout(_FAULT_WAITS_S if is_fault else None), self._database.transaction() as conn:
                if not (added and await noted.is_on_record(conn, added)):
                    await audit.write(conn, _entry(request, status))
        except Exception as error:
            logger.error("a request could not be put on record: %s", type(error).__name__)
            return is_fault
        return True


def _entry(request: Request, status: int) -> audit.AuditEntry:
    kind = "access-denied" if status in (401, 403) else "request-refused" if status >= 400 else "request-answered"
    reader: Reader | None = getattr(request.state, "reader", None)
    outcome = "0" if status < 400 else "4" if status < 500 else "12"
    path = request.url.path[:_LONGEST_PATH]
    return access(request, reader, kind, "E", outcome=outcome, detail={"status": str(status), "path": path})


def _is_preflight(scope: Scope) -> bool:
    """CORS asks so what it may ask; it comes without credentials and reads nothing (W3C Fetch 3.3.7)."""
    names = {name for name, _ in scope["headers"]}
    return scope["method"] == "OPTIONS" and {b"origin", b"access-control-request-method"} <= names


async def _refuse(send: Send) -> None:
    body = json.dumps(
        {
            "type": "https://wetread.org/problems/store-unavailable",
            "title": "store-unavailable",
            "status": 503,
            "detail": "the request could not be put on record, and so was not answered; send again later",
        }
    ).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
