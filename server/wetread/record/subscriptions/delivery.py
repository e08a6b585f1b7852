"""One notification that is to go out, whichever way it takes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from wetread.record.subscriptions.channel import Channel
from wetread.record.subscriptions.notifications import NotifiedEvent, StatusOf


@dataclass(frozen=True, slots=True)
class Delivery:
    """`kind` is handshake, heartbeat or event-notification; only the last has events, in the order of their numbers.
    `at` is the moment that the notification gives as its own; `principal` is on whose behalf it is sent.
    `patient_ids` are those of whom it tells."""

    subscription_id: str
    kind: str
    channel: Channel
    status: StatusOf
    at: datetime
    principal: str
    events: tuple[NotifiedEvent, ...] = ()
    patient_ids: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The same for the same events, however often they are sent; empty where there are none."""
        if not self.events:
            return ""
        first, last = self.events[0].number, self.events[-1].number
        return f"{self.subscription_id}-{first}" if first == last else f"{self.subscription_id}-{first}-{last}"
