"""What is due to a subscription that a deliverer has in hand, by the rights that its owner has at this moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeAlias

from wetread.domain.reader import Reader
from wetread.record.subscriptions import rows
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.notifications import Context, NotifiedEvent
from wetread.record.subscriptions.rows import OwnerNow, State
from wetread.record.subscriptions.shapes import with_context
from wetread.record.subscriptions.sight import may_see, sees_all
from wetread.record.subscriptions.topics import Topic
from wetread.store.database import Connection

_SLICE = 20
_WITH_BODY = frozenset({"full-resource", "resource"})
_WITH_CONTEXT = frozenset({"id-only", "full-resource"})
_WITHOUT_FOCUS = frozenset({"empty", "ping"})

_Version: TypeAlias = tuple[str, str, int]
_Contexts: TypeAlias = Mapping[_Version, tuple[Context, ...]]


@dataclass(frozen=True, slots=True)
class Slice:
    """What goes out next, in order. With it all events up to the number `through` are done with, since what is
    `dropped` the owner may not read any more. `is_shut_out`: the owner has no rights left at all; nothing goes out,
    and nothing is done with."""

    deliveries: tuple[Delivery, ...]
    through: int
    dropped: tuple[NotifiedEvent, ...] = ()
    is_shut_out: bool = False

    def through_before(self, place: int) -> int:
        """Up to which number events are done with before the delivery at `place` goes out."""
        later = self.deliveries[place:]
        return later[0].events[0].number - 1 if later and later[0].events else self.through


async def next_slice(conn: Connection, state: State, owner_now: OwnerNow, topic: Topic | None) -> Slice | None:
    """None where nothing is due. `topic` is None where it is no longer served."""
    if state.status not in ("requested", "active"):
        return None
    if state.status == "active" and state.delivered >= state.events_since_start and not state.is_silent:
        return None
    reader = await owner_now(conn, state.owner)
    if reader is None:
        return Slice((), state.delivered, is_shut_out=True)
    if state.status == "requested":
        return _without_events(state, "handshake", reader)
    if state.delivered >= state.events_since_start:
        return _without_events(state, "heartbeat", reader)
    return await _events(conn, state, reader, topic)


def _without_events(state: State, kind: str, reader: Reader) -> Slice:
    told = state.told(status=state.status)
    delivery = Delivery(state.id, kind, state.out(), told, datetime.now(UTC), reader.principal)
    return Slice((delivery,), state.delivered)


async def next_slices(
    conn: Connection, states: Sequence[State], owner_now: OwnerNow, topic_of: Callable[[State], Topic | None]
) -> dict[str, Slice]:
    """By id what is due to those of the subscriptions that have events, and whose owner may see all that their topic
    tells of: these are read together, as far as they are not too large. The others are left to be looked at one by
    one."""
    readers: dict[str, Reader | None] = {}
    plain: list[tuple[State, Reader, Topic]] = []
    for state in states:
        topic = topic_of(state)
        if state.status != "active" or state.delivered >= state.events_since_start or topic is None:
            continue
        owner = json.dumps(state.owner, sort_keys=True)
        if owner not in readers:
            readers[owner] = await owner_now(conn, state.owner)
        reader = readers[owner]
        if reader is not None and all(sees_all(reader, t) for t in topic.resource_types):
            plain.append((state, reader, topic))
    wanted = {s.id: (s.delivered + 1, _limit(s), s.channel["content"] in _WITH_BODY) for s, _, _ in plain}
    found = await rows.numbered_of(conn, wanted) if wanted else {}
    along = await _along(conn, plain, found)
    return {
        s.id: await _slice(conn, s, reader, topic, found[s.id], along.get(s.id))
        for s, reader, topic in plain
        if s.id in found
    }


async def _along(
    conn: Connection,
    plain: Sequence[tuple[State, Reader, Topic]],
    found: Mapping[str, Sequence[tuple[NotifiedEvent, tuple[str, ...]]]],
) -> dict[str, _Contexts]:
    """By subscription what goes along with its events: read once for all of one reader that hear of the same few."""
    alike: dict[tuple[int, str, bool], list[str]] = {}
    readers: dict[tuple[int, str, bool], tuple[Reader, Topic]] = {}
    for state, reader, topic in plain:
        if topic.shape and state.channel["content"] in _WITH_CONTEXT:
            which = (id(reader), topic.url, state.channel["content"] in _WITH_BODY)
            alike.setdefault(which, []).append(state.id)
            readers[which] = (reader, topic)
    along: dict[str, _Contexts] = {}
    for which, ids in alike.items():
        events = {_version(event): event for id_ in ids for event, _ in found.get(id_, ())}
        if len(ids) > 1 and len(events) <= _SLICE:
            bare = [event if which[2] else replace(event, body="") for event in events.values()]
            # What goes along with one may be what another is about.
            about = {event.focus: patient_ids for id_ in ids for event, patient_ids in found.get(id_, ())}
            contexts = {
                _version(event): tuple(
                    replace(each, patient_ids=about.get(each.reference, each.patient_ids)) for each in event.context
                )
                for event in await with_context(conn, *readers[which], bare)
            }
            along.update(dict.fromkeys(ids, contexts))
    return along


def _version(event: NotifiedEvent) -> _Version:
    return event.resource_type, event.resource_id, event.version_id


def _limit(state: State) -> int:
    return max(_SLICE, int(state.channel["max_count"]))


async def _events(conn: Connection, state: State, reader: Reader, topic: Topic | None) -> Slice:
    types = topic.resource_types if topic else ()
    found = await rows.numbered(
        conn,
        state.id,
        state.delivered + 1,
        None,
        limit=_limit(state),
        with_bodies=state.channel["content"] in _WITH_BODY or not all(sees_all(reader, t) for t in types),
    )
    return await _slice(conn, state, reader, topic, found)


async def _slice(
    conn: Connection,
    state: State,
    reader: Reader,
    topic: Topic | None,
    found: Sequence[tuple[NotifiedEvent, tuple[str, ...]]],
    along: _Contexts | None = None,
) -> Slice:
    """`along`: what goes along with the events, where it is known."""
    channel = state.out()
    found = await _judgeable(conn, state, reader, found)
    seen: list[tuple[NotifiedEvent, tuple[str, ...]]] = []
    dropped: list[NotifiedEvent] = []
    for event, patient_ids in found:
        if await may_see(conn, reader, event, event.body):
            shown = event if channel.content in _WITH_BODY else replace(event, body="")
            seen.append((shown, () if channel.content in _WITHOUT_FOCUS else patient_ids))
        else:
            dropped.append(event)
    if topic is not None and topic.shape and channel.content in _WITH_CONTEXT:
        if along is not None:
            shaped = [replace(event, context=along.get(_version(event), ())) for event, _ in seen]
        else:
            shaped = await with_context(conn, reader, topic, [event for event, _ in seen])
        seen = [(event, _patients(event, own)) for event, (_, own) in zip(shaped, seen, strict=True)]
    # Events that were removed for their age leave a gap before the first that is kept, or no event at all.
    through = found[-1][0].number if found else state.events_since_start
    parts = _parts(seen, channel.max_count, repeats=channel.content != "full-resource")
    return Slice(tuple(_delivery(state, reader, part) for part in parts), through, tuple(dropped))


async def _judgeable(
    conn: Connection, state: State, reader: Reader, found: Sequence[tuple[NotifiedEvent, tuple[str, ...]]]
) -> Sequence[tuple[NotifiedEvent, tuple[str, ...]]]:
    """The events with their content where the reader may see some of a type only, since it decides: that of a topic
    that is no longer served, or of a type that was taken out of it, was not read."""
    if not any(
        not event.body and event.kind != "delete" and not sees_all(reader, event.resource_type) for event, _ in found
    ):
        return found
    first, last = found[0][0].number, found[-1][0].number
    return await rows.numbered(conn, state.id, first, last, limit=len(found), with_bodies=True)


def _parts(
    seen: Sequence[tuple[NotifiedEvent, tuple[str, ...]]], most: int, *, repeats: bool
) -> list[list[tuple[NotifiedEvent, tuple[str, ...]]]]:
    """What goes out in one notification each: `most` events, or fewer where these are larger than MOST_BYTES with what
    goes along, but one at least. Unless a resource `repeats`, a Bundle holds one version of it, to which references
    lead without a doubt."""
    parts: list[list[tuple[NotifiedEvent, tuple[str, ...]]]] = []
    foci: set[str] = set()
    along: set[str] = set()
    size = 0
    for each in seen:
        event = each[0]
        more = len(event.body) + sum(len(one.body) for one in event.context if one.reference not in along)
        is_full = not parts or len(parts[-1]) == most or size + more > rows.MOST_BYTES
        if is_full or (event.focus in foci and not repeats):
            parts.append([])
            foci, along, size = set(), set(), 0
            more = len(event.body) + sum(len(one.body) for one in event.context)
        parts[-1].append(each)
        foci.add(event.focus)
        along.update(one.reference for one in event.context)
        size += more
    return parts


def _patients(event: NotifiedEvent, own: tuple[str, ...]) -> tuple[str, ...]:
    """Of whom an event tells with all that goes along."""
    return tuple(dict.fromkeys((*own, *(patient_id for each in event.context for patient_id in each.patient_ids))))


def _delivery(state: State, reader: Reader, part: Sequence[tuple[NotifiedEvent, tuple[str, ...]]]) -> Delivery:
    events = tuple(event for event, _ in part)
    return Delivery(
        state.id,
        "event-notification",
        state.out(),
        state.told(status="active", count=events[-1].number),
        events[-1].at,
        reader.principal,
        events,
        tuple(sorted({patient_id for _, patient_ids in part for patient_id in patient_ids})),
    )
