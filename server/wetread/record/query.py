"""Search parameters as SQL (FHIR R4 search.html 3.1.1.4): conditions on `resource r`, values always bound."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import LiteralString, TypeAlias

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record.condition import Condition, all_of, any_of
from wetread.record.index import BEGINNING, ON_OWN_COLUMN, bounded, date_range, folded, reference_parts
from wetread.record.lossless import is_text
from wetread.record.parameters import SearchParameter, parameters_of
from wetread.store.database import Connection

_MOST_VALUES = 500
_PREFIX = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.*)", re.DOTALL)
_MODIFIERS = {
    "token": {"not"},
    "string": {"exact", "contains"},
    "uri": {"below", "above"},
    "reference": {"identifier"},
    "date": set[str](),
    "number": set[str](),
    "quantity": set[str](),
}
SUPPORTED_KINDS = tuple(_MODIFIERS)


Values: TypeAlias = Callable[[str, str, SearchParameter], Condition]


def known(resource_type: str, name: str) -> bool:
    """Whether a parameter, its modifier left aside, is one of the type's."""
    return name.partition(":")[0] in parameters_of(resource_type)


async def matching(
    conn: Connection, reader: Reader, resource_type: str, params: Sequence[tuple[str, str]], base_url: str = ""
) -> Condition:
    """Every search parameter as one condition on `resource r`, its type not among it.

    Raises Forbidden where a chain touches a type that the reader may not search, and what `condition` raises.
    """
    return all_of([condition(resource_type, name, value, base_url) for name, value in params])


def condition(resource_type: str, name: str, value: str, base_url: str = "") -> Condition:
    """One search parameter as a condition on `resource r`. Raises InvalidInput: unknown, bad modifier, bad value."""
    code, _, modifier = name.partition(":")
    if not is_text(value):
        raise InvalidInput("a value holds a NUL or an unpaired surrogate, which no resource may hold", location=code)
    if "." in name or code == "_has":
        raise InvalidInput("chained parameters and _has are not supported by this server", location=name)
    parameter = parameters_of(resource_type).get(code)
    if parameter is None:
        raise InvalidInput(f"{resource_type} has no search parameter {code!r}", location=code)
    if modifier == "missing":
        return _missing(resource_type, parameter, value)
    of_type = parameter.kind == "reference" and modifier[:1].isupper()
    if modifier and not of_type and modifier not in _MODIFIERS[parameter.kind]:
        raise InvalidInput(f"the modifier :{modifier} is not supported for {code}", location=name)

    values = split(value, ",")
    if len(values) > _MOST_VALUES:
        raise InvalidInput(f"more than {_MOST_VALUES} values for one parameter; ask in several searches", location=code)
    if parameter.kind == "reference" and base_url:
        values = [v.removeprefix(f"{base_url}/") for v in values]
    matches = any_of(_VALUES[parameter.kind](v, modifier, parameter) for v in values)
    if code in ON_OWN_COLUMN:
        return _on_own_columns(matches)
    return _indexed(resource_type, parameter, matches, negate=modifier == "not")


def split(text: str, separator: str) -> list[str]:
    """Splits on a separator that no backslash escapes; the escapes stay (FHIR R4 3.1.1.4.4)."""
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
    return re.sub(r"\\([,|$\\])", r"\1", text)


_TABLES: dict[str, LiteralString] = {
    "token": "index_token",
    "reference": "index_reference",
    "date": "index_date",
    "string": "index_string",
    "number": "index_quantity",
    "quantity": "index_quantity",
    "uri": "index_uri",
}


def _indexed(resource_type: str, parameter: SearchParameter, matches: Condition, *, negate: bool) -> Condition:
    table = _TABLES[parameter.kind]
    where = "i.resource_type = %s AND i.param = %s AND (" + matches.sql + ")"
    args = (resource_type, parameter.code, *matches.args)
    if negate:
        return Condition(
            "NOT EXISTS (SELECT FROM " + table + " i WHERE i.resource_key = r.key AND " + where + ")", args
        )
    return Condition("r.key IN (SELECT i.resource_key FROM " + table + " i WHERE " + where + ")", args)


def _missing(resource_type: str, parameter: SearchParameter, value: str) -> Condition:
    if value not in ("true", "false"):
        raise InvalidInput(":missing takes true or false", location=parameter.code)
    if parameter.code in ON_OWN_COLUMN:
        return Condition("FALSE" if value == "true" else "TRUE")
    return _indexed_missing(resource_type, parameter, value == "true")


def _indexed_missing(resource_type: str, parameter: SearchParameter, missing: bool) -> Condition:
    sql = "EXISTS (SELECT FROM " + _TABLES[parameter.kind] + " i WHERE i.resource_key = r.key AND i.param = %s)"
    return Condition("NOT " + sql if missing else sql, (parameter.code,))


def _on_own_columns(matches: Condition) -> Condition:
    """`_id` and `_lastUpdated` stand in `resource` itself; a version's instant covers its millisecond."""
    until: LiteralString = "(r.last_updated + interval '1 millisecond')"
    sql = matches.sql.replace("i.code", "r.id").replace("i.low", "r.last_updated").replace("i.high", until)
    return Condition(sql, matches.args)


def _token(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    if parameter.code == "_id":
        return Condition("i.code = %s", (unescape(value),))
    return _system_and_code(value, "i.system", "i.code", parameter)


def _system_and_code(
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
        return _system_and_code(value, "i.identifier_system", "i.identifier_value", parameter)
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
    if modifier == "exact":
        return Condition("left(i.folded, 64) = %s AND i.exact = %s", (folded(text)[:64], text))
    pattern = re.sub(r"([\\%_])", r"\\\1", folded(text))
    if modifier == "contains":
        return Condition("i.folded LIKE %s", (f"%{pattern}%",))
    start = re.sub(r"([\\%_])", r"\\\1", folded(text)[:64])
    return Condition("left(i.folded, 64) LIKE %s AND i.folded LIKE %s", (f"{start}%", f"{pattern}%"))


def _uri(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    text = unescape(value)
    match modifier:
        case "below":
            return Condition("i.uri LIKE %s", (re.sub(r"([\\%_])", r"\\\1", text) + "%",))
        case "above":
            return Condition("starts_with(%s, i.uri)", (text,))
        case _:
            return Condition("i.uri = %s", (bounded(text),))


def _date(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    prefix, text = _prefixed(value)
    try:
        low, high = date_range(unescape(text).replace(" ", "+"))
    except ValueError as error:
        raise InvalidInput("expected a FHIR date, such as ge2026-01-31", location=parameter.code) from error
    match prefix:
        case "eq":
            return Condition("i.low >= %s AND i.high <= %s", (low, high))
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
    slack = abs(datetime.now(UTC) - low) / 10
    start = low - slack if low - BEGINNING > slack else BEGINNING
    return Condition("i.low < %s::timestamptz + %s AND i.high > %s", (high, slack, start))


def _number(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    prefix, text = _prefixed(value)
    return _compared(prefix, text, parameter)


def _quantity(value: str, modifier: str, parameter: SearchParameter) -> Condition:
    number, *unit = split(value, "|")
    prefix, text = _prefixed(number)
    compared = _compared(prefix, text, parameter)
    match [bounded(unescape(u)) for u in unit]:
        case [] | ["", ""]:
            return compared
        case ["", code]:
            return all_of([compared, Condition("i.code = %s OR i.unit = %s", (code, code))])
        case [system, ""]:
            return all_of([compared, Condition("i.system = %s", (system,))])
        case [system, code]:
            return all_of([compared, Condition("i.system = %s AND i.code = %s", (system, code))])
    raise InvalidInput("expected number, number|system|code or number||code", location=parameter.code)


def _compared(prefix: str, text: str, parameter: SearchParameter) -> Condition:
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise InvalidInput("expected a number after the prefix", location=parameter.code) from error
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or abs(number.adjusted()) > 999 or abs(exponent) > 999:
        raise InvalidInput("the number is out of range", location=parameter.code)
    # 100 means [99.5, 100.5) and 100.00 means [99.995, 100.005): FHIR R4 3.1.1.4.6.
    half = Decimal((0, (5,), exponent - 1))
    match prefix:
        case "eq":
            return Condition("i.low >= %s AND i.high < %s", (number - half, number + half))
        case "ne":
            return Condition("i.low < %s OR i.high >= %s", (number - half, number + half))
        case "gt":
            return Condition("i.high > %s", (number,))
        case "lt":
            return Condition("i.low < %s", (number,))
        case "ge":
            return Condition("i.high >= %s", (number,))
        case "le":
            return Condition("i.low <= %s", (number,))
        case "sa":
            return Condition("i.low > %s", (number,))
        case "eb":
            return Condition("i.high < %s", (number,))
    slack = max(abs(number) / 10, half)
    return Condition("i.low <= %s AND i.high >= %s", (number + slack, number - slack))


def _prefixed(value: str) -> tuple[str, str]:
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
