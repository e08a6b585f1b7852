"""For whom a proxy asks: X-Forwarded-For, X-Forwarded-Proto and Forwarded (RFC 7239), believed only from proxies that
the operator names.

Whatever a client writes into these headers stands left of what the proxies add, so that hops are read from the right:
the first that is no proxy of ours is the client. A proxy that writes one of the two headers passes on the other as the
client made it; where they tell of different clients, neither is believed and the request is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from wetread.api import problem
from wetread.api.turned_away import TurnedAway
from wetread.domain.networks import Networks, address, within
from wetread.errors import Forbidden, InvalidInput, WetreadError

UNKNOWN = "unknown"
"""The client of a proxy that does not tell (RFC 7239 6.2, 6.3)."""

_PAIR = re.compile(
    r"[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(\"(?:[^\"\\]|\\.)*\"|[!#$%&'*+.^_`|~0-9A-Za-z-]*))?[ \t]*([;,]|$)"
)
_SCHEMES = ("http", "https")


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of the way here: who asked there, and by which scheme, where it is told."""

    node: str
    scheme: str = ""


class Forwarded:
    """ASGI. Puts the client's address and scheme into the scope. With `allow` only clients in these networks are let
    in; a proxy that asks for nobody but itself, as for a probe, is."""

    def __init__(self, app: ASGIApp, trusted: Networks, allow: Networks, turned_away: TurnedAway) -> None:
        self._app = app
        self._turned_away = turned_away
        self._trusted = trusted
        self._allow = allow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._place(scope)
        except WetreadError as error:
            self._turned_away.count(scope["client"][0] if scope.get("client") else "", error.http_status)
            await problem.problem(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _place(self, scope: Scope) -> None:
        """Raises InvalidInput and Forbidden."""
        peer = scope["client"][0] if scope.get("client") else ""
        is_proxy = bool(self._trusted) and within(address(peer), self._trusted)
        hop = told(scope["headers"], self._trusted) if is_proxy else None
        if hop is not None:
            scope["client"] = (hop.node, 0)
            if hop.scheme:
                scope["scheme"] = hop.scheme if scope["type"] == "http" else {"http": "ws", "https": "wss"}[hop.scheme]
        if self._allow and not (hop is None and is_proxy):
            node = hop.node if hop is not None else peer
            if not within(address(node), self._allow):
                raise Forbidden("this server does not answer your network; its operator can add it to http.allow")


def told(headers: Sequence[tuple[bytes, bytes]], trusted: Networks) -> Hop | None:
    """The client, from the headers of a request that came from a proxy of ours; None where they tell of nobody.

    Raises InvalidInput where they contradict each other or cannot be read.
    """
    given: dict[bytes, list[str]] = {}
    for name, value in headers:
        if name in (b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"):
            given.setdefault(name, []).append(value.decode("latin-1"))
    if not given:
        return None
    listed = [Hop(_node(part)) for line in given.get(b"x-forwarded-for", ()) for part in line.split(",")]
    standard = _elements(",".join(given[b"forwarded"])) if b"forwarded" in given else []
    found = [_client(hops, trusted) for hops in (listed, standard) if hops]
    if len(found) == 2 and address(found[0].node) != address(found[1].node):
        raise InvalidInput("X-Forwarded-For and Forwarded tell of different clients; let the proxy write one of them")
    if not found:
        return None
    scheme = found[-1].scheme
    if not scheme and b"x-forwarded-proto" in given:
        scheme = given[b"x-forwarded-proto"][-1].rpartition(",")[2].strip().lower()
    return Hop(found[0].node, scheme if scheme in _SCHEMES else "")


def _client(hops: Sequence[Hop], trusted: Networks) -> Hop:
    """The right-most hop that is no proxy of ours; where all are, the one furthest away."""
    for hop in reversed(hops):
        if not within(address(hop.node), trusted):
            return hop
    return hops[0]


def _elements(text: str) -> list[Hop]:
    """RFC 7239 4. Raises InvalidInput."""
    hops: list[Hop] = []
    pairs: dict[str, str] = {}
    place = 0
    while place <= len(text):
        found = _PAIR.match(text, place)
        if found is None:
            raise InvalidInput("the header Forwarded cannot be read")
        name, value, end = found.groups()
        if name:
            if name.lower() in pairs:
                raise InvalidInput("the header Forwarded says one thing twice")
            pairs[name.lower()] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        if end != ";":
            if pairs:
                hops.append(Hop(_node(pairs.get("for", "")), pairs.get("proto", "").lower()))
            pairs = {}
        if not end:
            break
        place = found.end()
    return hops


def _node(text: str) -> str:
    """An address in its usual form, without port (`192.0.2.7:80`, `[2001:db8::1]:80`, `2001:db8::1`); else UNKNOWN."""
    text = text.strip()
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::[0-9]{1,5})?", text)
    if bracketed:
        text = bracketed[1] if ":" in bracketed[1] else ""
    elif text.count(":") == 1:
        text = re.sub(r":[0-9]{1,5}$", "", text)
    found = address(text)
    return UNKNOWN if found is None else str(found)
