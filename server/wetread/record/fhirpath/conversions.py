"""From one type to another (FHIRPath 2.0.0, 5.5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from wetread.record.fhirpath import navigation, syntax, values
from wetread.record.fhirpath.values import Quantity, Temporal


def _to_integer(value: Any) -> int | None:
    if isinstance(value, bool | int):
        return int(value)
    return int(value) if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value) else None


def _to_decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool | int | Decimal):
        return Decimal(value)
    return Decimal(value) if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d+)?", value) else None


def _to_boolean(value: Any) -> bool | None:
    text = "1" if value is True or value == 1 else "0" if value is False or value == 0 else str(value).lower()
    if text in ("true", "t", "yes", "y", "1", "1.0"):
        return True
    return False if text in ("false", "f", "no", "n", "0", "0.0") else None


def _to_quantity(value: Any, unit: str | None = None) -> Quantity | None:
    if isinstance(value, bool):
        return Quantity(Decimal(value), "1")
    if isinstance(value, int | Decimal):
        return Quantity(Decimal(value), unit or "1")
    if isinstance(value, Quantity):
        return value
    found = (
        re.fullmatch(r"([+-]?\d+(?:\.\d+)?)\s*(?:'([^']+)'|([a-z]+?)s?)?", value) if isinstance(value, str) else None
    )
    if found is None or (found[3] and found[3] not in syntax.UNITS):
        return None
    return Quantity(Decimal(found[1]), found[2] or found[3] or "1")


def _to_date(value: Any) -> Temporal | None:
    if isinstance(value, str):
        value = values.temporal(value)
    if not isinstance(value, Temporal) or value.kind == "time":
        return None
    return values.temporal(value.text.split("T")[0])


def _to_date_time(value: Any) -> Temporal | None:
    if isinstance(value, str):
        value = values.temporal(value)
    if not isinstance(value, Temporal) or value.kind == "time":
        return None
    return value if value.kind == "dateTime" else values.temporal(value.text + "T")


def _to_time(value: Any) -> Temporal | None:
    if isinstance(value, str):
        return values.time_of_day(value.removeprefix("T"))
    return value if isinstance(value, Temporal) and value.kind == "time" else None


CONVERSIONS: Mapping[str, Callable[..., Any]] = {
    "Integer": _to_integer,
    "Decimal": _to_decimal,
    "Boolean": _to_boolean,
    "Quantity": _to_quantity,
    "String": navigation.string_of,
    "Date": _to_date,
    "DateTime": _to_date_time,
    "Time": _to_time,
}
