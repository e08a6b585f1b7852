"""The functions of FHIRPath (FHIRPath 2.0.0, 5), and FHIR's own (FHIR R4 fhirpath.html 2.9.1.5)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from wetread.record.fhirpath import navigation, syntax, trial, values
from wetread.record.fhirpath.conversions import CONVERSIONS
from wetread.record.fhirpath.evaluate import compile_tree
from wetread.record.fhirpath.lambdas import LAMBDAS
from wetread.record.fhirpath.operators import contains, distinct
from wetread.record.fhirpath.scope import Evaluate, Scope, Undecided, bounded, single, truth
from wetread.record.fhirpath.values import Items, Node, Quantity, Temporal, plain

REGULAR_EXPRESSIONS = frozenset({"matches", "matchesFull", "replaceMatches"})
"""May run for ever, on a text or by an expression that was made for that: not for those who bring their own."""

_MOST_BITS = 4000
"""Of the result of power()."""
_MOST_DIGITS = 4000
"""Of a number that is computed with: `1E+1000000` takes half a minute as an integer."""


def call(name: str, arguments: Sequence[syntax.Tree]) -> Evaluate:
    """Raises NotFhirPath for a function that is not here, or the wrong number of arguments."""
    if name in _OF_TYPE:
        return _type_function(name, arguments)
    if name == "sort":
        return trial.sort(arguments)
    if name in LAMBDAS:
        least, most, make = LAMBDAS[name]
        _require_count(name, arguments, least, most)
        return make(*(compile_tree(a) for a in arguments))
    if name not in _PLAIN:
        raise syntax.NotFhirPath(f"the FHIRPath function {name}() is not available here")
    least, most, function = _PLAIN[name]
    _require_count(name, arguments, least, most)
    if not arguments:
        return lambda focus, scope: function(focus)
    given = [compile_tree(a) for a in arguments]
    if name in _OF_SETS:
        return _on_sets(function, given[0])
    return lambda focus, scope: function(focus, *(a(scope.this, scope) for a in given))


def _on_sets(function: Callable[..., Items], argument: Evaluate) -> Evaluate:
    def apply(focus: Items, scope: Scope) -> Items:
        other = argument(scope.this, scope)
        scope.compares(focus, other)
        return function(focus, other)

    return apply


def _require_count(name: str, arguments: Sequence[syntax.Tree], least: int, most: int) -> None:
    if not least <= len(arguments) <= most:
        raise syntax.NotFhirPath(f"the FHIRPath function {name}() takes {least} to {most} arguments")


_OF_SETS = frozenset({"union", "intersect", "exclude", "subsetOf", "supersetOf"})
_OF_TYPE = frozenset({"ofType", "as", "is"})


def _type_function(name: str, arguments: Sequence[syntax.Tree]) -> Evaluate:
    if len(arguments) != 1:
        raise syntax.NotFhirPath(f"{name}() takes one type")
    wanted = _type_name(arguments[0])
    if name == "is":

        def is_of(focus: Items, scope: Scope) -> Items:
            if len(focus) > 1:
                raise Undecided("is() takes one item")
            return [navigation.is_type(focus[0], wanted)] if focus else []

        return is_of
    return lambda focus, scope: [item for item in focus if navigation.is_type(item, wanted)]


def _type_name(tree: syntax.Tree) -> str:
    match tree:
        case syntax.Name():
            return tree.name
        case syntax.Dot(left=syntax.Name() as left, right=syntax.Name() as right):
            return f"{left.name}.{right.name}"
    raise syntax.NotFhirPath("a type's name was expected")


def _bools(focus: Items) -> list[bool]:
    found = [plain(item) for item in focus]
    if not all(isinstance(v, bool) for v in found):
        raise Undecided("booleans were expected")
    return found


def _not(focus: Items) -> Items:
    value = truth(focus)
    return [] if value is None else [not value]


def _subset(focus: Items, other: Items) -> bool:
    return all(contains(other, item) for item in focus)


def _text(focus: Items) -> str | None:
    value = single(focus)
    if value is None:
        return None
    if not isinstance(value, str):
        if isinstance(value, Temporal) and isinstance(focus[0], Node):
            return value.text
        raise Undecided("a string was expected")
    return value


def _on_text(function: Callable[..., Any]) -> Callable[..., Items]:
    """A function of a string, whose arguments are single values; nothing in, or a missing argument: nothing out."""

    def apply(focus: Items, *arguments: Items) -> Items:
        text, given = _text(focus), [single(a) for a in arguments]
        if text is None or None in given:
            return []
        result = function(text, *given)
        return [] if result is None else result if isinstance(result, list) else [result]

    return apply


def _replace(text: str, old: str, new: str) -> str:
    return bounded(text, text.count(old) * len(new)).replace(old, new)


def _substring(text: str, start: int, length: int | None = None) -> str | None:
    if not 0 <= start < len(text):
        return None
    return text[start:] if length is None else text[start : start + max(length, 0)]


def pattern(text: str) -> re.Pattern[str]:
    """A regular expression of the language. Raises Undecided."""
    try:
        return re.compile(text.replace("\\/", "/"), re.DOTALL)
    except re.error as error:
        raise Undecided("not a regular expression") from error


def _replace_matches(text: str, regex: str, substitution: str) -> str:
    if not regex:
        return text
    try:
        return pattern(regex).sub(re.sub(r"\$(\d)", r"\\\1", substitution), text)
    except re.error as error:
        raise Undecided("not a substitution") from error


def _number(value: Any) -> int | Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise Undecided("a number was expected")
    if isinstance(value, Decimal) and value.adjusted() > _MOST_DIGITS:
        raise Undecided("the number is too large")
    return value


def _on_number(function: Callable[..., Any]) -> Callable[..., Items]:
    def apply(focus: Items, *arguments: Items) -> Items:
        value, given = single(focus), [single(a) for a in arguments]
        if value is None or None in given:
            return []
        if isinstance(value, Quantity):
            return [Quantity(Decimal(function(_number(value.value), *map(_number, given))), value.unit)]
        result = function(_number(value), *map(_number, given))
        return [] if result is None else [result]

    return apply


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        return base**exponent if base.bit_length() * exponent < _MOST_BITS else None
    if base < 0 and exponent != int(exponent):
        return None
    return Decimal(base) ** Decimal(exponent)


def _rounded(value: Any, precision: int = 0) -> Decimal:
    return Decimal(value).quantize(Decimal(1).scaleb(-precision), rounding="ROUND_HALF_UP")


def _converts(function: Callable[..., Any]) -> Callable[..., Items]:
    def convert(focus: Items, *arguments: Items) -> Items:
        value = single(focus)
        result = None if value is None else function(value, *(single(a) for a in arguments))
        return [] if result is None else [result]

    return convert


def _can_convert(function: Callable[..., Any]) -> Callable[..., Items]:
    def can(focus: Items, *arguments: Items) -> Items:
        value = single(focus)
        return [] if value is None else [function(value) is not None]

    return can


def _single_item(focus: Items) -> Items:
    if len(focus) > 1:
        raise Undecided("one item was expected")
    return focus


def _skip(focus: Items, number: Items) -> Items:
    return focus[max(single(number) or 0, 0) :]


def _take(focus: Items, number: Items) -> Items:
    return focus[: max(single(number) or 0, 0)]


def _exclude(focus: Items, other: Items) -> Items:
    return [item for item in focus if not contains(other, item)]


def _of_extension(focus: Items, url: Items) -> Items:
    wanted = single(url)
    found = navigation.child(focus, "extension")
    return [n for n in found if isinstance(n.value, dict) and n.value.get("url") == wanted]


def _join(focus: Items, separator: Items | None = None) -> Items:
    between = single(separator) if separator else ""
    texts = [text for text in map(navigation.string_of, focus) if text is not None]
    bounded("", sum(map(len, texts)) + len(texts) * len(str(between)))
    return [str(between).join(texts)]


def _split(text: str, separator: str) -> list[str]:
    return text.split(separator) if separator else list(text)


def _html(focus: Items) -> Items:
    from wetread.record.validation.narrative import faults

    return [not any(faults(str(item.value)) for item in focus if type(item) is Node)]


def _has_value(focus: Items) -> Items:
    return [len(focus) == 1 and navigation.has_value(focus[0])]


def _now(focus: Items) -> Items:
    return [values.temporal(datetime.now().astimezone().isoformat(timespec="milliseconds"))]


_PLAIN: Mapping[str, tuple[int, int, Callable[..., Items]]] = {
    **trial.PLAIN,
    "empty": (0, 0, lambda focus: [not focus]),
    "not": (0, 0, _not),
    "count": (0, 0, lambda focus: [len(focus)]),
    "hasValue": (0, 0, _has_value),
    "getValue": (0, 0, lambda focus: [plain(focus[0])] if _has_value(focus)[0] else []),
    "children": (0, 0, navigation.children),
    "descendants": (0, 0, navigation.descendants),
    "first": (0, 0, lambda focus: focus[:1]),
    "last": (0, 0, lambda focus: focus[-1:]),
    "tail": (0, 0, lambda focus: focus[1:]),
    "single": (0, 0, _single_item),
    "skip": (1, 1, _skip),
    "take": (1, 1, _take),
    "distinct": (0, 0, distinct),
    "isDistinct": (0, 0, lambda focus: [len(distinct(focus)) == len(focus)]),
    "union": (1, 1, lambda focus, other: distinct([*focus, *other])),
    "combine": (1, 1, lambda focus, other: [*focus, *other]),
    "intersect": (1, 1, lambda focus, other: [i for i in distinct(focus) if contains(other, i)]),
    "exclude": (1, 1, _exclude),
    "subsetOf": (1, 1, lambda focus, other: [_subset(focus, other)]),
    "supersetOf": (1, 1, lambda focus, other: [_subset(other, focus)]),
    "allTrue": (0, 0, lambda focus: [all(_bools(focus))]),
    "anyTrue": (0, 0, lambda focus: [any(_bools(focus))]),
    "allFalse": (0, 0, lambda focus: [not any(_bools(focus))]),
    "anyFalse": (0, 0, lambda focus: [not all(_bools(focus))]),
    "extension": (1, 1, _of_extension),
    "hasExtension": (1, 1, lambda focus, url: [bool(_of_extension(focus, url))]),
    "htmlChecks": (0, 0, _html),
    "startsWith": (1, 1, _on_text(str.startswith)),
    "endsWith": (1, 1, _on_text(str.endswith)),
    "contains": (1, 1, _on_text(str.__contains__)),
    "matches": (1, 1, _on_text(lambda text, regex: pattern(regex).search(text) is not None)),
    "matchesFull": (1, 1, _on_text(lambda text, regex: pattern(regex).fullmatch(text) is not None)),
    "replace": (2, 2, _on_text(_replace)),
    "replaceMatches": (2, 2, _on_text(_replace_matches)),
    "substring": (1, 2, _on_text(_substring)),
    "indexOf": (1, 1, _on_text(str.find)),
    "length": (0, 0, _on_text(len)),
    "upper": (0, 0, _on_text(str.upper)),
    "lower": (0, 0, _on_text(str.lower)),
    "trim": (0, 0, _on_text(str.strip)),
    "split": (1, 1, _on_text(_split)),
    "toChars": (0, 0, _on_text(list)),
    "join": (0, 1, _join),
    "abs": (0, 0, _on_number(abs)),
    "ceiling": (0, 0, _on_number(math.ceil)),
    "floor": (0, 0, _on_number(math.floor)),
    "truncate": (0, 0, _on_number(int)),
    "round": (0, 1, _on_number(_rounded)),
    "sqrt": (0, 0, _on_number(lambda v: None if v < 0 else Decimal(v).sqrt())),
    "exp": (0, 0, _on_number(lambda v: Decimal(v).exp())),
    "ln": (0, 0, _on_number(lambda v: None if v <= 0 else Decimal(v).ln())),
    "log": (1, 1, _on_number(lambda v, base: None if v <= 0 or base <= 1 else _rounded(math.log(v, base), 12))),
    "power": (1, 1, _on_number(_power)),
    "now": (0, 0, _now),
    "today": (0, 0, lambda focus: [values.temporal(datetime.now().astimezone().date().isoformat())]),
    "timeOfDay": (
        0,
        0,
        lambda focus: [values.time_of_day(datetime.now().astimezone().time().isoformat("milliseconds"))],
    ),
    **{f"to{name}": (0, 1, _converts(function)) for name, function in CONVERSIONS.items()},
    **{f"convertsTo{name}": (0, 1, _can_convert(function)) for name, function in CONVERSIONS.items()},
}
