"""One value of a search parameter as a predicate on index rows in memory: what `query_values` says in SQL."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeAlias

from wetread.record.search import query_values, units
from wetread.record.search.index_rows import BEGINNING, END, Row, bounded, folded, reference_parts
from wetread.record.search.parameters import SearchParameter
from wetread.record.search.query_values import date_asked, prefixed, split, unescape

Predicate: TypeAlias = Callable[[Row], bool]
"""Of a row without its parameter: the columns of the kind's table as they stand in `index.COLUMNS`."""

_CODE = re.compile(r"[A-Za-z0-9\-.]{1,64}")


def of_value(value: str, modifier: str, parameter: SearchParameter) -> Predicate:
    """Raises InvalidInput for a value that is not of the parameter's kind, as the search does."""
    query_values.of_value(value, modifier, parameter)
    return _VALUES[parameter.kind](value, modifier, parameter)


def normal(value: str, modifier: str, parameter: SearchParameter) -> str:
    """The value as index entries spell it: a reference as `Type/id`, a bare id or an absolute url; a token as `code`,
    `system|code`, `|code` or `system|`; any other without its escapes."""
    match parameter.kind, modifier:
        case "reference", "" if not _CODE.fullmatch(unescape(value)):
            parts = reference_parts(unescape(value))
            return parts.url or f"{parts.target_type}/{parts.target_id}"
        case "token", "" | "not":
            return "|".join(bounded(unescape(part)) for part in split(value, "|"))
    return unescape(value)


def prefix_of(value: str) -> str:
    """The prefix of a date, number or quantity: `eq` where none stands there."""
    return prefixed(value)[0]


def _token(value: str, modifier: str, parameter: SearchParameter) -> Predicate:
    match modifier:
        case "text":
            words = folded(unescape(value))
            line = f"\n{words}"
            return lambda row: row[2].startswith(words) or line in row[2]
        case "of-type":
            system, code, identifier = (unescape(part) for part in split(value, "|"))
            wanted = bounded(f"{system}|{code}"), bounded(identifier)
            return lambda row: row[:2] == wanted
    if parameter.code == "_id":
        own_id = unescape(value)
        return lambda row: row[1] == own_id
    return _system_and_code(value, 0)


def _system_and_code(value: str, at: int) -> Predicate:
    """On the two columns from `at`, the system first."""
    parts = [bounded(unescape(part)) for part in split(value, "|")]
    if len(parts) == 1:
        return lambda row: row[at + 1] == parts[0]
    if not parts[1]:
        return lambda row: row[at] == parts[0]
    wanted = tuple(parts)
    return lambda row: row[at : at + 2] == wanted


def _reference(value: str, modifier: str, parameter: SearchParameter) -> Predicate:
    if modifier == "identifier":
        return _system_and_code(value, 3)
    text = unescape(value)
    if _CODE.fullmatch(text):
        return lambda row: row[1] == text and not row[2] and (not modifier or row[0] == modifier)
    parts = reference_parts(text)
    if parts.url:
        return lambda row: row[2] == parts.url
    wanted = parts.target_type, parts.target_id, ""
    return lambda row: row[:3] == wanted and row[1] != ""


def _string(value: str, modifier: str, parameter: SearchParameter) -> Predicate:
    text = unescape(value)
    words = folded(text)
    if modifier == "exact":
        return lambda row: row[1] == text
    if modifier in ("contains", "text"):
        return lambda row: words in row[0]
    return lambda row: row[0].startswith(words)


def _uri(value: str, modifier: str, parameter: SearchParameter) -> Predicate:
    text = unescape(value)
    match modifier:
        case "below":
            return lambda row: row[0].startswith(text)
        case "above":
            return lambda row: text.startswith(row[0])
    wanted = bounded(text)
    return lambda row: row[0] == wanted


def _date(value: str, modifier: str, parameter: SearchParameter) -> Predicate:
    prefix, low, high = date_asked(value, parameter)
    if parameter.code == "_lastUpdated":
        return _last_updated(prefix, low, high)
    match prefix:
        case "eq":
            return lambda row: low <= row[0] < high and row[1] <= high
        case "ne":
            return lambda row: row[0] < low or row[1] > high
        case "gt":
            return lambda row: row[1] > high
        case "lt":
            return lambda row: row[0] < low
        case "ge":
            return lambda row: row[0] >= low or row[1] > high
        case "le":
            return lambda row: row[1] <= high or row[0] < low
        case "sa":
            return lambda row: row[0] >= high
        case "eb":
            return lambda row: row[1] <= low
    return _about(low, high)


def _last_updated(prefix: str, low: datetime, high: datetime) -> Predicate:
    match prefix:
        case "eq":
            return lambda row: low <= row[0] < high
        case "ne":
            return lambda row: not low <= row[0] < high
        case "gt" | "sa":
            return lambda row: row[0] >= high
        case "ge":
            return lambda row: row[0] >= low
        case "lt" | "eb":
            return lambda row: row[0] < low
        case "le":
            return lambda row: row[0] < high
    is_near = _about(low, high)
    return lambda row: is_near((row[0], row[0]))


def _about(low: datetime, high: datetime) -> Predicate:
    """What `ap` takes as near is asked of each row anew: it is a part of the time that has passed."""

    def is_near(row: Row) -> bool:
        slack: timedelta = abs(datetime.now(UTC) - low) / 10
        start = low - slack if low - BEGINNING > slack else BEGINNING
        end = high + slack if END - high > slack else END
        return bool(row[0] < end and row[1] > start)

    return is_near


def _number(value: str, modifier: str, parameter: SearchParameter) -> Predicate:
    prefix, number = prefixed(value)
    return _compared(prefix, Decimal(number))


def _quantity(value: str, modifier: str, parameter: SearchParameter) -> Predicate:
    text, *unit = split(value, "|")
    prefix, number = prefixed(text)
    compared = _compared(prefix, Decimal(number))
    match [unescape(part) for part in unit]:
        case ["", code] if code:
            named = bounded(code)
            return lambda row: named in (row[3], row[4]) and compared(row)
        case [system, ""] if system:
            of_system = bounded(system)
            return lambda row: row[2] == of_system and compared(row)
        case [system, code] if code:
            canonical = units.canonical(code) if system == units.UCUM else None
            if canonical is not None:
                converted = _compared(prefix, Decimal(number), canonical)
                return lambda row: row[7] == canonical.unit and converted(row)
            wanted = bounded(system), bounded(code)
            return lambda row: row[2:4] == wanted and compared(row)
    return compared


def _compared(prefix: str, number: Decimal, canonical: units.Canonical | None = None) -> Predicate:
    """100 means [99.5, 100.5) and 100.00 means [99.995, 100.005): FHIR R4 3.1.1.4.6."""
    half = Decimal((0, (5,), int(number.as_tuple().exponent) - 1))
    slack = max(abs(number) / 10, half)
    bounds = [number, number - half, number + half, number - slack, number + slack]
    low, high = 0, 1
    if canonical is not None:
        bounds = [canonical.of(bound) for bound in bounds]
        low, high = 5, 6
    at, least, most, around, about = bounds
    if least == most and prefix in ("eq", "ne"):
        return lambda row: (row[low] == at and row[high] == at) == (prefix == "eq")
    match prefix:
        case "eq":
            return lambda row: row[low] >= least and row[high] < most
        case "ne":
            return lambda row: row[low] < least or row[high] >= most
        case "gt":
            return lambda row: row[high] > at
        case "lt":
            return lambda row: row[low] < at
        case "ge":
            return lambda row: row[high] >= at
        case "le":
            return lambda row: row[low] <= at
        case "sa":
            return lambda row: row[low] > at
        case "eb":
            return lambda row: row[high] < at
    return lambda row: row[low] <= about and row[high] >= around


_VALUES: dict[str, Callable[[str, str, SearchParameter], Predicate]] = {
    "token": _token,
    "reference": _reference,
    "date": _date,
    "string": _string,
    "number": _number,
    "quantity": _quantity,
    "uri": _uri,
}
