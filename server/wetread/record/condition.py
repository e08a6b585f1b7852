"""Boolean SQL with its arguments. Values are always bound; the SQL text is always ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString


@dataclass(frozen=True, slots=True)
class Condition:
    """A boolean SQL expression with its arguments."""

    sql: LiteralString
    args: tuple[Any, ...] = ()


TRUE = Condition("TRUE")
FALSE = Condition("FALSE")


def any_of(conditions: Iterable[Condition]) -> Condition:
    return _joined(list(conditions), " OR ")


def all_of(conditions: Iterable[Condition]) -> Condition:
    return _joined([c for c in conditions if c != TRUE], " AND ")


def none_of(condition: Condition) -> Condition:
    return Condition("NOT (" + condition.sql + ")", condition.args)


def _joined(conditions: Sequence[Condition], word: LiteralString) -> Condition:
    match conditions:
        case []:
            return TRUE if word == " AND " else FALSE
        case [only]:
            return only
    return Condition(
        word.join("(" + c.sql + ")" for c in conditions), tuple(argument for c in conditions for argument in c.args)
    )
