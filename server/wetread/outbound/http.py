"""One HTTP POST to a peer: inside the operator's list of hosts, without redirects, proxies or cookies."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import PeerUnavailable, Refused

_PASSING = frozenset({408, 425, 429})


class RefusedByPeer(Refused):
    """The peer answered with a status that will not change: sending the same again is of no use."""

    code = "refused-by-peer"
    http_status = 502


class HttpPoster:
    """Posts over kept connections. `allowed` is asked again before every request: the list may have changed since the
    address was accepted. Close it when done."""

    def __init__(self, allowed: AllowedEndpoints) -> None:
        self._allowed = allowed
        self._client = httpx.AsyncClient(follow_redirects=False, trust_env=False)

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, url: str, body: bytes, headers: Sequence[tuple[str, str]], timeout_s: float) -> None:
        """Returns when the peer answered 2xx.

        Raises PeerUnavailable (no answer in time, 408, 425, 429, 5xx) and RefusedByPeer (anything else); Unsupported
        where the address is not allowed.
        """
        self._allowed.check(url)
        try:
            async with self._client.stream(
                "POST", url, content=body, headers=list(headers), timeout=timeout_s
            ) as answer:
                status = answer.status_code
        except httpx.TransportError as error:
            raise PeerUnavailable(f"no answer from the endpoint: {type(error).__name__}") from error
        if 200 <= status < 300:
            return
        if status >= 500 or status in _PASSING:
            raise PeerUnavailable(f"the endpoint answered {status}; it is tried again")
        raise RefusedByPeer(f"the endpoint answered {status}; it must answer 2xx")
