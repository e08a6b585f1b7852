"""Dates and times moved by a calendar duration (FHIRPath 2.0.0, 6.6.7)."""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta
from decimal import Decimal

from wetread.record.fhirpath.values import Quantity, Temporal, temporal, time_of_day

_SECONDS = {"week": 604800, "day": 86400, "hour": 3600, "minute": 60, "second": 1, "wk": 604800, "d": 86400}
_SECONDS |= {"h": 3600, "min": 60, "s": 1}
_MOST_DIGITS = 18
"""Of a duration: far past the calendar, and still quick to make an integer."""
_MONTHS = {"year": 12, "month": 1}
"""UCUM's `a` and `mo` are averages, not durations of the calendar."""


def shifted(moment: Temporal, by: Quantity) -> Temporal | None:
    """The moment moved, in its own precision; None for a unit that is no duration, or past year 1 or 9999."""
    unit = by.unit
    if by.value.adjusted() > _MOST_DIGITS:
        return None
    if unit in ("millisecond", "ms"):
        unit, by = "second", Quantity(by.value / 1000, "second")
    if moment.kind == "time":
        return _time(moment, by.value * _SECONDS[unit]) if unit in _SECONDS else None
    year, month, day, hour, minute = [*(int(p) for p in moment.parts[:5]), *[1, 1, 0, 0][len(moment.parts) - 1 :]]
    second = Decimal(moment.parts[5]) if len(moment.parts) > 5 else Decimal(0)
    try:
        start = datetime(year, month, day, hour, minute, int(second), int(second % 1 * 1_000_000))  # noqa: DTZ001
        if unit in _MONTHS:
            moved = _by_months(start, int(by.value) * _MONTHS[unit])
        elif unit in _SECONDS:
            whole = Decimal(int(by.value)) if unit not in ("second", "s") else by.value
            moved = start + timedelta(seconds=float(whole * _SECONDS[unit]))
        else:
            return None
    except (OverflowError, ValueError):
        return None
    return temporal(_written(moment, moved))


def _by_months(start: datetime, months: int) -> datetime:
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    return start.replace(year=year, month=month + 1, day=min(start.day, calendar.monthrange(year, month + 1)[1]))


def _written(moment: Temporal, moved: datetime) -> str:
    texts = [f"{moved.year:04}", f"-{moved.month:02}", f"-{moved.day:02}", f"T{moved.hour:02}", f":{moved.minute:02}"]
    precision = len(moment.parts)
    text = "".join(texts[:precision])
    if precision > 5:
        digits = -int(Decimal(moment.parts[5]).as_tuple().exponent)
        text += f":{moved.second:02}" + (f".{moved.microsecond:06}"[: digits + 1] if digits else "")
    if moment.kind == "dateTime" and precision <= 3:
        return text + "T"
    if moment.offset_minutes is None:
        return text
    sign, minutes = "-" if moment.offset_minutes < 0 else "+", abs(moment.offset_minutes)
    return text + ("Z" if moment.text.endswith("Z") else f"{sign}{minutes // 60:02}:{minutes % 60:02}")


def _time(moment: Temporal, seconds: Decimal) -> Temporal | None:
    given = [Decimal(p) for p in moment.parts] + [Decimal(0)] * (3 - len(moment.parts))
    total = (given[0] * 3600 + given[1] * 60 + given[2] + seconds) % 86400
    hour, rest = divmod(total, 3600)
    minute, second = divmod(rest, 60)
    written = f"{int(second):02}" + str(second % 1)[1:] if second % 1 else f"{int(second):02}"
    return time_of_day(":".join([f"{int(hour):02}", f"{int(minute):02}", written][: len(moment.parts)]))
