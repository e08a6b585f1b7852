"""The message channel: the notification Bundle inside a FHIR message, to another FHIR server's `$process-message`
(Backport IG 1.1 channels.html#fhir-messaging; FHIR R4 messaging.html)."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlsplit

from wetread.domain.codes import WETREAD
from wetread.outbound.endpoints import Poster
from wetread.record import lossless
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.notifications import notification

_NAMES = uuid.UUID("0c5b9f2e-4f1d-5d8a-9f63-2a7f6d1f9f10")
_EVENT = {"system": WETREAD, "code": "subscription-notification", "display": "Notification of a subscription"}


class MessageChannel:
    def __init__(self, poster: Poster, base_url: str) -> None:
        self._poster = poster
        self._base_url = base_url

    async def send(self, delivery: Delivery) -> None:
        """The endpoint is the base URL of the other server. Raises as `HttpPoster.post`."""
        channel = delivery.channel
        headers = [*channel.headers, ("Content-Type", channel.content_type)]
        if delivery.key:
            headers.append(("Idempotency-Key", delivery.key))
        base = urlsplit(channel.endpoint)
        url = base._replace(path=f"{base.path.rstrip('/')}/$process-message").geturl()
        await self._poster.post(url, message(self._base_url, delivery), headers, channel.timeout_s)


def message(base_url: str, delivery: Delivery) -> bytes:
    """A Bundle of type message (R4 bundle.html#message): its header first, then the notification, which is its focus.
    The same delivery gives the same bytes, `Bundle.id` among them, by which a receiver knows a repetition (R4
    messaging.html#reliable)."""
    told = notification(base_url, delivery.kind, delivery.status, delivery.at, delivery.events).decode()
    inner = lossless.parse(told)
    numbers = delivery.key or f"{delivery.subscription_id}-{delivery.kind}-{delivery.status.count}"
    key = f"{base_url}|{numbers}|{delivery.at.isoformat()}"
    bundle_id, header_id = (str(uuid.uuid5(_NAMES, f"{part}|{key}")) for part in ("bundle", "header"))
    focus = f"urn:uuid:{inner['id']}"
    header: dict[str, Any] = {
        "resourceType": "MessageHeader",
        "id": header_id,
        "eventCoding": _EVENT,
        "destination": [{"endpoint": delivery.channel.endpoint}],
        "source": {"name": "Wetread", "endpoint": base_url},
        "focus": [{"reference": focus}],
    }
    head = {"resourceType": "Bundle", "id": bundle_id, "type": "message", "timestamp": inner["timestamp"]}
    first = lossless.dump({"fullUrl": f"urn:uuid:{header_id}", "resource": header})
    # The notification's own text, so that what it holds stays byte for byte.
    second = f'{{"fullUrl":{lossless.dump(focus)},"resource":{told}}}'
    return f'{lossless.dump(head)[:-1]},"entry":[{first},{second}]}}'.encode()
