"""The index of subscriptions by what they are about, so that an event finds those that it may concern.

A subscription stands under keys of its most selective filter on each type of its topic: one on a reference before one
on a code; where none can be a key, under the topic and type alone. What a key finds is only a candidate: all filters
are evaluated then. A key is `topic|type|parameter=value`, its topic empty for a criteria-based subscription.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from wetread.record.search.index import ON_OWN_COLUMN, Extraction, bounded, reference_parts
from wetread.record.search.parameters import parameters_of
from wetread.record.subscriptions.topics import Test, Topic
from wetread.store.database import Connection

_KINDS = ("reference", "token")
"""The most selective first."""


Watched: TypeAlias = Mapping[str, Mapping[str, Collection[str]]]
"""Where subscriptions stand: under which types, there of which topics, and there under which parameters."""


def keys_of(topic: str, resource_types: Iterable[str], tests: Sequence[Test]) -> frozenset[str]:
    """Where a subscription with these filters stands."""
    return frozenset(key for resource_type in resource_types for key in _narrowest(topic, resource_type, tests))


def _narrowest(topic: str, resource_type: str, tests: Sequence[Test]) -> list[str]:
    here = f"{topic}|{resource_type}|"
    of_type = [test for test in tests if test.resource_type == resource_type]
    for kind in _KINDS:
        for test in of_type:
            values = _values(test) if _kind(test) == kind else None
            if values:
                return [f"{here}{test.param}={value}" for value in values]
    return [here]


def _kind(test: Test) -> str:
    parameter = parameters_of(test.resource_type).get(test.param)
    return parameter.kind if parameter is not None and not test.modifier and test.param not in ON_OWN_COLUMN else ""


def _values(test: Test) -> list[str] | None:
    """None where the test lets pass what no value of it names."""
    if _kind(test) == "token":
        codes = [value.rpartition("|")[2] for value in test.values]
        return [bounded(code) for code in codes] if all(codes) else None
    return [_reference(value) for value in test.values]


def _reference(value: str) -> str:
    if "/" not in value and ":" not in value:
        return f"/{value}"
    parts = reference_parts(value)
    return f"{parts.target_type}/{parts.target_id}#{parts.url}"


def keys_of_version(topic: str, resource_type: str, version: Extraction, params: Collection[str]) -> set[str]:
    """Where the subscriptions stand that a version may concern: by these parameters, and without any."""
    here = f"{topic}|{resource_type}|"
    keys = {here}
    for param in params:
        if parameters_of(resource_type)[param].kind == "token":
            keys |= {f"{here}{param}={row[2]}" for row in version.rows(param) if row[0] == param and row[2]}
            continue
        for _, target_type, target_id, url, *_ in version.rows(param):
            keys.add(f"{here}{param}={target_type}/{target_id}#{url}")
            if not url:
                keys.add(f"{here}{param}=/{target_id}")
    return keys


async def watched(conn: Connection, topics: Iterable[Topic], resource_types: Collection[str]) -> Watched:
    """Of what could be watched on these types, what is: mostly little, and nobody computes the keys of the rest."""
    places: dict[str, tuple[str, str, str]] = {}
    for resource_type in resource_types:
        named = [(topic.url, topic.filters.get(resource_type, ())) for topic in topics]
        for topic, params in [*named, ("", _indexed(resource_type))]:
            places[f"{topic}|{resource_type}|"] = (topic, resource_type, "")
            places.update({f"{topic}|{resource_type}|{p}=": (topic, resource_type, p) for p in params})
    found = await conn.execute(
        """
        SELECT place FROM unnest(%s::text[]) AS place
        WHERE EXISTS (SELECT FROM subscription_key WHERE key >= place AND key < place || chr(1114111))
        """,
        (list(places),),
    )
    stood: dict[str, dict[str, set[str]]] = {}
    for (place,) in await found.fetchall():
        topic, resource_type, param = places[place]
        stood.setdefault(resource_type, {}).setdefault(topic, set()).update({param} - {""})
    return stood


def _indexed(resource_type: str) -> list[str]:
    return [code for code, parameter in parameters_of(resource_type).items() if parameter.kind in _KINDS]


async def found_by(conn: Connection, keys: Collection[str]) -> list[tuple[str, str]]:
    """The subscriptions that stand under the keys: each key with an id."""
    found = await conn.execute("SELECT key, subscription_id FROM subscription_key WHERE key = ANY(%s)", (list(keys),))
    return [(key, subscription_id) for key, subscription_id in await found.fetchall()]


async def write(conn: Connection, keys: Mapping[str, frozenset[str]]) -> None:
    """Puts each subscription, by id, under its keys and no other."""
    pairs = [(key, subscription_id) for subscription_id, of_one in keys.items() for key in sorted(of_one)]
    await conn.execute(
        """
        WITH given AS (SELECT * FROM unnest(%(keys)s::text[], %(ids)s::text[]) AS given (key, subscription_id)),
             gone AS (DELETE FROM subscription_key k WHERE k.subscription_id = ANY(%(all)s) AND NOT EXISTS (
                 SELECT FROM given WHERE given.key = k.key AND given.subscription_id = k.subscription_id))
        INSERT INTO subscription_key (key, subscription_id) SELECT key, subscription_id FROM given
        ON CONFLICT DO NOTHING
        """,
        {"keys": [key for key, _ in pairs], "ids": [id_ for _, id_ in pairs], "all": list(keys)},
    )
