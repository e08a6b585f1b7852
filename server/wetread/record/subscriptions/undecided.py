"""Changes that a topic's FHIRPath criterion could not be decided for: no event, and operators are told."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.record.events import Event
from wetread.record.subscriptions.overview import require_operator
from wetread.store.database import Connection

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FailedCriterion:
    """Of one topic: how many changes, and the last of them with the reason."""

    topic: str
    changes: int
    reason: str
    resource_type: str
    resource_id: str
    version_id: int
    last_at: datetime


async def keep(conn: Connection, found: Sequence[tuple[str, str, Event]]) -> None:
    """Counts them: topic, reason and change of each, in the order of the log. The log of the server names a topic once
    a minute."""
    if not found:
        return
    last = {topic: (reason, event) for topic, reason, event in found}
    counts = {topic: sum(topic == each for each, _, _ in found) for topic in last}
    told = await conn.execute(
        """
        INSERT INTO topic_undecided AS former
            (topic, changes, reason, resource_type, resource_id, version_id, last_at, told_at)
        SELECT made.*, now() FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[],
            %s::timestamptz[]) AS made
        ON CONFLICT (topic) DO UPDATE SET changes = former.changes + excluded.changes, reason = excluded.reason,
            resource_type = excluded.resource_type, resource_id = excluded.resource_id,
            version_id = excluded.version_id, last_at = excluded.last_at, told_at = CASE
                WHEN former.told_at NOT BETWEEN now() - interval '1 minute' AND now() THEN now() ELSE former.told_at END
        RETURNING topic, reason, changes, told_at = now()
        """,
        (
            list(last),
            list(counts.values()),
            [reason for reason, _ in last.values()],
            [event.resource_type for _, event in last.values()],
            [event.resource_id for _, event in last.values()],
            [event.version_id for _, event in last.values()],
            [event.at for _, event in last.values()],
        ),
    )
    for topic, reason, changes, is_due in await told.fetchall():
        if is_due:
            logger.warning("the criterion of %s could not be decided (%s); %d changes so far", topic, reason, changes)


async def forget_others(conn: Connection, topics: Collection[str]) -> None:
    """Of all topics but these, which are served."""
    await conn.execute("DELETE FROM topic_undecided WHERE topic <> ALL (%s)", (list(topics),))


async def all_of(conn: Connection) -> list[FailedCriterion]:
    """For the server's metrics."""
    found = conn.cursor(row_factory=class_row(FailedCriterion))
    await found.execute(
        """SELECT topic, changes, reason, resource_type, resource_id, version_id, last_at FROM topic_undecided
           ORDER BY topic"""
    )
    return await found.fetchall()


async def for_operators(conn: Connection, reader: Reader) -> list[FailedCriterion]:
    """Raises Forbidden."""
    require_operator(reader)
    return await all_of(conn)
