"""Those who were answered 429, on record by count: one AuditEvent for each address and minute."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from wetread.errors import WetreadError
from wetread.record.audit import audit
from wetread.store.database import Database

logger = logging.getLogger(__name__)

_AFTER_S = 60.0
_MOST_KEPT = 5_000
_ELSEWHERE = "elsewhere"


class TurnedAway:
    """Counts who was answered 429, and puts it on record a minute after the first."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._waiting: dict[tuple[str, str], _Count] = {}

    def count(self, where: str, principal: str) -> None:
        key = (where, principal)
        if key not in self._waiting and len(self._waiting) >= _MOST_KEPT:
            key = (_ELSEWHERE, "anonymous")
        self._waiting.setdefault(key, _Count(self._clock(), datetime.now(UTC))).number += 1

    async def record(self, *, all_of_them: bool = False) -> None:
        due_before = self._clock() - _AFTER_S
        due = {key: told for key, told in self._waiting.items() if all_of_them or told.began <= due_before}
        if not due:
            return
        for key in due:
            del self._waiting[key]
        try:
            async with self._database.transaction() as conn:
                for (where, principal), told in due.items():
                    await audit.write(conn, _entry(where, principal, told))
        except WetreadError as error:
            logger.error("%d refusals could not be put on record yet: %s", len(due), error.code)
            self._keep(due)

    def _keep(self, due: dict[tuple[str, str], _Count]) -> None:
        for key, told in due.items():
            newer = self._waiting.get(key)
            if newer is not None:
                told.number += newer.number
            self._waiting[key] = told


@dataclass(slots=True)
class _Count:
    began: float
    at: datetime
    number: int = 0


def _entry(where: str, principal: str, told: _Count) -> audit.AuditEntry:
    return audit.AuditEntry(
        kind="request-refused",
        action="E",
        outcome="4",
        outcome_text="too many requests",
        principal=principal,
        network=where,
        detail={"status": "429", "count": str(told.number), "since": told.at.isoformat(timespec="seconds")},
    )
