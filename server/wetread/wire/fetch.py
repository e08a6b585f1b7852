"""HTTP to peers, fenced in: only to hosts of the operator's list, and only to the very address that was checked.

A name is resolved once for each connection; every address it has is checked and one of them is connected to, so that a
second answer of the DNS (rebinding) has no use. TLS is still for the name: its certificate is verified and sent as SNI.
Proxies and certificate files of the environment, cookies and compressed bodies play no part.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urljoin

import httpcore
import httpx

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import Misconfigured, PeerUnavailable, Refused, Unsupported
from wetread.wire.tls import VERSIONS, Contexts, MinimumVersion, renewed

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host name and port to its addresses. Raises OSError where it has none."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DROPPED_BYTES = 64 * 1024
_KEPT_OPEN_S = 5.0
_NEXT_ADDRESS_AFTER_S = 3.0
_PASSING = frozenset({408, 425, 429})
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


class UnusableAnswer(Refused):
    """The peer answered, but not with what was asked for: a status, a size or a form that will not change."""

    code = "unusable-answer"
    http_status = 502


@dataclass(frozen=True, slots=True)
class Answer:
    url: str
    """Where it came from: after redirects, not where it was asked for."""
    status: int
    headers: httpx.Headers
    content: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """What a JSON resource held, and for how long it may be kept (RFC 9111 5.2.2.1); 0 where the peer does not say."""

    content: Any
    max_age_s: int


def trusted(authority: Path | None = None, minimum: MinimumVersion = "1.3") -> ssl.SSLContext:
    """The public authorities, and the site's own in a PEM file. Raises Misconfigured."""
    context = httpx.create_ssl_context(trust_env=False)
    context.minimum_version = VERSIONS[minimum]
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise Misconfigured(f"outbound.authority: {authority} holds no certificates in PEM") from error
    return context


def trusted_contexts(authority: Path | None = None, minimum: MinimumVersion = "1.3") -> Contexts:
    """The same, of the file as it is at the next connection. Raises Misconfigured."""
    return renewed(lambda: trusted(authority, minimum), (authority,))


class Fetch:
    """Kept connections to allowed peers. `allowed` is asked before every request, connection and redirect. Close it
    when done."""

    def __init__(
        self,
        allowed: AllowedEndpoints,
        context: ssl.SSLContext | None = None,
        resolve: Resolver | None = None,
    ) -> None:
        backend = _Pinned(allowed, resolve or resolved)
        pool = httpcore.AsyncConnectionPool(
            context or trusted(),
            network_backend=backend,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=_KEPT_OPEN_S,
        )
        self.transport = _Guarded(allowed, pool)
        """For a library that brings its own client on httpx. It follows no redirect by itself."""

    async def close(self) -> None:
        await self.transport.aclose()

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        content: bytes = b"",
        limit_bytes: int | None,
        timeout_s: float,
        redirects: int = 0,
    ) -> Answer:
        """`timeout_s` is for all of it, redirects included. At most `redirects` are followed, of a GET only. With
        `limit_bytes` None the answer's body is not wanted, whatever it is.

        Raises Unsupported (the address, or one that it redirects to, is not allowed), PeerUnavailable (no whole answer
        in time) and UnusableAnswer (too large, compressed, or redirected too often).
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    answer = await self._once(method, url, headers, content, limit_bytes)
                    if answer.status not in _REDIRECTS or method != "GET" or redirects == 0:
                        return answer
                    url = _onward(answer)
                    redirects -= 1
        except TimeoutError as error:
            raise PeerUnavailable(f"no whole answer within {timeout_s:g} s") from error
        except httpx.TransportError as error:
            raise PeerUnavailable(f"no answer from the endpoint: {type(error).__name__}") from error
        except httpx.InvalidURL as error:
            raise Unsupported("the endpoint is not a URL") from error

    async def get_json(self, url: str, *, limit_bytes: int, timeout_s: float, redirects: int = 0) -> Document:
        """Raises Unsupported, PeerUnavailable (also 408, 425, 429 and 5xx) and UnusableAnswer (not 200, not JSON)."""
        accept = [("Accept", "application/json, application/jwk-set+json;q=0.9")]
        answer = await self.send(
            "GET", url, headers=accept, limit_bytes=limit_bytes, timeout_s=timeout_s, redirects=redirects
        )
        if answer.status >= 500 or answer.status in _PASSING:
            raise PeerUnavailable(f"the endpoint answered {answer.status}")
        if answer.status != 200:
            raise UnusableAnswer(f"the endpoint answered {answer.status} where a document was expected")
        try:
            return Document(json.loads(answer.content), max_age_s(answer.headers))
        except (ValueError, RecursionError) as error:
            raise UnusableAnswer("the endpoint's answer is not JSON") from error

    async def _once(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], content: bytes, limit_bytes: int | None
    ) -> Answer:
        own = [("User-Agent", "wetread"), ("Accept-Encoding", "identity")]
        request = httpx.Request(method, url, headers=[*own, *headers], content=content or None)
        answer = await self.transport.handle_async_request(request)
        try:
            body = await (_dropped(answer) if limit_bytes is None else _body(answer, limit_bytes))
            return Answer(url, answer.status_code, answer.headers, body)
        finally:
            await answer.aclose()


def max_age_s(headers: Mapping[str, str]) -> int:
    """Seconds that an answer may be kept; 0 with no-store, no-cache or no max-age (RFC 9111 5.2.2)."""
    control = headers.get("cache-control", "").lower()
    found = _MAX_AGE.search(control)
    if found is None or "no-store" in control or "no-cache" in control:
        return 0
    return int(found[1])


async def resolved(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, as the system finds them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _body(answer: httpx.Response, limit_bytes: int) -> bytes:
    # A small compressed body can become an enormous one, so none is taken.
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise UnusableAnswer("the endpoint's answer is compressed, which was not asked for")
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > limit_bytes:
            raise UnusableAnswer(f"the endpoint's answer has more than {limit_bytes} bytes")
    return bytes(body)


async def _dropped(answer: httpx.Response) -> bytes:
    """Read to its end where that is near, so that the connection can be used again."""
    size = 0
    async for chunk in answer.aiter_raw():
        size += len(chunk)
        if size > _DROPPED_BYTES:
            break
    return b""


def _onward(answer: Answer) -> str:
    location = answer.headers.get("location", "")
    if not location:
        raise UnusableAnswer(f"the endpoint answered {answer.status} without a location")
    try:
        onward: str = urljoin(answer.url, location)
    except ValueError as error:
        raise Unsupported("the endpoint redirects to what is not a URL") from error
    if answer.url.startswith("https:") and not onward.startswith("https:"):
        raise Unsupported("the endpoint redirects from https to something weaker")
    return onward


class _Guarded(httpx.AsyncBaseTransport):
    """httpx over a pool whose connections are pinned."""

    def __init__(self, allowed: AllowedEndpoints, pool: httpcore.AsyncConnectionPool) -> None:
        self._allowed = allowed
        self._pool = pool

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises Unsupported and httpx.TransportError."""
        url = request.url
        if url.userinfo:
            raise Unsupported("the endpoint must be an http(s) URL with a host and without a user")
        self._allowed.check_host(url.scheme, url.raw_host.decode("ascii"))
        onward = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            answer = await self._pool.handle_async_request(onward)
        except _HTTPCORE as error:
            raise _as_httpx(error) from error
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions, request=request
        )


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> Any:
        try:
            async for part in self._answer.aiter_stream():
                yield part
        except _HTTPCORE as error:
            raise _as_httpx(error) from error

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Pinned(httpcore.AsyncNetworkBackend):
    """Opens a connection to an address that was checked. httpcore starts TLS on it for the name in the URL."""

    def __init__(self, allowed: AllowedEndpoints, resolve: Resolver) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the name that httpcore gives it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises Unsupported where any address of the host is not allowed, httpcore.ConnectError where none answers."""
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the name of the endpoint has no address") from error
        for address in addresses:
            self._allowed.check_resolved(host, address)
        failure: Exception = httpcore.ConnectError("the name of the endpoint has no address")
        for address in addresses:
            # One that is silent, such as an IPv6 address that no router knows, leaves time for the next.
            patience_s = timeout if address == addresses[-1] else _NEXT_ADDRESS_AFTER_S
            try:
                return await self._sockets.connect_tcp(address, port, patience_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


_HTTPCORE = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


def _as_httpx(error: Exception) -> httpx.TransportError:
    """The two libraries name their errors alike."""
    kind: type[httpx.TransportError] = getattr(httpx, type(error).__name__, httpx.TransportError)
    return kind(str(error))
