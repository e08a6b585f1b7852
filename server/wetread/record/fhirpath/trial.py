"""Functions of FHIRPath that its standard has for trial use, and FHIR's additions of later releases."""

from __future__ import annotations

import base64
import binascii
import calendar
import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cmp_to_key
from typing import Any

from wetread.record.fhirpath import navigation, syntax, values
from wetread.record.fhirpath.evaluate import compile_tree
from wetread.record.fhirpath.scope import Evaluate, Scope, Undecided, single
from wetread.record.fhirpath.values import Items, Node, Quantity, Temporal

_DEFAULT_DIGITS = 8
_MOST_DIGITS = 31
_DATE_DIGITS = (4, 6, 8, 10, 12, 17)
_TIME_DIGITS = (2, 4, 9)
_DATE = 3


def sort(arguments: Sequence[syntax.Tree]) -> Evaluate:
    """`sort(key, -key, ...)`; by the items themselves where no key is given; what has no key comes first, whatever the
    direction."""
    keys = [
        (compile_tree(a.operand), -1) if isinstance(a, syntax.Unary) and a.sign == "-" else (compile_tree(a), 1)
        for a in arguments
    ] or [(compile_tree(syntax.Variable("$this")), 1)]

    def sorted_items(focus: Items, scope: Scope) -> Items:
        this = scope.this
        rows = []
        try:
            for item in focus:
                scope.this = [item]
                rows.append((item, [single(key(scope.this, scope)) for key, _ in keys]))
        finally:
            scope.this = this
        signs = [sign for _, sign in keys]

        def compare(one: tuple[Any, list[Any]], other: tuple[Any, list[Any]]) -> int:
            orders = (_order(a, b, sign) for a, b, sign in zip(one[1], other[1], signs, strict=True))
            return next((order for order in orders if order), 0)

        return [item for item, _ in sorted(rows, key=cmp_to_key(compare))]

    return sorted_items


def _order(one: Any, other: Any, sign: int) -> int:
    if one is None or other is None:
        return (one is not None) - (other is not None)
    return (values.order(one, other) or 0) * sign


def _encode(text: str, form: str) -> str | None:
    data = text.encode()
    match form:
        case "hex":
            return data.hex()
        case "base64":
            return base64.b64encode(data).decode()
        case "urlbase64":
            return base64.urlsafe_b64encode(data).decode()
    return None


def _decode(text: str, form: str) -> str | None:
    try:
        match form:
            case "hex":
                return bytes.fromhex(text).decode()
            case "base64":
                return base64.b64decode(text, validate=True).decode()
            case "urlbase64":
                return base64.urlsafe_b64decode(text).decode()
    except (binascii.Error, ValueError):
        return None
    return None


def _escape(text: str, form: str) -> str | None:
    if form == "html":
        return html.escape(text, quote=True).replace("&#x27;", "&#39;")
    return json.dumps(text, ensure_ascii=False)[1:-1] if form == "json" else None


def _unescape(text: str, form: str) -> str | None:
    if form == "html":
        return html.unescape(text)
    return syntax.unescaped(text) if form == "json" else None


def _of_text(function: Callable[[str, str], str | None]) -> Callable[..., Items]:
    def apply(focus: Items, form: Items) -> Items:
        text, kind = single(focus), single(form)
        if not isinstance(text, str) or not isinstance(kind, str):
            return []
        found = function(text, kind)
        return [] if found is None else [found]

    return apply


def _type(focus: Items) -> Items:
    """What an item is: its type's namespace and name."""
    found = []
    for item in focus:
        space, _, name = navigation.type_of(item).rpartition(".")
        found.append(Node({"namespace": "System" if space == "System" else "FHIR", "name": name}, ""))
    return found


def _precision(focus: Items) -> Items:
    value = single(focus)
    match value:
        case Temporal():
            return [sum(c.isdigit() for c in _local(value))]
        case bool() | None:
            return []
        case int() | Decimal():
            return [max(0, -int(Decimal(value).as_tuple().exponent))]
    return []


def _local(moment: Temporal) -> str:
    """The text of a moment without its offset."""
    day, _, time = moment.text.partition("T")
    return day + time.removesuffix("Z").partition("+")[0].partition("-")[0] if time else day


def _comparable(focus: Items, other: Items) -> Items:
    one, two = single(focus), single(other)
    if not isinstance(one, Quantity) or not isinstance(two, Quantity):
        return []
    return [values.order(one, two) is not None]


def _boundary(is_high: bool) -> Callable[..., Items]:
    """The least or greatest value that would be written like this one, to a number of digits."""

    def boundary(focus: Items, precision: Items | None = None) -> Items:
        value, digits = single(focus), single(precision) if precision else None
        if digits is not None and not isinstance(digits, int):
            raise Undecided("a precision is a number")
        found: Any = None
        match value:
            case Temporal():
                if isinstance(focus[0], Node) and focus[0].type == "dateTime":
                    value = replace(value, kind="dateTime")  # of which it may be a date alone
                found = _moment(value, is_high, digits)
            case Quantity():
                edge = _edge(value.value, is_high, digits)
                found = None if edge is None else Quantity(edge, value.unit)
            case bool() | None:
                pass
            case int() | Decimal():
                found = _edge(Decimal(value), is_high, digits)
        return [] if found is None else [found]

    return boundary


def _edge(value: Decimal, is_high: bool, digits: int | None) -> Decimal | None:
    digits = _DEFAULT_DIGITS if digits is None else digits
    if not 0 <= digits <= _MOST_DIGITS:
        return None
    half = Decimal(5).scaleb(int(value.as_tuple().exponent) - 1)
    edge = value + half if is_high else value - half
    return edge.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING if is_high else ROUND_FLOOR)


def _moment(value: Temporal, is_high: bool, digits: int | None) -> Temporal | None:
    known: tuple[int, ...]
    rest: tuple[int | Decimal, ...]
    if value.kind == "time":
        known, whole, digits = _TIME_DIGITS, value.parts, digits or _TIME_DIGITS[-1]
        rest = (23, 59, Decimal("59.999")) if is_high else (0, 0, Decimal("0.000"))
    else:
        known, whole = _DATE_DIGITS, value.parts
        digits = digits or (_DATE_DIGITS[-1] if value.kind == "dateTime" else _DATE_DIGITS[2])
        year, month = int(whole[0]), int(whole[1]) if len(whole) > 1 else (12 if is_high else 1)
        last = calendar.monthrange(year, month)[1]
        rest = (0, 12, last, 23, 59, Decimal("59.999")) if is_high else (0, 1, 1, 0, 0, Decimal("0.000"))
    if digits not in known:
        return None
    parts = [*whole, *rest[len(whole) :]][: known.index(digits) + 1]
    if is_high and isinstance(parts[-1], Decimal):
        unsaid = Decimal(1).scaleb(int(parts[-1].as_tuple().exponent))
        parts[-1] += max(unsaid - Decimal("0.001"), Decimal(0))
    texts = [f"{int(p):02}" if not isinstance(p, Decimal) else f"{p:06.3f}" for p in parts]
    if value.kind == "time":
        return values.time_of_day(":".join(texts))
    texts[0] = f"{int(parts[0]):04}"
    text = "-".join(texts[:_DATE])
    if len(texts) > _DATE:
        text += "T" + ":".join(texts[_DATE:]) + _offset(value, is_high)
    return values.temporal(text)


def _offset(value: Temporal, is_high: bool) -> str:
    if value.offset_minutes is None:
        return "-12:00" if is_high else "+14:00"
    minutes = abs(value.offset_minutes)
    return f"{'-' if value.offset_minutes < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}"


PLAIN: Mapping[str, tuple[int, int, Callable[..., Items]]] = {
    "encode": (1, 1, _of_text(_encode)),
    "decode": (1, 1, _of_text(_decode)),
    "escape": (1, 1, _of_text(_escape)),
    "unescape": (1, 1, _of_text(_unescape)),
    "type": (0, 0, _type),
    "precision": (0, 0, _precision),
    "comparable": (1, 1, _comparable),
    "lowBoundary": (0, 1, _boundary(False)),
    "highBoundary": (0, 1, _boundary(True)),
}
