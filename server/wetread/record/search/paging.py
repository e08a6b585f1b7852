"""The order of a search's matches, and where a page begins: opaque keyset cursors (FHIR R4 3.1.1.5.1, 3.1.1.5.2).

Without _sort the order is that of creation, which no later write changes. A sort by an element that a write may change
holds still too: the cursor carries the moment of the first page, and what was changed since stands where it stood then
(`moved`), while what was made since is left out. So what matches throughout comes on exactly one page. (A transaction
that is under way while the first page is made, and commits after it, may still move what it changed.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import cmp_to_key
from itertools import accumulate
from typing import Any, LiteralString, TypeAlias

from psycopg.rows import tuple_row

from wetread.errors import InvalidInput
from wetread.record import lossless
from wetread.record.aside import aside
from wetread.record.condition import FALSE, TRUE, Condition, all_of, any_of
from wetread.record.cursors import CURSOR
from wetread.record.page import MOST_BYTES, PAGE_BYTES, cut
from wetread.record.search import found, index
from wetread.record.search.found import Found
from wetread.record.search.parameters import FULL_TEXT, SearchParameter
from wetread.record.search.query_values import TABLES
from wetread.store.database import Connection

MOST_KEYS = 5
MOST_MOVED = 5000

Values: TypeAlias = tuple[Any, ...]
_OWN: Mapping[str, LiteralString] = {"_id": "r.id", "_lastUpdated": "r.last_updated"}
_UNORDERED: Mapping[str, LiteralString] = {
    "_id": "(r.id || '')",
    "_lastUpdated": "(r.last_updated + interval '0')",
}
"""The same in a form that no index is in order of: where few are left, the planner must not look for them along the
whole table. It cannot know how few a reference or a name leaves."""
_COLUMNS: Mapping[str, tuple[LiteralString, int, LiteralString]] = {
    "token": ("code", 2, "text"),
    "reference": ("target_id", 2, "text"),
    "date": ("low", 1, "timestamptz"),
    "string": ("folded", 1, "text"),
    "number": ("low", 1, "numeric"),
    "quantity": ("low", 1, "numeric"),
    "uri": ("uri", 1, "text"),
}
"""By kind: the column to sort by, its place in a row of `index.Entries`, its type."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a sort: ascending by the least value that a resource has, descending by the greatest."""

    code: str
    kind: str
    descending: bool

    @property
    def sql_type(self) -> LiteralString:
        return "text" if self.code == "_id" else _COLUMNS[self.kind][2]


@dataclass(frozen=True, slots=True)
class Row:
    """A match, with its values of the sort keys."""

    found: Found
    values: Values

    @property
    def key(self) -> int:
        return self.found.key


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position after which a page begins. `began` and `last_key` bound what the first page could see."""

    key: int
    values: Values = ()
    began: datetime | None = None
    last_key: int = 0


def keys(value: str, parameters: Mapping[str, SearchParameter]) -> tuple[Key, ...]:
    """The keys of a `_sort`. Raises InvalidInput."""
    read = []
    for word in value.split(","):
        code = word.removeprefix("-")
        parameter = parameters.get(code)
        if parameter is None or parameter.kind not in _COLUMNS or code in FULL_TEXT:
            raise InvalidInput(f"cannot sort by {code!r}; name a search parameter", location="http._sort")
        read.append(Key(code, parameter.kind, word.startswith("-")))
    if len(read) > MOST_KEYS:
        raise InvalidInput(f"a sort has at most {MOST_KEYS} keys", location="http._sort")
    return tuple(read)


def place(cursor: Cursor) -> list[Any]:
    """The cursor as what JSON can hold."""
    values = [
        v.isoformat() if isinstance(v, datetime) else str(v) if isinstance(v, Decimal) else v for v in cursor.values
    ]
    return [cursor.key, values, cursor.began.isoformat() if cursor.began else "", cursor.last_key]


def placed(found: Any, sort: Sequence[Key]) -> Cursor:
    """The cursor of a place. Raises InvalidInput for one of another version of this server."""
    try:
        key, values, began, last_key = found
        read = tuple(_value(v, k) for v, k in zip(values, sort, strict=True))
        moment = datetime.fromisoformat(began).astimezone(UTC) if began else None
        return Cursor(int(key), read, moment, int(last_key))
    except (ValueError, TypeError, InvalidOperation) as error:
        message = "not a page of this search; follow the link that the server gave"
        raise InvalidInput(message, location=f"http.{CURSOR}") from error


def _value(value: str | None, key: Key) -> Any:
    if value is None:
        return None
    match key.sql_type:
        case "timestamptz":
            return datetime.fromisoformat(value).astimezone(UTC)
        case "numeric":
            return Decimal(value)
    return value


def is_mutable(sort: Sequence[Key]) -> bool:
    """Whether a write can move a resource in this order."""
    return any(key.code != "_id" for key in sort)


async def page(
    conn: Connection,
    types: Sequence[str],
    where: Condition,
    sort: Sequence[Key],
    cursor: Cursor | None,
    most: int,
    *,
    is_broad: bool = False,
) -> tuple[list[Row], bool]:
    """The first `most` matches after the cursor, in order, and whether there are more; fewer where they are long.

    `is_broad` says that the condition, which holds the types too, is likely to leave many: then the page is read along
    the keys, or along the index of the sort key, rather than all matches sorted.
    """
    unmoved = where
    if cursor and cursor.began:
        unmoved = all_of([where, Condition("r.key <= %s AND r.last_updated <= %s", (cursor.last_key, cursor.began))])
    if is_broad and len(types) == len(sort) == 1 and sort[0].code not in _OWN and sort[0].kind in _INDEXED_IN_ORDER:
        rows, more = await _walked(conn, unmoved, sort[0], cursor, most + 1, types[0])
    else:
        rows, more = await _rows(conn, unmoved, sort, cursor, most + 1, is_broad=is_broad)
    if cursor is None or cursor.began is None:
        return rows[:most], more or len(rows) > most
    # Looked for last: what changes between the two statements is then found twice, not lost.
    moved = await _moved(conn, where, sort, cursor)

    def order(one: Row, other: Row) -> int:
        return _compare(one.key, one.values, other.key, other.values, sort)

    later = {r.key: r for r in moved if _compare(r.key, r.values, cursor.key, cursor.values, sort) > 0}
    here = [r for r in rows if r.key not in later]
    merged = sorted([*here, *later.values()], key=cmp_to_key(order))
    # What lies between the last row that was read and the next waits for it.
    whole = [r for r in merged if order(r, rows[-1]) <= 0] if more else merged
    ends = [
        end
        for end, before in enumerate(accumulate(len(r.found.version.body) for r in whole), 1)
        if before >= PAGE_BYTES
    ]
    there = whole[: min([most, *ends[:1]])]
    return there, len(there) < len(merged) or more


async def last_key(conn: Connection) -> int:
    """The greatest key there is: what comes later was made later."""
    row = await (await conn.execute("SELECT coalesce(max(key), 0) FROM resource")).fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])


async def _rows(
    conn: Connection, where: Condition, sort: Sequence[Key], cursor: Cursor | None, most: int, *, is_broad: bool
) -> tuple[list[Row], bool]:
    columns: list[LiteralString] = []
    joins: list[LiteralString] = []
    args: list[Any] = []
    for number, key in enumerate(sort):
        if key.code in _OWN:
            columns.append(_OWN[key.code])
            continue
        name = _NAMES[number]
        way: LiteralString = "max" if key.descending else "min"
        joins.append(
            " LEFT JOIN LATERAL (SELECT " + way + "(i." + _COLUMNS[key.kind][0] + ") AS v FROM " + TABLES[key.kind]
            + " i WHERE i.resource_key = r.key AND i.param = %s" + _has_value(key) + ") " + name + " ON TRUE"
        )  # fmt: skip
        args.append(key.code)
        columns.append(name + ".v")
    after = _after(cursor, sort, columns) if cursor else TRUE
    order: list[LiteralString] = []
    for key, column in zip(sort, columns, strict=True):
        by = column if is_broad or key.code not in _OWN else _UNORDERED[key.code]
        nulls: LiteralString = "" if key.code in _OWN else " NULLS LAST"
        order.append(by + (" DESC" if key.descending else "") + nulls)
    by_key: LiteralString = "r.key" if is_broad or sort else "(r.key + 0)"
    last: LiteralString = "r.key DESC" if _runs_backwards(sort) else by_key
    sql: LiteralString = (
        "SELECT " + ", ".join([found.COLUMNS, *columns]) + " FROM resource r" + "".join(joins)
        + " WHERE (" + where.sql + ") AND (" + after.sql + ") ORDER BY " + ", ".join([*order, last]) + " LIMIT %s"
    )  # fmt: skip
    return await _read(conn, sql, (*args, *where.args, *after.args, most))


_INDEXED_IN_ORDER = frozenset({"token", "reference", "date", "number", "quantity", "uri"})
"""Kinds whose table has an index that ends in the column to sort by."""


async def _walked(
    conn: Connection, where: Condition, key: Key, cursor: Cursor | None, most: int, resource_type: str
) -> tuple[list[Row], bool]:
    """Along the index, each resource at its first row in this order; then those that have no row."""
    table, (column, _, sql_type) = TABLES[key.kind], _COLUMNS[key.kind]
    sign: LiteralString = ">" if key.descending else "<"
    way: LiteralString = "DESC" if key.descending else "ASC"
    value: LiteralString = "i." + column
    has_value = _has_value(key)
    rows: list[Row] = []
    more = False
    if cursor is None or cursor.values[0] is not None:
        after = TRUE
        if cursor is not None:
            cast: LiteralString = "%s::" + sql_type
            beyond: LiteralString = "<" if key.descending else ">"
            after = Condition(
                value + " " + beyond + "= " + cast + " AND (" + value + " " + beyond + " " + cast + " OR r.key > %s)",
                (cursor.values[0], cursor.values[0], cursor.key),
            )
        sql: LiteralString = (
            "SELECT " + found.COLUMNS + ", " + value + " FROM " + table + " i JOIN resource r"
            " ON r.key = i.resource_key WHERE i.resource_type = %s AND i.param = %s" + has_value + " AND (" + where.sql
            + ") AND (" + after.sql + ") AND NOT EXISTS (SELECT FROM " + table + " j WHERE j.resource_key ="
            " i.resource_key AND j.param = i.param" + has_value.replace("i.", "j.")
            + " AND (j." + column + ", j.ctid) " + sign + " (" + value + ", i.ctid))"
            " ORDER BY " + value + " " + way + ", r.key LIMIT %s"
        )  # fmt: skip
        rows, more = await _read(conn, sql, (resource_type, key.code, *where.args, *after.args, most))
    if len(rows) < most and not more:
        beyond_key = cursor.key if cursor is not None and cursor.values[0] is None else -1
        tail: LiteralString = (
            "SELECT " + found.COLUMNS + ", NULL FROM resource r WHERE (" + where.sql + ") AND r.key > %s"
            " AND NOT EXISTS (SELECT FROM " + table + " i WHERE i.resource_key = r.key AND i.param = %s" + has_value
            + ") ORDER BY r.key LIMIT %s"
        )  # fmt: skip
        left = PAGE_BYTES - sum(len(row.found.version.body) for row in rows)
        others, more = await _read(conn, tail, (*where.args, beyond_key, key.code, most - len(rows)), left)
        rows += others
    return rows, more


def _has_value(key: Key) -> LiteralString:
    """A reference to elsewhere, or by identifier alone, has nothing to sort by."""
    return " AND i.target_id <> ''" if key.kind == "reference" else ""


async def _read(
    conn: Connection, sql: LiteralString, args: Sequence[Any], most_bytes: int = PAGE_BYTES
) -> tuple[list[Row], bool]:
    """The rows, and whether some were left out because these are long."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(cut(sql), (*args, max(most_bytes, 1)), prepare=False)
        rows = await cursor.fetchall()
    return [Row(Found.of(row), tuple(row[found.WIDTH : -2])) for row in rows], bool(rows) and len(rows) < rows[0][-2]


_NAMES: tuple[LiteralString, ...] = ("s0", "s1", "s2", "s3", "s4")


def _runs_backwards(sort: Sequence[Key]) -> bool:
    """A sort by one own column runs with its index, which ends in the key, whichever way."""
    return len(sort) == 1 and sort[0].code in _OWN and sort[0].descending


def _after(cursor: Cursor, sort: Sequence[Key], columns: Sequence[LiteralString]) -> Condition:
    if len(sort) == 1 and sort[0].code in _OWN:
        sign: LiteralString = "<" if sort[0].descending else ">"
        return Condition("(" + columns[0] + ", r.key) " + sign + " (%s, %s)", (*cursor.values, cursor.key))
    alike, arms = TRUE, []
    for key, column, value in zip(sort, columns, cursor.values, strict=True):
        cast: LiteralString = "%s::" + key.sql_type
        if value is None:  # the last of all: nothing comes after it but its like
            beyond, same = FALSE, Condition(column + " IS NULL")
        else:
            sign = "<" if key.descending else ">"
            beyond = Condition(column + " " + sign + " " + cast + " OR " + column + " IS NULL", (value,))
            same = Condition(column + " = " + cast, (value,))
        arms.append(all_of([alike, beyond]))
        alike = all_of([alike, same])
    return any_of([*arms, all_of([alike, Condition("r.key > %s", (cursor.key,))])])


def _compare(key: int, values: Values, other_key: int, others: Values, sort: Sequence[Key]) -> int:
    """The database's order: text by code point (collation "C"), what is missing last, then the key."""
    for by, a, b in zip(sort, values, others, strict=True):
        if a == b:
            continue
        if a is None or b is None:
            return 1 if a is None else -1
        return (1 if a > b else -1) * (-1 if by.descending else 1)
    return (key > other_key) - (key < other_key) if not _runs_backwards(sort) else other_key - key


_MOVED: LiteralString = (
    "SELECT "
    + found.COLUMNS
    + """, v.body AS then, v.last_updated AS at
    FROM resource r LEFT JOIN LATERAL (
        SELECT v.body, v.last_updated FROM resource_version v
        WHERE v.resource_type = r.resource_type AND v.id = r.id
        ORDER BY v.last_updated <= %s DESC, CASE WHEN v.last_updated <= %s THEN -v.version_id ELSE v.version_id END
        LIMIT 1
    ) v ON TRUE
    WHERE r.last_updated > %s AND r.key <= %s AND ("""
)


async def _moved(conn: Connection, where: Condition, sort: Sequence[Key], cursor: Cursor) -> list[Row]:
    """What was changed since the first page and matches, as it was sorted then.

    Raises InvalidInput where that is more than can be kept in order.
    """
    began = cursor.began
    args = (began, began, began, cursor.last_key, *where.args, MOST_MOVED + 1)
    async with conn.cursor(row_factory=tuple_row) as rows:
        await rows.execute(cut(_MOVED + where.sql + ") LIMIT %s"), (*args, MOST_BYTES), prepare=False)
        changed = await rows.fetchall()
    if len(changed) > MOST_MOVED or (changed and len(changed) < changed[0][-2]):
        raise InvalidInput("too much was changed since the first page; search anew", location=f"http.{CURSOR}")

    def then_sorted() -> list[Row]:
        found = [(row, then, at) for *row, then, at, _, _ in changed if then]
        return [
            Row(Found.of(row), _as_sorted(lossless.parse(then), at, row[2], sort, conn.bases))
            for row, then, at in found
        ]

    return await aside(sum(len(row[-4] or "") for row in changed), then_sorted)


def _as_sorted(
    resource: dict[str, Any], last_updated: datetime, id_: str, sort: Sequence[Key], bases: Sequence[str]
) -> Values:
    entries = index.extract(resource, bases)
    return tuple(
        id_ if k.code == "_id" else last_updated if k.code == "_lastUpdated" else _extreme(entries, k) for k in sort
    )


def _extreme(entries: index.Entries, key: Key) -> Any:
    place = _COLUMNS[key.kind][1]
    table: Iterable[index.Row] = getattr(entries, TABLES[key.kind].removeprefix("index_"))
    values = [row[place] for row in table if row[0] == key.code and (row[place] != "" or key.kind != "reference")]
    return (max if key.descending else min)(values, default=None)
