"""From the event log to the numbered events of subscriptions.

One process at a time, under the log's cursor: a batch of events and all that it makes are one transaction, so numbers
are gap-free and in the log's order. The cost grows with what matches, not with how many subscriptions there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.record import fhirpath
from wetread.record.events import Event
from wetread.record.search.index import Extraction
from wetread.record.subscriptions import form, keys, rows, undecided
from wetread.record.subscriptions.criteria import Test
from wetread.record.subscriptions.patients import patients_among
from wetread.record.subscriptions.sight import may_see
from wetread.record.subscriptions.topics import Topic
from wetread.store.database import Connection

DUE = "wetread_due"
"""The channel on which the matcher hints that notifications are due."""


class Unreadable(Exception):
    """Nothing was matched: of these subscriptions this version does not understand what they ask for."""

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__(*ids)
        self.ids = ids


@dataclass(slots=True)
class _Subscriber:
    """What of a subscription matching needs. `filters` and `owner` as they are written down."""

    id: str
    topic: str
    criteria: str
    filters: str
    owner: str
    started_seq: int
    ends_at: datetime | None
    count: int
    is_sent: bool
    """Whether what it is given is due at once."""
    tests: tuple[Test, ...] = ()
    reader: Reader | None = None
    """These two as `_understand` reads them."""


@dataclass(slots=True)
class _Change:
    """An event with what it made of its resource. `current` is None after a deletion. Of the versions those search
    parameters are extracted that somebody asks for."""

    event: Event
    current: dict[str, Any] | None
    previous: dict[str, Any] | None
    subject: Extraction
    """Of the version that there is: the current, after a deletion the previous."""
    former: Extraction
    """Of the previous version; the subject where there is none."""
    topics: dict[str, bool] = field(default_factory=dict)
    """Whether those asked so far fire."""
    undecided: dict[str, str] = field(default_factory=dict)
    """Topics whose criterion could not be decided, and why."""
    seen: dict[str, bool] = field(default_factory=dict)
    """Whether the owners asked so far may see it."""

    def fires(self, name: str, topic: Topic) -> bool:
        if name not in self.topics:
            event = self.event
            try:
                fires = topic.fires(event.resource_type, event.kind, self.current, self.previous, self._look)
            except fhirpath.Undecided as error:
                self.undecided[name], fires = str(error), False
            self.topics[name] = fires
        return self.topics[name]

    def _look(self, version: Mapping[str, Any]) -> Extraction:
        return self.former if version is self.previous else self.subject


async def match(conn: Connection, topics: Mapping[str, Topic], base_url: str, found: Sequence[Event]) -> int:
    """Gives the events to the subscriptions that they concern; how many numbered events that makes.

    The caller holds the cursor over the log in the same transaction, and moves it. Raises Unreadable.
    """
    types = {event.resource_type for event in found}
    served = [topic for topic in topics.values() if topic.resource_types & types]
    watched = await keys.watched(conn, served, types)
    relevant = [event for event in found if event.resource_type in watched]
    if not relevant:
        return 0
    changes = await _changes(conn, relevant)
    concerned = await _concerned(conn, changes, watched, topics)
    await undecided.keep(
        conn, [(name, reason, change.event) for change in changes for name, reason in change.undecided.items()]
    )
    subscribers = await _hold(conn, sorted({id_ for ids in concerned for id_ in ids}))
    _understand(subscribers.values(), (base_url, *conn.bases))
    made: list[tuple[_Subscriber, int, _Change]] = []
    for change, ids in zip(changes, concerned, strict=True):
        for subscriber in (subscribers[id_] for id_ in sorted(ids) if id_ in subscribers):
            if _is_for(subscriber, change, topics) and await _is_shown(conn, subscriber, change):
                subscriber.count += 1
                made.append((subscriber, subscriber.count, change))
    if made:
        await _write(conn, made)
    return len(made)


async def _changes(conn: Connection, relevant: Sequence[Event]) -> list[_Change]:
    bodies = await rows.bodies_of(conn, relevant)
    changes = []
    for event in relevant:
        current, previous = bodies.get((event, 0)), bodies.get((event, 1))
        looked_at = [Extraction(version, conn.bases) for version in (current, previous) if version is not None]
        if looked_at:
            changes.append(_Change(event, current, previous, looked_at[0], looked_at[-1]))
    return changes


async def _concerned(
    conn: Connection, changes: Sequence[_Change], watched: keys.Watched, topics: Mapping[str, Topic]
) -> list[set[str]]:
    """For each change the ids of those that it may concern."""
    wanted: dict[str, list[int]] = {}
    for place, change in enumerate(changes):
        resource_type = change.event.resource_type
        for name, params in watched[resource_type].items():
            if name and not change.fires(name, topics[name]):
                continue
            for key in keys.keys_of_version(name, resource_type, change.subject, params):
                wanted.setdefault(key, []).append(place)
    concerned: list[set[str]] = [set() for _ in changes]
    for key, subscription_id in await keys.found_by(conn, wanted) if wanted else ():
        for place in wanted[key]:
            concerned[place].add(subscription_id)
    return concerned


async def _hold(conn: Connection, ids: Sequence[str]) -> dict[str, _Subscriber]:
    """Those of the ids that count events, locked in the order of their ids."""
    if not ids:
        return {}
    found = conn.cursor(row_factory=class_row(_Subscriber))
    await found.execute(
        """
        SELECT id, topic, criteria, filters::text AS filters, owner::text AS owner, started_seq, ends_at,
            events_since_start AS count,
            status = 'active' AND failures = 0 AND channel ->> 'kind' <> 'websocket' AS is_sent
        FROM subscription_state WHERE id = ANY(%s) AND started_seq IS NOT NULL AND status <> 'off'
        ORDER BY id FOR NO KEY UPDATE
        """,
        (list(ids),),
    )
    return {subscriber.id: subscriber for subscriber in await found.fetchall()}


def _understand(subscribers: Iterable[_Subscriber], bases: tuple[str, ...]) -> None:
    """Raises Unreadable, with all that are."""
    unreadable = []
    for subscriber in subscribers:
        try:
            subscriber.tests = _tests(subscriber.filters, bases)
            subscriber.reader = _owner(subscriber.owner)
        except form.NOT_UNDERSTOOD:
            unreadable.append(subscriber.id)
    if unreadable:
        raise Unreadable(unreadable)


@lru_cache(maxsize=20_000)
def _tests(filters: str, bases: tuple[str, ...]) -> tuple[Test, ...]:
    return tuple(form.tests(json.loads(filters), bases))


@lru_cache(maxsize=20_000)
def _owner(owner: str) -> Reader:
    return rows.reader_of(json.loads(owner))


def _is_for(subscriber: _Subscriber, change: _Change, topics: Mapping[str, Topic]) -> bool:
    event = change.event
    if event.seq <= subscriber.started_seq or (subscriber.ends_at is not None and event.at >= subscriber.ends_at):
        return False
    topic = form.topic_of(subscriber.topic, subscriber.criteria, topics)
    if topic is None or not change.fires(subscriber.topic or subscriber.criteria, topic):
        return False
    return passes(subscriber.tests, event.resource_type, change.subject)


def passes(tests: Sequence[Test], resource_type: str, version: Extraction) -> bool:
    """A filter on another type of the topic does not narrow this one."""
    return all(test.passes(version) for test in tests if test.resource_type == resource_type)


async def _is_shown(conn: Connection, subscriber: _Subscriber, change: _Change) -> bool:
    """Whether the event counts: a number would tell a narrowed owner of what it may not see."""
    owner = subscriber.reader
    if owner is None or not owner.may_some("r", change.event.resource_type):
        return True
    if subscriber.owner not in change.seen:
        change.seen[subscriber.owner] = await may_see(conn, owner, change.event, change.current or "")
    return change.seen[subscriber.owner]


async def _write(conn: Connection, made: Sequence[tuple[_Subscriber, int, _Change]]) -> None:
    """The numbered events, and that they are due. Who is due already keeps its place in the queue."""
    told = {change.event.seq: change for _, _, change in made}
    await conn.execute(
        """
        INSERT INTO subscription_event
            (subscription_id, number, seq, resource_type, resource_id, version_id, kind, at, patient_ids)
        SELECT subscription_id, number, seq, resource_type, resource_id, version_id, kind, at,
            string_to_array(patient_ids, ' ')
        FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS made (subscription_id, number, seq)
        JOIN unnest(%s::bigint[], %s::text[]) AS told (seq, patient_ids) USING (seq) JOIN event USING (seq)
        """,
        (
            [subscriber.id for subscriber, _, _ in made],
            [number for _, number, _ in made],
            [change.event.seq for _, _, change in made],
            list(told),
            [" ".join(patients_among(c.event.resource_type, c.event.resource_id, c.subject)) for c in told.values()],
        ),
    )
    counted = {subscriber.id: subscriber for subscriber, _, _ in made}
    await conn.execute(
        """
        UPDATE subscription_state s SET events_since_start = counted.number,
            due_at = CASE WHEN counted.is_sent THEN least(s.due_at, now()) ELSE s.due_at END
        FROM unnest(%s::text[], %s::bigint[], %s::boolean[]) AS counted (id, number, is_sent) WHERE s.id = counted.id
        """,
        (list(counted), [s.count for s in counted.values()], [s.is_sent for s in counted.values()]),
    )
    await conn.execute("SELECT pg_notify(%s, '')", (DUE,))
