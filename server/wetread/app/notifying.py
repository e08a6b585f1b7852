"""What sends notifications: the matcher, the deliverer, and a way out for each kind of channel."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

from wetread.domain.endpoint import AllowedEndpoints
from wetread.outbound.deliverer import Deliverer
from wetread.outbound.http import HttpPoster
from wetread.outbound.notify import Matcher
from wetread.outbound.rest_hook import RestHook
from wetread.outbound.sender import Sender
from wetread.record.subscriptions.claims import Patience
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.settings import Settings
from wetread.store.database import Database
from wetread.wire.fetch import Fetch, Keeping, trusted


class Notifying:
    """For the role notify. Close it when done."""

    def __init__(self, settings: Settings, database: Database, subscriptions: Subscriptions) -> None:
        wanted = settings.subscriptions
        patience = Patience(timedelta(hours=wanted.retry_for_hours), timedelta(minutes=wanted.refused_for_minutes))
        # Not the connections of others, and as many as there are turns: peers that hang hold them.
        self._fetch = Fetch(
            AllowedEndpoints.parse(settings.outbound.allow, plain=settings.outbound.plain),
            trusted(settings.outbound.authority, settings.outbound.minimum_version),
            keeping=Keeping(most_open=None, most_idle=4 * wanted.concurrency, idle_s=30.0),
        )
        self._matcher = Matcher(database, subscriptions)
        self._deliverer = Deliverer(
            database,
            subscriptions,
            self._senders(settings),
            patience,
            wanted.concurrency,
            timedelta(days=wanted.keep_days),
        )

    def _senders(self, settings: Settings) -> Mapping[str, Sender]:
        return {"rest-hook": RestHook(HttpPoster(self._fetch), settings.fhir_base)}

    async def run(self, stop: asyncio.Event) -> None:
        """Matches and delivers until `stop`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._matcher.run(stop))
            group.create_task(self._deliverer.run(stop))

    async def close(self) -> None:
        await self._fetch.close()
