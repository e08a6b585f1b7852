"""One HTTP POST to a peer: inside the operator's list of hosts, without redirects, proxies or cookies."""

from __future__ import annotations

from collections.abc import Sequence

from wetread.errors import PeerUnavailable, Refused
from wetread.wire.fetch import Fetch

_PASSING = frozenset({408, 425, 429})


class RefusedByPeer(Refused):
    """The peer answered with a status that will not change: sending the same again is of no use."""

    code = "refused-by-peer"
    http_status = 502


class PeerGone(RefusedByPeer):
    """The peer says that this address is no more, and that no other is known (RFC 9110 15.5.11)."""


class HttpPoster:
    """Posts by `fetch`, which is asked before every request: its list may have changed since the address was
    accepted."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def post(
        self, url: str, body: bytes, headers: Sequence[tuple[str, str]], timeout_s: float, method: str = "POST"
    ) -> None:
        """Returns when the peer answered 2xx.

        Raises PeerUnavailable (no answer in time, 408, 425, 429, 5xx) and RefusedByPeer (anything else, a
        410 as PeerGone); Unsupported where the address is not allowed.
        """
        answer = await self._fetch.send(
            method, url, headers=headers, content=body, limit_bytes=None, timeout_s=timeout_s
        )
        if 200 <= answer.status < 300:
            return
        if answer.status >= 500 or answer.status in _PASSING:
            raise PeerUnavailable(f"the endpoint answered {answer.status}; it is tried again")
        if answer.status == 410:
            raise PeerGone("the endpoint answered 410: it is gone")
        raise RefusedByPeer(f"the endpoint answered {answer.status}; it must answer 2xx")
