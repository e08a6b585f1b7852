"""The values of FHIRPath: nodes of a resource and what the language computes with, and how two of them compare."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias


class Node:
    """An element of a resource: its JSON value, its type's name, and the `_` sibling of a primitive.

    `place` is the node that it was reached from, its JSON member there, and its number in a list; None for a root.
    """

    __slots__ = ("extra", "place", "type", "value")

    def __init__(
        self, value: Any, type_name: str, extra: Any = None, place: tuple[Node, str, int | None] | None = None
    ) -> None:
        self.value = value
        self.type = type_name
        self.extra = extra
        self.place = place


@dataclass(frozen=True, slots=True)
class Temporal:
    """A date, dateTime or time of some precision. `parts`: year to second or hour to second, seconds as Decimal."""

    kind: str
    parts: tuple[int | Decimal, ...]
    offset_minutes: int | None
    text: str

    def utc(self) -> Temporal:
        """The same moment in UTC, where it tells its offset and has minutes at least."""
        if self.kind != "dateTime" or not self.offset_minutes or len(self.parts) < 5:
            return self
        year, month, day, hour, minute = (int(p) for p in self.parts[:5])
        try:
            moment = datetime(year, month, day, hour, minute, tzinfo=UTC) - timedelta(minutes=self.offset_minutes)
        except (OverflowError, ValueError):
            return self
        moved = (moment.year, moment.month, moment.day, moment.hour, moment.minute, *self.parts[5:])
        return Temporal(self.kind, moved, 0, self.text)


@dataclass(frozen=True, slots=True)
class Quantity:
    value: Decimal
    unit: str


Item: TypeAlias = Node | Temporal | Quantity | bool | int | Decimal | str
Items: TypeAlias = list[Any]
"""A collection of Item; typed loosely, since every function looks at its items' types itself."""

_DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:(T)(?:(\d\d)(?::(\d\d)(?::(\d\d(?:\.\d+)?))?)?)?(Z|[+-]\d\d:\d\d)?)?)?)?$"
)
_PARTIAL = re.compile(r"(\d{4})(?:-(\d\d))?(T)$")
_TIME = re.compile(r"(\d\d)(?::(\d\d)(?::(\d\d(?:\.\d+)?))?)?$")
_CALENDAR = {"year": "a", "month": "mo", "week": "wk", "day": "d", "hour": "h", "minute": "min", "second": "s"}
_CALENDAR |= {"millisecond": "ms"}
_SCALES = {"ms": (Decimal("0.001"), "s"), "min": (Decimal(60), "s"), "h": (Decimal(3600), "s")}
_SCALES |= {"d": (Decimal(86400), "s"), "wk": (Decimal(604800), "s"), "s": (Decimal(1), "s")}
_SCALES |= {"g": (Decimal(1), "g"), "mg": (Decimal("0.001"), "g"), "kg": (Decimal(1000), "g")}
_SCALES |= {"[lb_av]": (Decimal("453.59237"), "g"), "m": (Decimal(1), "m"), "cm": (Decimal("0.01"), "m")}
_SCALES |= {"mm": (Decimal("0.001"), "m"), "km": (Decimal(1000), "m"), "[in_i]": (Decimal("0.0254"), "m")}


def temporal(text: str) -> Temporal | None:
    """A date or dateTime from its FHIR form; a trailing `T` makes a date a dateTime."""
    found = _DATE.match(text) or _PARTIAL.match(text)
    if found is None:
        return None
    groups = found.groups()
    parts = [*groups[:3], *groups[4:7]] if len(groups) > 3 else list(groups[:2])
    given = tuple(Decimal(p) if n == 5 else int(p) for n, p in enumerate(parts) if p)
    return Temporal("dateTime" if "T" in text else "date", given, _offset(groups[-1] if "T" in text else None), text)


def time_of_day(text: str) -> Temporal | None:
    found = _TIME.match(text)
    if found is None:
        return None
    given = tuple(Decimal(p) if n == 2 else int(p) for n, p in enumerate(found.groups()) if p)
    return Temporal("time", given, None, text)


def _offset(text: str | None) -> int | None:
    if not text or text == "T":
        return None
    if text == "Z":
        return 0
    minutes = int(text[1:3]) * 60 + int(text[4:6])
    return -minutes if text[0] == "-" else minutes


def plain(item: Any) -> Any:
    """What the language computes with, for an item: a node's value as string, number, Temporal or Quantity."""
    if type(item) is not Node:
        return item
    value = item.value
    match item.type:
        case "date" | "dateTime" | "instant" if isinstance(value, str):
            return temporal(value) or value
        case "time" if isinstance(value, str):
            return time_of_day(value) or value
        case "Quantity" | "SimpleQuantity" | "Age" | "Duration" | "Count" | "Distance" if isinstance(value, Mapping):
            amount = value.get("value")
            if isinstance(amount, int | Decimal | float) and not value.get("comparator"):
                return Quantity(Decimal(str(amount)), str(value.get("code") or value.get("unit") or "1"))
    return value if not isinstance(value, float) else Decimal(str(value))


def _scaled(quantity: Quantity) -> Quantity:
    unit = _CALENDAR.get(quantity.unit, quantity.unit)
    factor, base = _SCALES.get(unit, (Decimal(1), unit))
    return Quantity(quantity.value * factor, base)


def equal(left: Any, right: Any) -> bool | None:
    """`=` of two items; None where it is undecided (dates of different precision)."""
    left, right = plain(left), plain(right)
    if isinstance(left, Temporal) or isinstance(right, Temporal):
        return _equal_times(left, right)
    if isinstance(left, Quantity) or isinstance(right, Quantity):
        left, right = _quantity(left), _quantity(right)
        if left is None or right is None:
            return False
        return _scaled(left) == _scaled(right)
    if isinstance(left, Node) or isinstance(right, Node):
        return False
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def _quantity(value: Any) -> Quantity | None:
    if isinstance(value, Quantity):
        return value
    return Quantity(Decimal(value), "1") if isinstance(value, int | Decimal) and not isinstance(value, bool) else None


def _as_temporal(value: Any, other: Any) -> Any:
    if isinstance(value, str) and isinstance(other, Temporal):
        return time_of_day(value) if other.kind == "time" else temporal(value)
    return value


def _equal_times(left: Any, right: Any) -> bool | None:
    left, right = _as_temporal(left, right), _as_temporal(right, left)
    if not isinstance(left, Temporal) or not isinstance(right, Temporal):
        return False
    if (left.kind == "time") is not (right.kind == "time"):
        return False
    order = _order_times(left, right)
    return None if order is None else order == 0


def _order_times(left: Temporal, right: Temporal) -> int | None:
    if left.kind != right.kind and "time" in (left.kind, right.kind):
        return None
    if len(left.parts) > 3 and len(right.parts) > 3 and left.kind == "dateTime":
        if (left.offset_minutes is None) is not (right.offset_minutes is None):
            return None
        left, right = left.utc(), right.utc()
    for one, other in zip(left.parts, right.parts, strict=False):
        if one != other:
            return -1 if one < other else 1
    return 0 if len(left.parts) == len(right.parts) else None


def order(left: Any, right: Any) -> int | None:
    """-1, 0 or 1; None where the two cannot be put in order. Raises TypeError for kinds that never can."""
    left, right = plain(left), plain(right)
    left, right = _as_temporal(left, right), _as_temporal(right, left)
    if isinstance(left, Temporal) and isinstance(right, Temporal):
        return _order_times(left, right)
    if isinstance(left, Quantity) or isinstance(right, Quantity):
        left, right = _quantity(left), _quantity(right)
        if left is None or right is None:
            raise TypeError("a quantity compares with a quantity only")
        one, other = _scaled(left), _scaled(right)
        return None if one.unit != other.unit else _order_plain(one.value, other.value)
    numbers = all(isinstance(v, int | Decimal) and not isinstance(v, bool) for v in (left, right))
    if numbers or (isinstance(left, str) and isinstance(right, str)):
        return _order_plain(left, right)
    raise TypeError("these values have no order")


def _order_plain(left: Any, right: Any) -> int:
    return 1 if left > right else -1 if left < right else 0


def equivalent(left: Any, right: Any) -> bool:
    """`~` of two items: case and blanks of strings aside, numbers to the lesser precision."""
    left, right = plain(left), plain(right)
    if isinstance(left, str) and isinstance(right, str):
        return " ".join(left.casefold().split()) == " ".join(right.casefold().split())
    if isinstance(left, Temporal) and isinstance(right, Temporal):
        if left.kind == right.kind and len(left.parts) == len(right.parts):
            return _order_times(left, right) == 0
        return False
    if isinstance(left, Decimal) or isinstance(right, Decimal):
        numbers = isinstance(left, int | Decimal) and isinstance(right, int | Decimal)
        return numbers and _rounded_equal(Decimal(left), Decimal(right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        one, other = ({k: v for k, v in m.items() if k != "id"} for m in (left, right))
        return one.keys() == other.keys() and all(equivalent(one[k], other[k]) for k in one)
    if isinstance(left, list) and isinstance(right, list):
        rest = list(right)
        for item in left:
            found = next((i for i, r in enumerate(rest) if equivalent(item, r)), None)
            if found is None:
                return False
            rest.pop(found)
        return not rest
    return equal(left, right) is True


def _rounded_equal(left: Decimal, right: Decimal) -> bool:
    digits = min(max(0, -int(v.normalize().as_tuple().exponent)) for v in (left, right))
    return round(left, digits) == round(right, digits)
