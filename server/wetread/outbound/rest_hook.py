"""The rest-hook: a notification Bundle, posted (Backport IG 1.1 channels.html#rest-hook). A criteria-based subscription
without a payload gets an empty POST (FHIR R4 subscription.html#rest-hook)."""

from __future__ import annotations

from wetread.outbound.endpoints import Poster
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.notifications import notification


class RestHook:
    def __init__(self, poster: Poster, base_url: str) -> None:
        self._poster = poster
        self._base_url = base_url

    async def send(self, delivery: Delivery) -> None:
        """Raises PeerUnavailable, RefusedByPeer (PeerGone among it) and Unsupported."""
        channel = delivery.channel
        headers = [*channel.headers, ("Content-Type", channel.content_type)]
        if delivery.key:
            headers.append(("Idempotency-Key", delivery.key))
        body = notification(self._base_url, delivery.kind, delivery.status, delivery.at, delivery.events)
        await self._poster.post(channel.endpoint, body, headers, channel.timeout_s)
