"""How much one client may ask for in a minute, and how often one may guess.

Counted in this process's memory, in windows of a minute that begin with the first request. A client is known by the
credential that it was let in with; who shows none, or one that has not been seen yet, counts by address, of IPv6 by the
/64 network, which is what one machine has. At the doors where secrets are tried (`/login`, `/oauth`) failures count, by
address, and by the name that is tried from there: else anybody could shut a client out by its name. Who guesses from
many addresses meets the lock-out of people's names (`access.people.attempts`); secrets of clients are too long to
guess.

A request beyond a limit is answered 429 here, before any work. It leaves no AuditEvent of its own: one for each address
and minute tells how many there were, so that nobody can fill the record by being refused.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_plus

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wetread.api import fhir_outcome, problem
from wetread.api.turned_away import TurnedAway, network
from wetread.api.windows import Counts
from wetread.domain.reader import Reader
from wetread.record.export.jobs import Throttled

_MOST_CREDENTIALS = 20_000
_FORM_BYTES = 64 * 1024
"""No door reads a longer one."""
_NAME_LENGTH = 256

_PROBES = frozenset(
    {
        "/fhir/metadata",
        "/fhir/.well-known/smart-configuration",
        "/.well-known/openid-configuration",
        "/oauth/jwks.json",
        "/oauth/smart-style.json",
    }
)
_DOORS = ("/login", "/oauth/")
_PAGES = ("/login", "/oauth/authorize")
"""Among the doors those of people: what they send back is an answer like any other page's, also where it fails."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Of a minute; 0 sets no limit."""

    client: int = 0
    anonymous: int = 0
    refused: int = 0
    guesses: int = 0
    guesses_of_name: int = 0


class Limits:
    """ASGI. `uncounted` are paths that cost nothing and tell nothing: probes, style sheets."""

    def __init__(
        self,
        app: ASGIApp,
        rates: Rates,
        turned_away: TurnedAway,
        uncounted: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._rates = rates
        self._uncounted = frozenset(uncounted)
        self._counts = Counts(clock)
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._turned_away = turned_away

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._open(scope, receive, send)
            return
        path = scope["path"] if scope["type"] == "http" else ""
        if not path or path in self._uncounted:
            await self._app(scope, receive, send)
            return
        credential = _credential(scope)
        client = self._known.get(credential) if credential is not None else None
        where = _network(scope)
        is_try = scope["method"] == "POST" and path.startswith(_DOORS)
        names: list[str] = []
        if is_try:
            names, receive = await _names(scope, receive)
        try:
            self._require_room(path, client, where, names if is_try else None)
        except Throttled as error:
            self._turned_away.count(where, error.http_status, client or "anonymous")
            await _answer(path, error)(scope, receive, send)
            return
        status = 0

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self._app(scope, receive, seen)
        reader: Reader | None = scope.get("state", {}).get("reader")
        if reader is not None and credential is not None and client is None and status != 401:
            self._remember(credential, reader.client_id or reader.principal)
        if not 400 <= status < 500:
            return
        if is_try:
            self._counts.add("guesses", self._rates.guesses, where)
            for name in names:
                self._counts.add("guesses-of-name", self._rates.guesses_of_name, f"{where} {name}")
        elif status == 401 and credential is not None:
            self._known.pop(credential, None)  # expired or taken back: from now on it counts as none
            self._counts.add("refused", self._rates.refused, where)
        elif reader is None:
            self._counts.add("refused", self._rates.refused, where)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A websocket counts as one request, when it is opened; its frames have limits of their own."""
        path, where = scope["path"], _network(scope)
        credential = _credential(scope)
        client = self._known.get(credential) if credential is not None else None
        try:
            self._require_room(path, client, where, None)
        except Throttled as error:
            self._turned_away.count(where, error.http_status, client or "anonymous")
            await _answer(path, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _require_room(self, path: str, client: str | None, where: str, tried: list[str] | None) -> None:
        """Raises Throttled."""
        counts, rates = self._counts, self._rates
        if tried is not None:
            counts.require("guesses", rates.guesses, where)
            if not tried or path.startswith(_PAGES):
                counts.spend("doors", rates.anonymous, where)
            for name in tried:
                counts.require("guesses-of-name", rates.guesses_of_name, f"{where} {name}")
                counts.spend("client", rates.client, f"tried:{where} {name}")
        elif client is not None:
            counts.spend("client", rates.client, client)
        elif path in _PROBES:
            counts.spend("probes", rates.anonymous, where)
        elif path.startswith(_DOORS):
            counts.spend("doors", rates.anonymous, where)
        else:
            counts.require("refused", rates.refused, where)
            counts.spend("anonymous", rates.anonymous, where)

    def _remember(self, credential: bytes, client: str) -> None:
        self._known[credential] = client
        if len(self._known) > _MOST_CREDENTIALS:
            self._known.popitem(last=False)


def _credential(scope: Scope) -> bytes | None:
    """A digest of what the request shows, whatever it is; None where it shows nothing."""
    for wanted in (b"authorization", b"cookie"):
        for name, value in scope["headers"]:
            if name == wanted:
                return hashlib.blake2b(value, digest_size=16).digest()
    return None


def _network(scope: Scope) -> str:
    client = scope.get("client")
    return network(client[0] if client else "")


async def _names(scope: Scope, receive: Receive) -> tuple[list[str], Receive]:
    """The accounts or clients whose secret a request tries, and what gives the request's body once more."""
    names: list[str] = []
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:6].lower() == b"basic ":
            with contextlib.suppress(ValueError, binascii.Error):
                names.append(unquote_plus(base64.b64decode(value[6:]).decode().partition(":")[0]))
    taken: list[Message] = []
    body = b""
    while len(body) <= _FORM_BYTES:
        message = await receive()
        taken.append(message)
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if len(body) <= _FORM_BYTES:
        form: dict[str, str] = {}
        for key, given in parse_qsl(body.decode("ascii", "replace")):
            form.setdefault(key, given)  # the first counts at the doors, too
        names += [form[key] for key in ("name", "username", "client_id") if form.get(key)]
        names += _issuer(form.get("client_assertion", ""))

    async def again() -> Message:
        return taken.pop(0) if taken else await receive()

    return sorted({name.strip().casefold()[:_NAME_LENGTH] for name in names} - {""}), again


def _issuer(assertion: str) -> Iterator[str]:
    """Whom a JWT claims to be of (RFC 7523 3), which nobody has verified yet."""
    with contextlib.suppress(ValueError, RecursionError, IndexError):
        part = assertion.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        if isinstance(claims, dict) and isinstance(claims.get("iss"), str):
            yield claims["iss"]


def _answer(path: str, error: Throttled) -> Response:
    """In the form of the door that was asked."""
    if path.startswith("/fhir"):
        answer = fhir_outcome.response(error)
    elif path.startswith("/oauth/"):
        answer = JSONResponse({"error": "temporarily_unavailable", "error_description": error.message}, 429)
    elif path.startswith("/login"):
        answer = PlainTextResponse(f"{error.message}\n", 429)
    else:
        answer = problem.problem(error)
    answer.headers["Retry-After"] = str(error.retry_after_s)
    return answer
