"""What goes along with an event: the includes of its topic's notification shape (FHIR R4B subscriptiontopic.html).

They are found as searches find theirs, at the moment of sending, and only what the subscriber may read then. Where they
are too many, none goes along: a client must do without them anyhow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from wetread.domain.reader import Reader
from wetread.record.search.includes import Include, TooMany, included
from wetread.record.subscriptions.notifications import Context, NotifiedEvent
from wetread.record.subscriptions.topics import Topic
from wetread.record.versions import Version
from wetread.store.database import Connection

_MOST_BYTES = 8 * 1024 * 1024
_MOST_OF_ONE = 100
"""Resources that go along with one event."""


async def with_context(
    conn: Connection, reader: Reader, topic: Topic, events: Sequence[NotifiedEvent]
) -> list[NotifiedEvent]:
    """The events, each with its additional context: in full where the event itself is, else by reference."""
    told = [
        event for event in events if event.is_told and event.kind != "delete" and topic.shape.get(event.resource_type)
    ]
    if not told:
        return list(events)
    foci = [Version(e.resource_type, e.resource_id, e.version_id, e.at, e.body, deleted=False) for e in told]
    wanted = list(dict.fromkeys(include for event in told for include in topic.shape[event.resource_type]))
    try:
        found = await included(conn, reader, foci, wanted, _MOST_BYTES)
    except TooMany:
        return list(events)
    known = {event.focus: Context(event.focus, event.body) for event in told}
    for each in found:
        reference = f"{each.version.resource_type}/{each.version.id}"
        known[reference] = Context(reference, each.version.body, tuple(dict.fromkeys(each.patient_ids)))
    links = await _links(conn, {event.focus: event for event in told}.values(), wanted)
    return [_joined(event, links.get(event.focus, ()), known) if event in told else event for event in events]


def _joined(event: NotifiedEvent, references: Iterable[str], known: Mapping[str, Context]) -> NotifiedEvent:
    along = [known[reference] for reference in references if reference in known and reference != event.focus]
    if len(along) > _MOST_OF_ONE:
        return event
    return replace(event, context=tuple(each if event.body else replace(each, body="") for each in along))


async def _links(
    conn: Connection, events: Iterable[NotifiedEvent], includes: Sequence[Include]
) -> dict[str, list[str]]:
    """What each focus and the resources around it are linked by, of the includes: references by focus."""
    foci = [(event.resource_type, event.resource_id) for event in events]
    found = await conn.execute(
        """
        WITH focus AS (SELECT * FROM unnest(%(types)s::text[], %(ids)s::text[]) AS focus (resource_type, id)),
             include AS (SELECT * FROM unnest(%(reverse)s::boolean[], %(sources)s::text[], %(params)s::text[],
                 %(targets)s::text[]) AS include (reverse, source, param, target)),
             forward AS (
                 SELECT f.resource_type AS of_type, f.id AS of_id, i.target_type, i.target_id
                 FROM focus f JOIN resource s ON (s.resource_type, s.id) = (f.resource_type, f.id)
                 JOIN index_reference i ON i.resource_key = s.key
                 JOIN include n ON NOT n.reverse AND (n.source, n.param) = (s.resource_type, i.param)
                     AND n.target IN ('', i.target_type)
                 WHERE i.url = '' AND i.target_id <> ''),
             backward AS (
                 SELECT f.resource_type AS of_type, f.id AS of_id, r.resource_type, r.id
                 FROM focus f JOIN include n ON n.reverse AND n.target IN ('', f.resource_type)
                 JOIN index_reference i ON (i.resource_type, i.param) = (n.source, n.param)
                     AND (i.target_type, i.target_id) = (f.resource_type, f.id) AND i.url = ''
                 JOIN resource r ON r.key = i.resource_key AND NOT r.deleted)
        SELECT DISTINCT * FROM (TABLE forward UNION ALL TABLE backward) AS link ORDER BY 1, 2, 3, 4
        """,
        {
            "types": [resource_type for resource_type, _ in foci],
            "ids": [id_ for _, id_ in foci],
            "reverse": [include.reverse for include in includes],
            "sources": [include.source for include in includes],
            "params": [include.param for include in includes],
            "targets": [include.target for include in includes],
        },
    )
    links: dict[str, list[str]] = {}
    for of_type, of_id, other_type, other_id in await found.fetchall():
        links.setdefault(f"{of_type}/{of_id}", []).append(f"{other_type}/{other_id}")
    return links
