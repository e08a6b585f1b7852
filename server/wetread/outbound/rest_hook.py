"""The rest-hook: a notification Bundle, posted (Backport IG 1.1 channels.html#rest-hook). A criteria-based subscription
gets an empty POST, or with a payload the resource as an update (FHIR R4 valueset-subscription-channel-type.html)."""

from __future__ import annotations

from wetread.outbound.endpoints import Poster
from wetread.record.aside import aside
from wetread.record.subscriptions.channel import XML
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.notifications import BY_CRITERIA, notification, resource_requests
from wetread.record.xml_form import to_xml


class RestHook:
    def __init__(self, poster: Poster, base_url: str) -> None:
        self._poster = poster
        self._base_url = base_url

    async def send(self, delivery: Delivery) -> None:
        """Raises PeerUnavailable, RefusedByPeer (PeerGone among it), Unsupported, and NotAcceptable where XML was asked
        for and cannot hold it."""
        channel = delivery.channel
        if channel.content in BY_CRITERIA:
            for request in resource_requests(channel.endpoint, channel.content, delivery.events):
                await self._send(delivery, request.method, request.url, request.body)
            return
        body = notification(self._base_url, delivery.kind, delivery.status, delivery.at, delivery.events)
        await self._send(delivery, "POST", channel.endpoint, body)

    async def _send(self, delivery: Delivery, method: str, url: str, body: bytes) -> None:
        channel = delivery.channel
        if body and channel.content_type.lower().startswith(XML):
            text = body.decode()
            body = (await aside(len(text), lambda: to_xml(text))).encode()
        headers = [*channel.headers, ("Content-Type", channel.content_type)] if body else [*channel.headers]
        if delivery.key:
            headers.append(("Idempotency-Key", delivery.key))
        await self._poster.post(url, body, headers, channel.timeout_s, method)
