"""The search parameters that a scope is narrowed by, and what they make of it.

SMART App Launch 2.2 scopes-and-launch-context.html, "Finer-grained resource constraints using search parameters".
"""

from __future__ import annotations

from collections.abc import Iterable

from wetread.domain.reader import Scope
from wetread.errors import InvalidInput
from wetread.record.condition import FALSE, Condition, all_of, any_of
from wetread.record.lossless import is_text
from wetread.record.search import query_values
from wetread.record.search.indexed import indexed, on_own_columns
from wetread.record.search.parameters import (
    FULL_TEXT,
    STORED_ELSEWHERE,
    SearchParameter,
    parameters_of,
    resource_types,
)

KINDS = ("token", "reference", "string", "uri", "date")
"""The kinds of search parameters that a scope may be narrowed by."""
_MOST_VALUES = 100
_MOST_PARAMETERS = 10
_NOT_HERE = frozenset({*FULL_TEXT, "_lastUpdated"})
"""What moves without a change of content, or asks a part of the index that no former version has."""


def checked_scopes(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """The scopes, where each names a type of this server and its constraint is one that we can keep.

    A constraint is of plain search parameters of the type: no chain, no `_has`, no modifier, no `_filter`, no `ap`. On
    `*` it is of parameters that every type has. Raises InvalidInput.
    """
    found = tuple(scopes)
    for scope in found:
        if scope.resource_type not in ("*", *STORED_ELSEWHERE) and scope.resource_type not in resource_types():
            raise InvalidInput(f"not a scope of this server: it has no resource type {scope.resource_type!r}")
        if scope.constraint and scope.resource_type in STORED_ELSEWHERE:
            raise InvalidInput(f"scopes on {scope.resource_type} take no search parameters here")
        if len(scope.constraint) > _MOST_PARAMETERS:
            raise InvalidInput(f"a scope has at most {_MOST_PARAMETERS} search parameters")
        types = sorted(resource_types()) if scope.resource_type == "*" else [scope.resource_type]
        for name, value in scope.constraint:
            for resource_type in types:
                _parameter(resource_type, name, value)
    return found


def narrowed_to(scope: Scope, resource_type: str) -> Condition:
    """What the search parameters of a scope leave of a type, as a condition on `resource r`: all of them hold.

    A constraint that `checked_scopes` would refuse leaves nothing.
    """
    try:
        return all_of([_condition(resource_type, name, value) for name, value in scope.constraint])
    except InvalidInput:
        return FALSE


def _condition(resource_type: str, name: str, value: str) -> Condition:
    parameter, values = _parameter(resource_type, name, value)
    matches = any_of([query_values.of_value(each, "", parameter) for each in values])
    return on_own_columns(matches) if name == "_id" else indexed((resource_type,), parameter.kind, name, matches)


def _parameter(resource_type: str, name: str, value: str) -> tuple[SearchParameter, list[str]]:
    """The parameter, and the values of which one must match. Raises InvalidInput for what no scope may ask."""
    if ":" in name or "." in name:
        raise InvalidInput(f"a scope's search parameter has no modifier and no chain: {name!r}")
    parameter = parameters_of(resource_type).get(name)
    if parameter is None or parameter.kind not in KINDS or name in _NOT_HERE:
        raise InvalidInput(f"no scope on {resource_type} can be narrowed by {name!r} here")
    values = query_values.split(value, ",")
    if not is_text(value) or len(values) > _MOST_VALUES:
        raise InvalidInput(f"a scope takes at most {_MOST_VALUES} values, of text, for {name!r}")
    for each in values:
        if parameter.kind == "date" and each.startswith("ap"):
            raise InvalidInput("a scope takes no approximate date: it would open other things every day")
        query_values.of_value(each, "", parameter)
    return parameter, values
