"""What sends notifications: the matcher, the deliverer, and a way out for each kind of channel."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from wetread.app.ways import Ways
from wetread.outbound.deliverer import Deliverer
from wetread.outbound.mllp_channel import Messages
from wetread.outbound.notify import Matcher
from wetread.record.subscriptions.claims import Patience
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.settings import Settings
from wetread.store.database import Database


class Notifying:
    """For the role notify. Close it when done."""

    def __init__(
        self, settings: Settings, database: Database, subscriptions: Subscriptions, messages: Messages
    ) -> None:
        wanted = settings.subscriptions
        patience = Patience(timedelta(hours=wanted.retry_for_hours), timedelta(minutes=wanted.refused_for_minutes))
        self._ways = Ways(settings, database, messages)
        self._matcher = Matcher(database, subscriptions)
        self._deliverer = Deliverer(
            database,
            subscriptions,
            self._ways.senders,
            patience,
            wanted.concurrency,
            timedelta(days=wanted.keep_days),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Matches and delivers until `stop`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._matcher.run(stop))
            group.create_task(self._deliverer.run(stop))

    async def close(self) -> None:
        await self._ways.close()
