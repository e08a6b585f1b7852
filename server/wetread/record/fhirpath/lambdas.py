"""The functions of FHIRPath whose arguments are expressions, applied to each item (FHIRPath 2.0.0, 5.1, 5.2, 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wetread.record.fhirpath import navigation, values
from wetread.record.fhirpath.scope import Evaluate, Scope, Undecided, truth
from wetread.record.fhirpath.values import Items, Node, plain

_MOST_REPEATS = 10_000


def _each(criteria: Evaluate, focus: Items, scope: Scope) -> list[Items]:
    """What the criteria give for every item, `$this` and `$index` set."""
    scope.compares(focus, focus[:1])  # each item once: a chain of these may double what it holds with every step
    this, index = scope.this, scope.index
    results = []
    try:
        for number, item in enumerate(focus):
            scope.this, scope.index = [item], number
            results.append(criteria(scope.this, scope))
    finally:
        scope.this, scope.index = this, index
    return results


def _where(criteria: Evaluate) -> Evaluate:
    def where(focus: Items, scope: Scope) -> Items:
        found = _each(criteria, focus, scope)
        return [item for item, result in zip(focus, found, strict=True) if truth(result)]

    return where


def _exists(criteria: Evaluate | None = None) -> Evaluate:
    if criteria is None:
        return lambda focus, scope: [bool(focus)]
    where = _where(criteria)
    return lambda focus, scope: [bool(where(focus, scope))]


def _all(criteria: Evaluate) -> Evaluate:
    return lambda focus, scope: [all(truth(result) for result in _each(criteria, focus, scope))]


def _select(projection: Evaluate) -> Evaluate:
    return lambda focus, scope: [item for result in _each(projection, focus, scope) for item in result]


def _repeat(projection: Evaluate) -> Evaluate:
    def repeat(focus: Items, scope: Scope) -> Items:
        found: Items = []
        level = focus
        while level:
            fresh = [i for result in _each(projection, level, scope) for i in result]
            level = []
            for item in fresh:
                if not any(item is known or _same(item, known) for known in found):
                    found.append(item)
                    level.append(item)
            if len(found) > _MOST_REPEATS:
                raise Undecided("repeat() finds no end")
        return found

    return repeat


def _same(one: Any, other: Any) -> bool:
    """Nodes are the same by place, values by value."""
    if isinstance(one, Node) and isinstance(other, Node):
        return one.value is other.value and type(one.value) in (dict, list)
    return values.equal(one, other) is True


def _iif(condition: Evaluate, then: Evaluate, otherwise: Evaluate | None = None) -> Evaluate:
    def iif(focus: Items, scope: Scope) -> Items:
        if len(focus) > 1:
            raise Undecided("iif() takes one item")
        this = scope.this
        scope.this = focus
        try:
            if truth(condition(focus, scope)):
                return then(focus, scope)
            return otherwise(focus, scope) if otherwise else []
        finally:
            scope.this = this

    return iif


def _aggregate(step: Evaluate, start: Evaluate | None = None) -> Evaluate:
    def aggregate(focus: Items, scope: Scope) -> Items:
        this, index, total = scope.this, scope.index, scope.total
        try:
            scope.total = start(focus, scope) if start else []
            scope.compares(focus, focus[:1])
            for number, item in enumerate(focus):
                scope.this, scope.index = [item], number
                scope.total = step(scope.this, scope)
            return scope.total
        finally:
            scope.this, scope.index, scope.total = this, index, total

    return aggregate


def _trace(*_: Evaluate) -> Evaluate:
    """Gives its input; nothing of a resource is ever written to a log."""
    return lambda focus, scope: focus


def _resolve() -> Evaluate:
    """Contained resources only: no other resource is read."""

    def resolve(focus: Items, scope: Scope) -> Items:
        found: Items = []
        for item in focus:
            value = item.value.get("reference") if type(item) is Node and type(item.value) is dict else plain(item)
            if isinstance(value, str) and value.startswith("#"):
                within = navigation.child([scope.root], "contained")
                found += [n for n in within if isinstance(n.value, dict) and n.value.get("id") == value[1:]]
        return found

    return resolve


LAMBDAS: Mapping[str, tuple[int, int, Callable[..., Evaluate]]] = {
    "where": (1, 1, _where),
    "exists": (0, 1, _exists),
    "all": (1, 1, _all),
    "select": (1, 1, _select),
    "repeat": (1, 1, _repeat),
    "iif": (2, 3, _iif),
    "aggregate": (1, 2, _aggregate),
    "trace": (1, 2, _trace),
    "resolve": (0, 0, _resolve),
}
