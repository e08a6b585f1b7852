"""Spans of dates, `date=ge2026-01&date=lt2026-02`: asked of one row along one index, where few are expected there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import LiteralString

from wetread.record.condition import Condition, all_of
from wetread.record.lossless import is_text
from wetread.record.search import query_values
from wetread.record.search.index import BEGINNING
from wetread.record.search.indexed import of_types
from wetread.record.search.parameters import SearchParameter, common_parameters
from wetread.store.database import Connection

_MANY = 20_000
"""Rows that the planner expects: from here on the index of dates is no shorter way."""
_EXPLAIN: LiteralString = "EXPLAIN (FORMAT JSON) SELECT FROM index_date i WHERE "
_DAY = timedelta(days=1)


async def few_dates(
    conn: Connection, types: tuple[str, ...], params: Sequence[tuple[str, str]]
) -> dict[str, list[str]]:
    """The spans of dates, by parameter, in which the planner expects few resources; of parameters of one value at most.

    Few are best found along the index of dates, many by looking at what else was asked for.
    """
    own = common_parameters(types)
    spans: dict[str, list[str]] = {}
    for name, value in params:
        if name in own and own[name].is_single_date and "," not in value and is_text(value):
            spans.setdefault(name, []).append(value)
    for name, values in list(spans.items()):
        begun = _begun_within(types, own[name], values)
        explained = await conn.execute(_EXPLAIN + begun.sql, begun.args)
        expected = await explained.fetchone()
        if expected is None or expected[0][0]["Plan"]["Plan Rows"] >= _MANY:
            del spans[name]
    return spans


def span(types: tuple[str, ...], parameter: SearchParameter, values: Sequence[str]) -> Condition:
    """A span of dates: what began within it, or less than a day before; and of what is longer, what reaches into it."""
    matches = all_of([query_values.of_value(v, "", parameter) for v in values])
    after, _ = query_values.date_bounds(values, parameter)
    begun, own = _begun_within(types, parameter, values), of_types("i", types)
    return Condition(
        "r.key IN (SELECT i.resource_key FROM index_date i WHERE " + begun.sql + " AND (" + matches.sql + ") UNION ALL"
        " SELECT i.resource_key FROM index_date i WHERE " + own.sql + " AND i.param = %s"
        " AND i.high - i.low > interval '1 day' AND i.high > %s AND (" + matches.sql + "))",
        (*begun.args, *matches.args, *own.args, parameter.code, after, *matches.args),
    )


def _begun_within(types: tuple[str, ...], parameter: SearchParameter, values: Sequence[str]) -> Condition:
    """The rows of dates that began within a span, or less than a day before it."""
    after, before = query_values.date_bounds(values, parameter)
    own = of_types("i", types)
    return Condition(
        own.sql + " AND i.param = %s AND i.low > %s AND i.low < %s",
        (*own.args, parameter.code, max(after, BEGINNING + _DAY) - _DAY, before),
    )
