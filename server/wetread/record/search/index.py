"""What a resource can be found by: the values of its search parameters, as rows of the index tables.

`extract` is pure; `write` replaces the rows of one resource on the caller's connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Any, LiteralString, TypeAlias

from wetread.errors import InvalidInput
from wetread.record.search import paths, text
from wetread.record.search.index_rows import BEGINNING as BEGINNING
from wetread.record.search.index_rows import READERS, identifier_types, references
from wetread.record.search.index_rows import Row as Row
from wetread.record.search.index_rows import bounded as bounded
from wetread.record.search.index_rows import date_range as date_range
from wetread.record.search.index_rows import folded as folded
from wetread.record.search.index_rows import reference_parts as reference_parts
from wetread.record.search.parameters import SearchParameter, choice_types, parameters_of
from wetread.store.database import Connection

ON_OWN_COLUMN = frozenset({"_id", "_lastUpdated"})
"""Parameters that are columns of `resource` and need no index rows."""


@dataclass(slots=True)
class Entries:
    """Index rows without their resource: `(param, ...)`, as the columns of each table stand.

    `narrative` and `content` are the words for `_text` and `_content`.
    """

    token: set[Row] = field(default_factory=set)
    reference: set[Row] = field(default_factory=set)
    date: set[Row] = field(default_factory=set)
    string: set[Row] = field(default_factory=set)
    quantity: set[Row] = field(default_factory=set)
    uri: set[Row] = field(default_factory=set)
    narrative: str = ""
    content: str = ""


_NUMBERS: tuple[LiteralString, ...] = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11")
COLUMNS: dict[LiteralString, tuple[LiteralString, ...]] = {
    "token": ("system text", "code text", "text text", "item smallint"),
    "reference": (
        "target_type text",
        "target_id text",
        "url text",
        "identifier_system text",
        "identifier_value text",
        "item smallint",
    ),
    "date": ("low timestamptz", "high timestamptz"),
    "string": ("folded text", "exact text"),
    "quantity": (
        "low numeric",
        "high numeric",
        "system text",
        "code text",
        "unit text",
        "canonical_low numeric",
        "canonical_high numeric",
        "canonical_unit text",
        "item smallint",
    ),
    "uri": ("uri text",),
}


_WITH_ITEM = frozenset({"token", "reference", "quantity"})
_MOST_ITEMS = 32_767


def extract(resource: Mapping[str, Any], bases: Sequence[str] = ()) -> Entries:
    """The index entries of a resource under every parameter of its type, but for those that are columns.

    `bases` as in `Extraction`. Raises InvalidInput on a malformed date.
    """
    entries = Entries(narrative=text.narrative(resource), content=text.content(resource))
    extraction = Extraction(resource, bases)
    for code, (_, name, _, _) in _plans(resource["resourceType"]).items():
        if code not in ON_OWN_COLUMN:
            table: set[Row] = getattr(entries, name)
            table |= extraction.rows(code)
    return entries


class Extraction:
    """The index rows of one resource, those of a parameter when they are first asked for.

    `bases` are the server's own addresses (`Connection.bases`): what refers by them is found as what is here.
    """

    def __init__(self, resource: Mapping[str, Any], bases: Sequence[str] = ()) -> None:
        self._resource = resource
        self._plans = _plans(resource["resourceType"])
        self._references = partial(references, bases=bases)
        self._present = {stem for member in resource for stem in _stems(member)}
        self._items: dict[paths.Read, paths.Nodes] = {}
        self._rows: dict[str, set[Row]] = {}

    def rows(self, code: str) -> set[Row]:
        """`(param, ...)` as the columns of the parameter's table stand, those for `:of-type` among them; nothing for a
        parameter that is not read from elements. Raises InvalidInput on a malformed date."""
        if code not in self._rows:
            plan = self._plans.get(code)
            self._rows[code] = set() if plan is None or plan[2].isdisjoint(self._present) else self._read(plan)
        return self._rows[code]

    def _read(self, plan: Plan) -> set[Row]:
        parameter, name, _, reads = plan
        read = self._references if name == "reference" else READERS[parameter.kind][1]
        rows: set[Row] = set()
        for nodes, item in _nodes(self._resource, reads, self._items):
            last = (item,) if name in _WITH_ITEM else ()
            for node in nodes:
                if node.type == "String" and parameter.kind == "date":
                    continue  # occurrence[x] and the like may be free text, which is no date
                try:
                    rows.update((parameter.code, *values, *last) for values in read(node.value, parameter))
                except ValueError as error:
                    raise InvalidInput(f"not a FHIR {parameter.kind}", location=parameter.expression) from error
                if name == "token" and isinstance(node.value, dict) and "type" in node.value:
                    rows.update((f"{parameter.code}:of-type", *v, *last) for v in identifier_types(node.value))
        return rows


Reads: TypeAlias = tuple[paths.Read, paths.Read | None]
"""All at once; or the items, and within each its value."""
Plan: TypeAlias = tuple[SearchParameter, str, frozenset[str], Reads]
"""A parameter, its table, the elements of the resource that it begins at, and how to read it."""


@cache
def _plans(resource_type: str) -> Mapping[str, Plan]:
    """By code, of the parameters that are read from elements."""
    return {
        code: (parameter, READERS[parameter.kind][0], _begins(parameter.expression), _reads(parameter))
        for code, parameter in parameters_of(resource_type).items()
        if parameter.expression
    }


_FIRST = re.compile(r"\b[A-Z]\w*\.(\w+)")


def _begins(expression: str) -> frozenset[str]:
    """Where a resource lacks all of these, the expression yields nothing; a test such as exists() always yields."""
    return frozenset({"resourceType"} if "exists()" in expression else _FIRST.findall(expression))


@lru_cache(maxsize=4096)
def _stems(member: str) -> tuple[str, ...]:
    """A member's name, and that of the choice element which it may be: `value` for `valueQuantity`."""
    cuts = (i for i in range(1, len(member)) if member[i].isupper() and member[i:] in choice_types())
    return (member, *(member[:i] for i in cuts))


def _reads(parameter: SearchParameter) -> Reads:
    if not parameter.items:
        return paths.compiled(parameter.expression), None
    items = paths.compiled(" | ".join(parameter.items))
    # Longest first: what `Observation.component.` leaves of an expression holds no `Observation.` any more.
    inner = parameter.expression
    for item in sorted(parameter.items, key=len, reverse=True):
        inner = inner.replace(f"{item}.", "")
    inner = " | ".join(dict.fromkeys(branch.strip() for branch in inner.split("|")))
    return items, paths.compiled(inner)


def _nodes(
    resource: Mapping[str, Any], reads: Reads, items: dict[paths.Read, paths.Nodes]
) -> Iterator[tuple[paths.Nodes, int]]:
    """The nodes of a parameter, by item; `items` keeps those that several parameters look into."""
    outer, inner = reads
    if inner is None:
        yield outer(resource), 0
        return
    if outer not in items:
        items[outer] = outer(resource)
    for number, node in enumerate(items[outer]):
        if isinstance(node.value, dict):
            yield inner(node.value), min(number, _MOST_ITEMS)


async def write(conn: Connection, key: int, resource_type: str, entries: Entries, *, replace: bool) -> None:
    """Writes the rows of the resource with this key; `replace` clears those of its former version."""
    await write_all(conn, [(key, resource_type, entries)], replace=replace)


async def write_all(conn: Connection, written: Sequence[tuple[int, str, Entries]], *, replace: bool) -> None:
    """`write` for several resources, by key and type, in one statement."""
    args: dict[str, Any] = {"keys": [key for key, _, _ in written]}
    filled = []
    for name in COLUMNS:
        rows = [(key, type_, *row) for key, type_, entries in written for row in getattr(entries, name)]
        if rows:
            filled.append(name)
            for number, column in enumerate(zip(*rows, strict=True)):
                args[f"{name}_{number}"] = list(column)
    worded = [(key, e.narrative, e.content) for key, _, e in written if e.narrative or e.content]
    if worded:
        args["worded"], args["narrative"], args["content"] = (list(column) for column in zip(*worded, strict=True))
    if filled or worded or replace:
        await conn.execute(_statement(tuple(filled), bool(worded), replace), args)


@cache
def _statement(filled: tuple[LiteralString, ...], words: bool, replace: bool) -> LiteralString:
    """One statement for all tables that get rows: one round trip, and one plan that the driver keeps prepared."""
    steps: list[LiteralString] = []
    if replace:
        steps += [
            "gone_" + t + " AS (DELETE FROM index_" + t + " WHERE resource_key = ANY (%(keys)s))" for t in _TABLES
        ]
    for name in filled:
        columns: tuple[LiteralString, ...] = (*_OF_EVERY_ROW, *COLUMNS[name])
        names: LiteralString = ", ".join(column.split()[0] for column in columns)
        arrays: LiteralString = ", ".join(
            "%(" + name + "_" + _NUMBERS[number] + ")s::" + column.split()[1] + "[]"
            for number, column in enumerate(columns)
        )
        steps.append(
            "new_" + name + " AS (INSERT INTO index_" + name + " (" + names + ") SELECT * FROM unnest(" + arrays + "))"
        )
    if words:
        steps.append(_NEW_TEXT)
    return "WITH " + ", ".join(steps) + " SELECT"


_OF_EVERY_ROW: tuple[LiteralString, ...] = ("resource_key bigint", "resource_type text", "param text")
_TABLES: tuple[LiteralString, ...] = (*COLUMNS, "text")
_NEW_TEXT: LiteralString = """
    new_text AS (
        INSERT INTO index_text (resource_key, document)
        SELECT key, setweight(to_tsvector('simple', narrative), 'A') || to_tsvector('simple', content)
        FROM unnest(%(worded)s::bigint[], %(narrative)s::text[], %(content)s::text[]) AS given (key, narrative, content)
    )
"""
