"""The operators of FHIRPath on whole collections (FHIRPath 2.0.0, 6): equality, order, membership, arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, DivisionByZero, InvalidOperation
from typing import Any

from wetread.record.fhirpath import values
from wetread.record.fhirpath.scope import MOST_COMPARISONS, Undecided, bounded, single
from wetread.record.fhirpath.values import Items, Quantity


def equal_collections(left: Items, right: Items) -> bool | None:
    if not left or not right:
        return None
    if len(left) != len(right):
        return False
    undecided = False
    for one, other in zip(left, right, strict=True):
        same = values.equal(one, other)
        if same is False:
            return False
        undecided = undecided or same is None
    return None if undecided else True


def _equals(left: Items, right: Items) -> Items:
    same = equal_collections(left, right)
    return [] if same is None else [same]


def _differs(left: Items, right: Items) -> Items:
    same = equal_collections(left, right)
    return [] if same is None else [not same]


def equivalent_collections(left: Items, right: Items) -> bool:
    if len(left) != len(right):
        return False
    rest = list(right)
    compared = 0
    for one in left:
        found = next((n for n, other in enumerate(rest) if values.equivalent(one, other)), None)
        if found is None:
            return False
        rest.pop(found)
        compared = _within_bounds(compared + found)
    return True


def _within_bounds(compared: int) -> int:
    if compared > MOST_COMPARISONS:
        raise Undecided("too many items to compare")
    return compared


def _compares(accepted: Callable[[int], bool]) -> Callable[[Items, Items], Items]:
    def compare(left: Items, right: Items) -> Items:
        one, other = single(left), single(right)
        if one is None or other is None:
            return []
        try:
            order = values.order(one, other)
        except TypeError as error:
            raise Undecided(str(error)) from error
        return [] if order is None else [accepted(order)]

    return compare


def contains(items: Items, wanted: Any) -> bool:
    return any(values.equal(item, wanted) for item in items)


def distinct(items: Items) -> Items:
    texts = [values.plain(item) for item in items]
    if all(type(text) is str for text in texts):  # many, mostly: ids, urls, codes
        firsts: dict[str, Any] = {}
        for text, item in zip(texts, items, strict=True):
            firsts.setdefault(text, item)
        return list(firsts.values())
    found: Items = []
    compared = 0
    for item in items:
        compared = _within_bounds(compared + len(found))
        if not contains(found, item):
            found.append(item)
    return found


def is_in(left: Items, right: Items) -> Items:
    if not left:
        return []
    if len(left) > 1:
        raise Undecided("`in` takes one item on its left")
    return [contains(right, left[0])]


def _arithmetic(operator: str) -> Callable[[Items, Items], Items]:
    def compute(left: Items, right: Items) -> Items:
        one, other = single(left), single(right)
        if one is None or other is None:
            return []
        if operator == "+" and isinstance(one, str) and isinstance(other, str):
            return [bounded(one + other)]
        if isinstance(one, values.Temporal) and isinstance(other, Quantity) and operator in "+-":
            from wetread.record.fhirpath.calendar import shifted

            moved = shifted(one, other if operator == "+" else Quantity(-other.value, other.unit))
            if moved is None:
                raise Undecided("not a duration, or out of the calendar")
            return [moved]
        if isinstance(one, Quantity) and isinstance(other, Quantity):
            return _of_quantities(operator, one, other)
        for value in (one, other):
            if isinstance(value, bool) or not isinstance(value, int | Decimal):
                raise Undecided("arithmetic takes numbers")
        return _of_numbers(operator, one, other)

    return compute


def _of_quantities(operator: str, one: Quantity, other: Quantity) -> Items:
    if operator in "+-" and one.unit == other.unit:
        return [Quantity(one.value + (other.value if operator == "+" else -other.value), one.unit)]
    if operator == "*" and "1" in (one.unit, other.unit):
        return [Quantity(one.value * other.value, other.unit if one.unit == "1" else one.unit)]
    if operator == "/" and other.value and other.unit in ("1", one.unit):
        return [Quantity(one.value / other.value, "1" if other.unit == one.unit else one.unit)]
    return []


def _of_numbers(operator: str, one: Any, other: Any) -> Items:
    try:
        match operator:
            case "+":
                return [one + other]
            case "-":
                return [one - other]
            case "*":
                return [one * other]
            case "/":
                return [Decimal(one) / Decimal(other)]
            case "div":
                return [int(Decimal(one) // Decimal(other))]
            case _:
                rest = Decimal(one) % Decimal(other)
                return [rest if isinstance(one, Decimal) or isinstance(other, Decimal) else int(rest)]
    except (DivisionByZero, InvalidOperation, ZeroDivisionError):
        return []


OPERATORS: Mapping[str, Callable[[Items, Items], Items]] = {
    "=": _equals,
    "!=": _differs,
    "~": lambda left, right: [equivalent_collections(left, right)],
    "!~": lambda left, right: [not equivalent_collections(left, right)],
    "<": _compares(lambda order: order < 0),
    "<=": _compares(lambda order: order <= 0),
    ">": _compares(lambda order: order > 0),
    ">=": _compares(lambda order: order >= 0),
    **{operator: _arithmetic(operator) for operator in ("+", "-", "*", "/", "div", "mod")},
}
