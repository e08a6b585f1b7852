"""One HTTP POST to a peer: inside the operator's list of hosts, without redirects, proxies or cookies."""

from __future__ import annotations

from collections.abc import Sequence

from wetread.errors import PeerUnavailable, Refused
from wetread.wire.post import Post

_PASSING = frozenset({408, 425, 429})


class RefusedByPeer(Refused):
    """The peer answered with a status that will not change: sending the same again is of no use."""

    code = "refused-by-peer"
    http_status = 502


class PeerGone(RefusedByPeer):
    """The peer says that this address is no more, and that no other is known (RFC 9110 15.5.11)."""


class HttpPoster:
    def __init__(self, peers: Post) -> None:
        self._peers = peers

    async def post(
        self, url: str, body: bytes, headers: Sequence[tuple[str, str]], timeout_s: float, method: str = "POST"
    ) -> None:
        """Returns when the peer answered 2xx.

        Raises PeerUnavailable (no answer in time, 408, 425, 429, 5xx) and RefusedByPeer (anything else, a
        410 as PeerGone); Unsupported where the address is not allowed.
        """
        status = await self._peers.send(method, url, headers, body, timeout_s)
        if 200 <= status < 300:
            return
        if status >= 500 or status in _PASSING:
            raise PeerUnavailable(f"the endpoint answered {status}; it is tried again")
        if status == 410:
            raise PeerGone("the endpoint answered 410: it is gone")
        raise RefusedByPeer(f"the endpoint answered {status}; it must answer 2xx")
