"""Many requests to peers, of whose answers only the status counts: notifications. Fenced in as `fetch` is: only to
hosts of the operator's list, and only to the very address that was checked.

By aiohttp, whose parser is compiled: a request takes a fifth of the processor time that httpcore takes for it.
"""

from __future__ import annotations

import io
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from functools import lru_cache

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from wetread.domain.endpoint import AllowedEndpoints, is_written_out
from wetread.errors import PeerUnavailable, Unsupported
from wetread.wire.fetch import Resolver, resolved, trusted
from wetread.wire.tls import Contexts

_DROPPED_BYTES = 64 * 1024
_LARGE_BYTES = 1024 * 1024
_OWN = (("User-Agent", "wetread"), ("Accept-Encoding", "identity"))


class Post:
    """Kept connections to allowed peers. `allowed` is asked before every request and every connection. Redirects,
    proxies and cookies play no part. Close it when done."""

    def __init__(
        self,
        allowed: AllowedEndpoints,
        tls: Contexts | None = None,
        resolve: Resolver | None = None,
        *,
        kept_s: float = 5.0,
    ) -> None:
        """A connection is used again only under the context by which it was opened. `kept_s`: how long one that nobody
        uses stays open."""
        self._allowed = allowed
        self._tls = tls or _always(trusted())
        self._resolver = _Checked(allowed, resolve or resolved)
        self._kept_s = kept_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], content: bytes, timeout_s: float
    ) -> int:
        """The answer's status. `timeout_s` is for all of it.

        Raises Unsupported (the address is not allowed) and PeerUnavailable (no whole answer in time).
        """
        target = _target(url)
        if target.raw_user is not None or target.raw_password is not None:
            raise Unsupported("the endpoint must be an http(s) URL with a host and without a user")
        self._allowed.check_host(target.scheme, target.raw_host or "")
        given = {name.lower() for name, _ in headers}
        own = [(name, value) for name, value in _OWN if name.lower() not in given]
        try:
            async with self._opened().request(
                method,
                target,
                headers=[*own, *headers],
                # Of what is large a piece at a time, so that the other peers are not kept waiting.
                data=io.BytesIO(content) if len(content) > _LARGE_BYTES else content,
                allow_redirects=False,
                ssl=self._tls() if target.scheme == "https" else True,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as answer:
                await _drop(answer)
                return answer.status
        except TimeoutError as error:
            raise PeerUnavailable(f"no whole answer within {timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise PeerUnavailable(f"no answer from the endpoint: {type(error).__name__}") from error

    def _opened(self) -> aiohttp.ClientSession:
        # Not before the first request, since it wants a running loop.
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=self._resolver,
                use_dns_cache=False,
                limit=0,
                keepalive_timeout=self._kept_s,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("Content-Type",),
            )
        return self._session


def _always(context: ssl.SSLContext) -> Contexts:
    return lambda: context


@lru_cache(maxsize=4096)
def _target(url: str) -> URL:
    """As it stands: what is escaped in it stays so."""
    if not is_written_out(url):
        raise Unsupported("the endpoint is not a URL")
    try:
        target = URL(url, encoded=True)
        _ = target.port  # whose form is not looked at before
        return target
    except ValueError as error:
        raise Unsupported("the endpoint is not a URL") from error


async def _drop(answer: aiohttp.ClientResponse) -> None:
    """Read to its end where that is near, so that the connection can be used again."""
    size = 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > _DROPPED_BYTES:
            answer.close()
            break


class _Checked(AbstractResolver):
    """Gives only addresses that were checked, and one of these is connected to: a second answer of the DNS (rebinding)
    has no use. A URL with an address in place of a name does not come here; `check_host` has seen to it."""

    def __init__(self, allowed: AllowedEndpoints, resolve: Resolver) -> None:
        self._allowed = allowed
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises Unsupported where any address is not allowed, OSError where there is none."""
        try:
            addresses = await self._resolve(host, port)
        except UnicodeError as error:
            raise OSError("the name has no address") from error
        for address in addresses:
            self._allowed.check_resolved(host, address)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=_family(address),
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is kept."""


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
