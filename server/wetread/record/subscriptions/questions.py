"""What may be asked of subscriptions: their status, and their events once more (Backport IG 1.1 $status, $events).

Asked by who may read the Subscription and either owns it or looks after the server. Of an event nobody is told more
than its own rights allow at this moment, whatever the subscription was told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, LiteralString
from urllib.parse import urlencode

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.errors import Forbidden, InvalidInput, NotFound
from wetread.record import former, resources
from wetread.record.compartment import visible, visible_of
from wetread.record.condition import TRUE
from wetread.record.resources import Version
from wetread.record.subscriptions import rows
from wetread.record.subscriptions.channel import CONTENTS
from wetread.record.subscriptions.notifications import NotifiedEvent, notification, status_bundle
from wetread.record.subscriptions.rows import State
from wetread.record.subscriptions.shapes import with_context
from wetread.record.subscriptions.topics import Topic
from wetread.store.database import Connection

MOST_EVENTS = 1000
"""In one answer of `$events`."""
MOST_CHARACTERS = 16 * 1024 * 1024
"""Of the resources in one answer, the last of which may go beyond."""

_AT_ONCE = 100
_STATUSES = ("requested", "active", "error", "off")
_OPERATORS = frozenset({"administrator", "engineer"})
_CONTENT_OF = {"ping": "empty", "resource": "full-resource"}
_FROM: LiteralString = """
    FROM subscription_state s JOIN resource r ON r.resource_type = 'Subscription' AND r.id = s.id
    WHERE NOT r.deleted AND (%s::text[] = '{}' OR s.id = ANY (%s)) AND (%s::text[] = '{}' OR s.status = ANY (%s)) AND (
"""


@dataclass(frozen=True, slots=True)
class Told:
    """An answer, and the patients of whom it tells."""

    body: bytes
    patient_ids: tuple[str, ...] = ()


def may_ask(reader: Reader, owner: Mapping[str, Any]) -> bool:
    """Whether a subscription is the caller's own, or the caller's to look after."""
    if owner["principal"] == reader.principal or reader.roles & _OPERATORS:
        return True
    return any(scope.level == "system" for scope in reader.opening("r", "Subscription"))


async def state(conn: Connection, reader: Reader, subscription_id: str) -> State:
    """Of one subscription. Raises Forbidden, NotFound, Gone."""
    await resources.read(conn, reader, "Subscription", subscription_id)
    found = await rows.state_of(conn, subscription_id)
    if found is None:
        raise NotFound("no such subscription; its resource was not written by way of this API")
    if not may_ask(reader, found.owner):
        raise Forbidden("a subscription is asked about by its owner, and by who looks after the server")
    return found


async def states(
    conn: Connection, reader: Reader, ids: Sequence[str] = (), statuses: Sequence[str] = ()
) -> list[State]:
    """Those of `ids` with one of `statuses` that the caller may ask about; empty means all. Raises Forbidden."""
    reader.require_some("r", "Subscription")
    seen = visible(reader, "Subscription", "r")
    found = conn.cursor(row_factory=class_row(State))
    args = (list(ids), list(ids), list(statuses), list(statuses), *seen.args)
    await found.execute("SELECT " + rows.COLUMNS + _FROM + seen.sql + ") ORDER BY s.id", args)
    return [each for each in await found.fetchall() if may_ask(reader, each.owner)]


async def status(
    conn: Connection, reader: Reader, base_url: str, ids: Sequence[str] = (), statuses: Sequence[str] = ()
) -> Told:
    """What `Subscription/$status` answers, a searchset Bundle. Raises Forbidden, InvalidInput."""
    if not set(statuses) <= set(_STATUSES):
        raise InvalidInput(f"status is one of {', '.join(_STATUSES)}", location="http.status")
    return Told(status_bundle(base_url, [each.told() for each in await states(conn, reader, ids, statuses)]))


async def status_of_one(conn: Connection, reader: Reader, base_url: str, subscription_id: str) -> Told:
    """The same at instance level. Raises Forbidden, NotFound, Gone."""
    return Told(status_bundle(base_url, [(await state(conn, reader, subscription_id)).told()]))


async def events(
    conn: Connection,
    reader: Reader,
    base_url: str,
    subscription_id: str,
    since: int = 1,
    until: int | None = None,
    content: str = "",
    topics: Mapping[str, Topic] = MappingProxyType({}),
) -> Told:
    """What `$events` answers, a history Bundle: the events numbered from `since` to `until`, both included, with what
    the notification shapes of `topics` let go along.

    At most MOST_EVENTS; a link to the next says so. Where `content` is empty, it is that of the subscription. Of what
    the caller may not read only the number is told. Raises Forbidden, NotFound, Gone, InvalidInput.
    """
    if content and content not in CONTENTS:
        raise InvalidInput(f"content is one of {', '.join(CONTENTS)}", location="http.content")
    asked = await state(conn, reader, subscription_id)
    level = content or _CONTENT_OF.get(asked.channel["content"], asked.channel["content"])
    topic = topics.get(asked.topic)
    sent: list[NotifiedEvent] = []
    patients: set[str] = set()
    last = asked.events_since_start if until is None else min(until, asked.events_since_start)
    size, at = 0, since
    while at <= last and len(sent) < MOST_EVENTS and size < MOST_CHARACTERS:
        found = await rows.numbered(conn, subscription_id, at, last, limit=_AT_ONCE, with_bodies=level != "empty")
        shown = await _seen(conn, reader, [event for event, _ in found]) if level != "empty" else [False] * len(found)
        page: list[NotifiedEvent] = []
        for (event, patient_ids), is_told in zip(found, shown, strict=True):
            body = event.body if is_told and level == "full-resource" else ""
            page.append(replace(event, body=body, is_told=is_told))
            patients |= set(patient_ids) if is_told else set()
        if topic is not None and topic.shape:
            page = await with_context(conn, reader, topic, page)
        for event in page:
            size += len(event.body) + sum(len(each.body) for each in event.context)
            patients |= {patient_id for each in event.context for patient_id in each.patient_ids}
        sent += page
        at = found[-1][0].number + 1 if found else last + 1
    next_url = _url(base_url, subscription_id, at, until, content) if at <= last else ""
    said = replace(asked.told(), content=level)
    answer = notification(base_url, "query-event", said, datetime.now(UTC), sent, next_url)
    return Told(answer, tuple(sorted(patients)))


def _url(base_url: str, subscription_id: str, since: int, until: int | None, content: str) -> str:
    asked = {"eventsSinceNumber": since, "eventsUntilNumber": until, "content": content}
    params = urlencode({name: value for name, value in asked.items() if value})
    return f"{base_url}/Subscription/{subscription_id}/$events?{params}"


async def _seen(conn: Connection, reader: Reader, found: Sequence[NotifiedEvent]) -> list[bool]:
    """Of each event, whether the reader may see both its version and the resource as it is now."""
    versions = [Version(e.resource_type, e.resource_id, e.version_id, e.at, e.body, deleted=not e.body) for e in found]
    then = await former.seen(conn, reader, "r", versions)
    limited = [
        (n, version.resource_type, version.id)
        for n, version in enumerate(versions)
        if then[n] and visible(reader, version.resource_type, "r") != TRUE
    ]
    if not limited:
        return then
    now = visible_of(reader, sorted({resource_type for _, resource_type, _ in limited}), "r")
    sql: LiteralString = (
        "SELECT w.place FROM unnest(%s::int[], %s::text[], %s::text[]) AS w (place, resource_type, id)"
        " JOIN resource r ON (r.resource_type, r.id) = (w.resource_type, w.id) WHERE NOT r.deleted AND ("
    )
    found_now = await conn.execute(sql + now.sql + ")", (*(list(c) for c in zip(*limited, strict=True)), *now.args))
    gone = {place for place, _, _ in limited} - {place for (place,) in await found_now.fetchall()}
    return [is_seen and n not in gone for n, is_seen in enumerate(then)]
