"""What the operator has set for the endpoints of subscriptions: a key to sign with, our certificate to show."""

from __future__ import annotations

import base64
import hmac
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from wetread.wire.tls import Contexts

_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`url` is what addresses start with: scheme, host and port are theirs, its path is that of a folder or the whole.
    `secret` signs bodies; empty: nothing does. `tls` is for connections to it."""

    url: str
    secret: bytes = field(default=b"", repr=False)
    tls: Contexts | None = None


@dataclass(frozen=True, slots=True)
class Endpoints:
    known: Sequence[Endpoint] = ()

    def of(self, url: str) -> Endpoint | None:
        """The one with the longest path that the address lies in."""
        fitting = [each for each in self.known if _lies_in(urlsplit(url), urlsplit(each.url))]
        return max(fitting, key=lambda each: len(urlsplit(each.url).path), default=None)


def _lies_in(url: SplitResult, prefix: SplitResult) -> bool:
    if (url.scheme, url.hostname, _port(url)) != (prefix.scheme, prefix.hostname, _port(prefix)):
        return False
    folder = prefix.path.rstrip("/")
    return url.path == folder or url.path.startswith(f"{folder}/") or not folder


def _port(url: SplitResult) -> int | None:
    return url.port or _PORTS.get(url.scheme)


def signature(secret: bytes, message_id: str, at: datetime, body: bytes) -> tuple[tuple[str, str], ...]:
    """The headers of Standard Webhooks 1.0: HMAC-SHA256 over id, time in seconds and body. The receiver refuses a time
    that is far from its own, and an id that it has had, so that what was overheard cannot be sent again."""
    seconds = str(int(at.timestamp()))
    signed = b".".join((message_id.encode(), seconds.encode(), body))
    code = base64.b64encode(hmac.digest(secret, signed, sha256)).decode()
    return (("webhook-id", message_id), ("webhook-timestamp", seconds), ("webhook-signature", f"v1,{code}"))


class Poster(Protocol):
    async def post(
        self, url: str, body: bytes, headers: Sequence[tuple[str, str]], timeout_s: float, method: str = "POST"
    ) -> None:
        """As `HttpPoster.post`."""


class EndpointPoster:
    """Posts as the operator has set it for the endpoint: signed, and over TLS with our certificate."""

    def __init__(
        self,
        usual: Poster,
        endpoints: Endpoints,
        over: Callable[[Contexts], Poster],
        now: Callable[[], datetime],
    ) -> None:
        """`over` gives the poster that uses such TLS."""
        self._usual = usual
        self._endpoints = endpoints
        self._posters = {each.url: over(each.tls) for each in endpoints.known if each.tls is not None}
        self._now = now

    async def post(
        self, url: str, body: bytes, headers: Sequence[tuple[str, str]], timeout_s: float, method: str = "POST"
    ) -> None:
        """Raises what `HttpPoster.post` raises."""
        endpoint = self._endpoints.of(url)
        if endpoint is None:
            await self._usual.post(url, body, headers, timeout_s, method)
            return
        if endpoint.secret:
            keys = [value for name, value in headers if name == "Idempotency-Key"]
            headers = [*headers, *signature(endpoint.secret, keys[0] if keys else str(uuid.uuid4()), self._now(), body)]
        await self._posters.get(endpoint.url, self._usual).post(url, body, headers, timeout_s, method)
