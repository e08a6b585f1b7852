"""Those who were turned away before any work, on record by count: one AuditEvent for each address, door and minute."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from wetread.domain.networks import address
from wetread.errors import WetreadError
from wetread.record.audit import audit
from wetread.store.database import Database

logger = logging.getLogger(__name__)

_Key: TypeAlias = tuple[str, int | str, str]
"""Whence, the status or the listener, who."""
_AFTER_S = 60.0
_LOOKS_EVERY_S = 5.0
_MOST_KEPT = 5_000
_ELSEWHERE = "elsewhere"
_WHY = {400: "forwarded addresses in doubt", 403: "network not allowed", 429: "too many requests"}


class TurnedAway:
    """Counts who was answered what, and puts it on record a minute after the first. Let `run` run beside it."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._waiting: dict[_Key, _Count] = {}

    def count(self, where: str, status: int, principal: str = "anonymous") -> None:
        """`where` is an address or network, `status` what was answered."""
        self._add((where, status, principal), _WHY.get(status, ""))

    def at_listener(self, listener: str, where: str, why: str) -> None:
        """`where` is the address of who was not let in, `why` what is told of the first in a minute."""
        self._add((network(where), listener, "anonymous"), why)

    def _add(self, key: _Key, why: str) -> None:
        if key not in self._waiting and len(self._waiting) >= _MOST_KEPT:
            key = (_ELSEWHERE, key[1], "anonymous")
        self._waiting.setdefault(key, _Count(self._clock(), datetime.now(UTC), why)).number += 1

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, and then what is left."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOKS_EVERY_S)
            await self.record(all_of_them=stop.is_set())

    async def record(self, *, all_of_them: bool = False) -> None:
        due_before = self._clock() - _AFTER_S
        due = {key: told for key, told in self._waiting.items() if all_of_them or told.began <= due_before}
        if not due:
            return
        for key in due:
            del self._waiting[key]
        try:
            async with self._database.transaction() as conn:
                for key, told in due.items():
                    await audit.write(conn, _entry(key, told))
        except WetreadError as error:
            logger.error("%d refusals could not be put on record yet: %s", len(due), error.code)
            self._keep(due)

    def _keep(self, due: dict[_Key, _Count]) -> None:
        for key, told in due.items():
            newer = self._waiting.get(key)
            if newer is not None:
                told.number += newer.number
            self._waiting[key] = told


@dataclass(slots=True)
class _Count:
    began: float
    at: datetime
    why: str
    number: int = 0


def network(text: str) -> str:
    """An address, of IPv6 the /64 network: what one machine has."""
    found = address(text)
    if found is not None and found.version == 6:
        return str(found.exploded[:19]) + "::/64"
    return str(found) if found is not None else text


def _entry(key: _Key, told: _Count) -> audit.AuditEntry:
    where, what, principal = key
    is_request = isinstance(what, int)
    return audit.AuditEntry(
        kind="request-refused" if is_request and what != 403 else "access-denied",
        action="E",
        outcome="4",
        outcome_text=told.why,
        principal=principal,
        network=where,
        detail={
            "status" if is_request else "listener": str(what),
            "count": str(told.number),
            "since": told.at.isoformat(timespec="seconds"),
        },
    )
