"""The primitive types of R4 (datatypes.html 2.24.0.1): which JSON values have the form of each."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

_LONGEST_STRING = 1_048_576
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_YEAR = r"([0-9]([0-9]([0-9][1-9]|[1-9]0)|[1-9]00)|[1-9]000)"
_ZONE = r"(Z|(\+|-)((0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?"
_DAY = r"(0[1-9]|[1-2][0-9]|3[0-1])"
_DATE = re.compile(rf"{_YEAR}(-(0[1-9]|1[0-2])(-{_DAY})?)?")
_DATE_TIME = re.compile(rf"{_YEAR}(-(0[1-9]|1[0-2])(-{_DAY}(T{_CLOCK}{_ZONE})?)?)?")
_INSTANT = re.compile(rf"{_YEAR}-(0[1-9]|1[0-2])-{_DAY}T{_CLOCK}{_ZONE}")
_TIME = re.compile(_CLOCK)
_BLANK = re.compile(r"\s")
_CODE = re.compile(r"[^\s]+(\s[^\s]+)*")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_OID = re.compile(r"urn:oid:[0-2](\.(0|[1-9][0-9]*))+")
_UUID = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ANY_UUID = re.compile(_UUID.pattern, re.IGNORECASE)
_BASE64 = re.compile(r"[0-9A-Za-z+/]*={0,2}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_YEAR_MONTH_DAY = 10


def _is_string(value: Any) -> bool:
    return type(value) is str and bool(value) and len(value) <= _LONGEST_STRING


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: type(value) is str and pattern.fullmatch(value) is not None


def _is_day(text: str) -> bool:
    """Whether the day is one of its month, where the text tells a day."""
    return len(text) < _YEAR_MONTH_DAY or int(text[8:10]) <= monthrange(int(text[:4]), int(text[5:7]))[1]


def _is_date(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: type(value) is str and pattern.fullmatch(value) is not None and _is_day(value)


def _is_uri(value: Any) -> bool:
    if type(value) is not str or not value or _BLANK.search(value):
        return False
    if value.startswith("urn:"):
        if value.startswith("urn:oid:"):
            return _OID.fullmatch(value) is not None
        if value.startswith("urn:uuid:"):
            return _ANY_UUID.fullmatch(value.partition("#")[0]) is not None
    return True


def is_absolute(uri: str) -> bool:
    """Whether a URI has a scheme."""
    return _SCHEME.match(uri) is not None


def _is_integer(low: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= _INT_MAX


def _is_decimal(value: Any) -> bool:
    return type(value) in (int, Decimal, float)


def _is_base64(value: Any) -> bool:
    if type(value) is not str or not value:
        return False
    packed = value if _BASE64.fullmatch(value) else "".join(value.split())
    return len(packed) % 4 == 0 and bool(packed) and _BASE64.fullmatch(packed) is not None


CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "base64Binary": _is_base64,
    "boolean": lambda value: type(value) is bool,
    "canonical": _is_uri,
    "code": _matches(_CODE),
    "date": _is_date(_DATE),
    "dateTime": _is_date(_DATE_TIME),
    "decimal": _is_decimal,
    "id": _matches(_ID),
    "instant": _is_date(_INSTANT),
    "integer": _is_integer(_INT_MIN),
    "markdown": _is_string,
    "oid": _matches(_OID),
    "positiveInt": _is_integer(1),
    "string": _is_string,
    "time": _matches(_TIME),
    "unsignedInt": _is_integer(0),
    "uri": _is_uri,
    "url": _is_uri,
    "uuid": _matches(_UUID),
    "xhtml": _is_string,
}
"""Type to whether a JSON value is one of it. A decimal may be int, Decimal or float: JSON has one kind of number."""
