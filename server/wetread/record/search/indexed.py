"""Conditions on `resource r` by what its index rows, or its own columns, say."""

from __future__ import annotations

from collections.abc import Sequence

from wetread.record.condition import Condition
from wetread.record.search.query_values import TABLES


def indexed(types: Sequence[str], kind: str, code: str, matches: Condition, *, negate: bool = False) -> Condition:
    """The resources of which some row under this code matches; with `negate`, those of which none does."""
    own = of_types("i", types)
    where = own.sql + " AND i.param = %s AND (" + matches.sql + ")"
    args = (*own.args, code, *matches.args)
    if negate:
        return Condition(
            "NOT EXISTS (SELECT FROM " + TABLES[kind] + " i WHERE i.resource_key = r.key AND " + where + ")", args
        )
    return Condition("r.key IN (SELECT i.resource_key FROM " + TABLES[kind] + " i WHERE " + where + ")", args)


def of_types(alias: str, types: Sequence[str]) -> Condition:
    """The rows `i`, or resources `r`, of these types."""
    match alias, types:
        case "i", [only]:
            return Condition("i.resource_type = %s", (only,))
        case "i", _:
            return Condition("i.resource_type = ANY (%s)", (list(types),))
        case _, [only]:
            return Condition("r.resource_type = %s", (only,))
    return Condition("r.resource_type = ANY (%s)", (list(types),))


def on_own_columns(matches: Condition) -> Condition:
    """`_id` and `_lastUpdated` stand in `resource` itself."""
    return Condition(matches.sql.replace("i.code", "r.id").replace("i.low", "r.last_updated"), matches.args)
