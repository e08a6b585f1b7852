"""A way out for notifications."""

from __future__ import annotations

from typing import Protocol

from wetread.record.subscriptions.delivery import Delivery


class Sender(Protocol):
    """One for each kind of channel. Sending the same again must be harmless to the peer, or told by `delivery.key`."""

    async def send(self, delivery: Delivery) -> None:
        """Returns when the peer has taken it. Raises PeerUnavailable where it may take it later, and Refused where
        the same will be refused again."""
