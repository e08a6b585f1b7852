"""One value of a search parameter as SQL (FHIR R4 3.1.1.4): a condition on the rows `i` of the parameter's table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import LiteralString, TypeAlias

from wetread.errors import InvalidInput
from wetread.record.condition import Condition, all_of, none_of
from wetread.record.search import units
from wetread.record.search.index_rows import BEGINNING, END, bounded, date_range, folded, reference_parts
from wetread.record.search.parameters import SearchParameter

Values: TypeAlias = Callable[[str, str, SearchParameter], Condition]

_PREFIX = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.*)", re.DOTALL)

TABLES: dict[str, LiteralString] = {
    "token": "index_token",
    "reference": "index_reference",
    "date": "index_date",
    "string": "index_string",
    "number": "index_quantity",
    "quantity": "index_quantity",
    "uri": "index_uri",
}


def split(text: str, separator: str) -> list[str]:
    """Splits on a separator that no backslash escapes; the escapes stay (FHIR R4 3.1.1.4.4)."""
    if "\\" not in text:
        return text.split(separator)
    parts = [""]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            parts[-1] += character + next(characters, "")
        elif character == separator:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def unescape(text: str) -> str:
    """Takes the backslash off `\\,` `\\|` `\\$` and `\\\\`."""
    return re.sub(r"\\([,|$\\])", r"\1", text) if "\\" in text else text


def of_value(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    """Raises InvalidInput for a value that is not of the parameter's kind.

    A reference by the server's own address must have become relative (`index_rows.here`).
    """
    return _VALUES[parameter.kind](value, modifier, parameter)


def pattern(text: str) -> str:
    """Text as it stands, for LIKE."""
    return re.sub(r"([\\%_])", r"\\\1", text)


def _token(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    match modifier:
        case "text":
            words = pattern(_words(value, parameter))
            return Condition("i.text LIKE %s OR i.text LIKE %s", (f"{words}%", f"%\n{words}%"))
        case "of-type":
            return _of_type(value, parameter)
    if parameter.code == "_id":
        return Condition("i.code = %s", (unescape(value),))
    return system_and_code(value, "i.system", "i.code", parameter)


def _of_type(value: str, parameter: SearchParameter) -> Condition:
    match [unescape(p) for p in split(value, "|")]:
        case [system, code, identifier] if code and identifier:
            return Condition("i.code = %s AND i.system = %s", (bounded(identifier), bounded(f"{system}|{code}")))
    raise InvalidInput("expected system|code|value of the identifier's type and value", location=parameter.code)


def system_and_code(
    value: str, system_column: LiteralString, code_column: LiteralString, parameter: SearchParameter
) -> Condition:
    parts = [bounded(unescape(p)) for p in split(value, "|")]
    by_system, by_code = system_column + " = %s", code_column + " = %s"
    match parts:
        case [code] if code:
            return Condition(by_code, (code,))
        case [system, ""] if system:
            return Condition(by_system, (system,))
        case [system, code] if code:
            return Condition(by_code + " AND " + by_system, (code, system))
    raise InvalidInput("expected code, system|code, |code or system|", location=parameter.code)


def _reference(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    if modifier == "identifier":
        return system_and_code(value, "i.identifier_system", "i.identifier_value", parameter)
    text = unescape(value)
    if not text:
        raise InvalidInput("an empty reference matches nothing", location=parameter.code)
    if re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", text):
        if modifier:
            return Condition("i.target_id = %s AND i.target_type = %s AND i.url = ''", (text, modifier))
        return Condition("i.target_id = %s AND i.target_id <> '' AND i.url = ''", (text,))
    parts = reference_parts(text)
    if parts.url:
        return Condition("i.url = %s AND i.url <> ''", (parts.url,))
    return Condition(
        "i.target_id = %s AND i.target_id <> '' AND i.target_type = %s AND i.url = ''",
        (parts.target_id, parts.target_type),
    )


def _string(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    text = unescape(value)
    words = _words(value, parameter)
    if modifier == "exact":
        return Condition("left(i.folded, 64) = %s AND i.exact = %s", (words[:64], text))
    whole = pattern(words)
    if modifier in ("contains", "text"):
        return Condition("i.folded LIKE %s", (f"%{whole}%",))
    start = pattern(words[:64])
    return Condition("left(i.folded, 64) LIKE %s AND i.folded LIKE %s", (f"{start}%", f"{whole}%"))


def _words(value: str, parameter: SearchParameter) -> str:
    """The text that is looked for, folded. None would be the start of every other, in conditional deletes too."""
    words = folded(unescape(value))
    if not words:
        raise InvalidInput("an empty text matches nothing", location=parameter.code)
    return words


def _uri(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    text = unescape(value)
    if not text:
        raise InvalidInput("an empty uri matches nothing", location=parameter.code)
    match modifier:
        case "below":
            return Condition("i.uri LIKE %s", (pattern(text) + "%",))
        case "above":
            return Condition("starts_with(%s, i.uri)", (text,))
    return Condition("i.uri = %s", (bounded(text),))


def _date(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    prefix, low, high = date_asked(value, parameter)
    if parameter.code == "_lastUpdated":
        return _last_updated(prefix, low, high)
    match prefix:
        case "eq":
            return Condition("i.low >= %s AND i.low < %s AND i.high <= %s", (low, high, high))
        case "ne":
            return Condition("i.low < %s OR i.high > %s", (low, high))
        case "gt":
            return Condition("i.high > %s", (high,))
        case "lt":
            return Condition("i.low < %s", (low,))
        case "ge":
            return Condition("i.low >= %s OR i.high > %s", (low, high))
        case "le":
            return Condition("i.high <= %s OR i.low < %s", (high, low))
        case "sa":
            return Condition("i.low >= %s", (high,))
        case "eb":
            return Condition("i.high <= %s", (low,))
    start, slack = _about(low)
    return Condition("i.low < %s::timestamptz + %s AND i.high > %s", (high, slack, start))


def _last_updated(prefix: str, low: datetime, high: datetime) -> Condition:
    """An instant of a millisecond, in a form that its index can answer."""
    match prefix:
        case "eq":
            return Condition("i.low >= %s AND i.low < %s", (low, high))
        case "ne":
            return Condition("i.low < %s OR i.low >= %s", (low, high))
        case "gt" | "sa":
            return Condition("i.low >= %s", (high,))
        case "ge":
            return Condition("i.low >= %s", (low,))
        case "lt" | "eb":
            return Condition("i.low < %s", (low,))
        case "le":
            return Condition("i.low < %s", (high,))
    start, slack = _about(low)
    return Condition("i.low < %s::timestamptz + %s AND i.low >= %s", (high, slack, start))


def _about(low: datetime) -> tuple[datetime, timedelta]:
    """What `ap` takes as near: a tenth of the time that has passed (FHIR R4 3.1.1.4.5)."""
    slack = abs(datetime.now(UTC) - low) / 10
    return (low - slack if low - BEGINNING > slack else BEGINNING), slack


def date_asked(value: str, parameter: SearchParameter) -> tuple[str, datetime, datetime]:
    """The prefix, and the period from the first to the second. Raises InvalidInput."""
    prefix, text = prefixed(value)
    try:
        return prefix, *date_range(unescape(text).replace(" ", "+"))
    except ValueError as error:
        raise InvalidInput("expected a FHIR date, such as ge2026-01-31", location=parameter.code) from error


def date_bounds(values: Sequence[str], parameter: SearchParameter) -> tuple[datetime, datetime]:
    """(after, before): what matches all the values ends after the one and begins before the other."""
    after, before = BEGINNING, END
    for prefix, low, high in (date_asked(value, parameter) for value in values):
        after = max(after, {"eq": low, "ge": low, "gt": high, "sa": high}.get(prefix, BEGINNING))
        before = min(before, {"eq": high, "le": high, "lt": low, "eb": low}.get(prefix, END))
    return after, before


def _number(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    prefix, text = prefixed(value)
    return _compared(prefix, _decimal(text, parameter))


def _quantity(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    """In a UCUM unit every commensurable unit counts, on the common base; any other unit only as it stands."""
    text, *unit = split(value, "|")
    prefix, number = prefixed(text)
    amount = _decimal(number, parameter)
    match [unescape(u) for u in unit]:
        case [] | ["", ""]:
            return _compared(prefix, amount)
        case ["", code]:
            named = Condition("i.code = %s OR i.unit = %s", (bounded(code), bounded(code)))
            return all_of([_compared(prefix, amount), named])
        case [system, ""]:
            return all_of([_compared(prefix, amount), Condition("i.system = %s", (bounded(system),))])
        case [system, code]:
            canonical = units.canonical(code) if system == units.UCUM else None
            if canonical is not None:
                return all_of(
                    [Condition("i.canonical_unit = %s", (canonical.unit,)), _compared(prefix, amount, canonical)]
                )
            named = Condition("i.system = %s AND i.code = %s", (bounded(system), bounded(code)))
            return all_of([_compared(prefix, amount), named])
    raise InvalidInput("expected number, number|system|code or number||code", location=parameter.code)


def _decimal(text: str, parameter: SearchParameter) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise InvalidInput("expected a number after the prefix", location=parameter.code) from error
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or abs(number.adjusted()) > 999 or abs(exponent) > 999:
        raise InvalidInput("the number is out of range", location=parameter.code)
    return number


def _compared(prefix: str, number: Decimal, canonical: units.Canonical | None = None) -> Condition:
    """100 means [99.5, 100.5) and 100.00 means [99.995, 100.005): FHIR R4 3.1.1.4.6."""
    half = Decimal((0, (5,), int(number.as_tuple().exponent) - 1))
    slack = max(abs(number) / 10, half)
    bounds = [number, number - half, number + half, number - slack, number + slack]
    low: LiteralString = "i.low"
    high: LiteralString = "i.high"
    if canonical is not None:
        bounds = [canonical.of(b) for b in bounds]
        low, high = "i.canonical_low", "i.canonical_high"
    at, least, most, around, about = bounds
    if least == most:  # more digits than the common base keeps
        alike = Condition(low + " = %s AND " + high + " = %s", (at, at))
        if prefix in ("eq", "ne"):
            return alike if prefix == "eq" else none_of(alike)
    match prefix:
        case "eq":
            return Condition(low + " >= %s AND " + high + " < %s", (least, most))
        case "ne":
            return Condition(low + " < %s OR " + high + " >= %s", (least, most))
        case "gt":
            return Condition(high + " > %s", (at,))
        case "lt":
            return Condition(low + " < %s", (at,))
        case "ge":
            return Condition(high + " >= %s", (at,))
        case "le":
            return Condition(low + " <= %s", (at,))
        case "sa":
            return Condition(low + " > %s", (at,))
        case "eb":
            return Condition(high + " < %s", (at,))
    return Condition(low + " <= %s AND " + high + " >= %s", (about, around))


def prefixed(value: str) -> tuple[str, str]:
    """The prefix, `eq` where there is none (FHIR R4 search.html#prefix), and the rest."""
    found = _PREFIX.fullmatch(value)
    assert found is not None  # noqa: S101
    return found.group(1) or "eq", found.group(2)


_VALUES: dict[str, Values] = {
    "token": _token,
    "reference": _reference,
    "date": _date,
    "string": _string,
    "number": _number,
    "quantity": _quantity,
    "uri": _uri,
}
