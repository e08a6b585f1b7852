"""HL7 v2 dates and timestamps (DT, TS, DTM; v2.5.1 2.A.21, 2.A.77) as FHIR date and dateTime, precision kept."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

_STAMP = re.compile(
    r"(?P<year>\d{4})(?:(?P<month>\d\d)(?:(?P<day>\d\d)"
    r"(?:(?P<hour>\d\d)(?:(?P<minute>\d\d)(?:(?P<second>\d\d)(?P<fraction>\.\d{1,4})?)?)?)?)?)?"
    r"(?:(?P<sign>[+-])(?P<zone>\d{4}))?"
)


def fhir_date(text: str) -> str | None:
    """`19790328` -> `1979-03-28`, `197903` -> `1979-03`; None where it is no date. A time of day is left out.

    Month or day `00`, as some systems send for unknown, shortens the precision.
    """
    found = _STAMP.fullmatch(text)
    if not found:
        return None
    year, month, day = found["year"], found["month"], found["day"]
    if not month or month == "00":
        return year if int(year) > 0 else None
    if not day or day == "00":
        return f"{year}-{month}" if int(month) <= 12 else None
    try:
        return datetime(int(year), int(month), int(day)).date().isoformat()  # noqa: DTZ001 (a date has no zone)
    except ValueError:
        return None


def fhir_date_time(text: str, zone: ZoneInfo) -> str | None:
    """`202609151000-0500` -> `2026-09-15T10:00:00-05:00`; without an offset the site's `zone` gives it.

    A stamp without time of day stays a date. None where it is no timestamp.
    """
    found = _STAMP.fullmatch(text)
    if not found:
        return None
    if not found["hour"]:
        return fhir_date(text)
    year, month, day, hour, minute, second = (
        int(found[part] or 0) for part in ("year", "month", "day", "hour", "minute", "second")
    )
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=_offset(found["sign"], found["zone"]) or zone)
    except ValueError:
        return None
    stamp = iso(moment)
    return stamp[:19] + (found["fraction"] or "") + stamp[19:]


def iso(moment: datetime) -> str:
    """A FHIR dateTime to the second. FHIR has offsets of whole minutes: that of local mean time, which zones kept until
    about 1911, loses its seconds."""
    return moment.isoformat(timespec="seconds")[:25]


def in_order(start: str, end: str) -> bool:
    """Whether a FHIR date or dateTime is not after another, as far as both are precise (R4 invariant per-1)."""
    if "T" in start and "T" in end:
        return datetime.fromisoformat(start) <= datetime.fromisoformat(end)
    known = min(len(start), len(end), 10)
    return start[:known] <= end[:known]


def _offset(sign: str | None, zone: str | None) -> timezone | None:
    if not sign or not zone:
        return None
    span = timedelta(hours=int(zone[:2]), minutes=int(zone[2:]))
    return timezone(-span if sign == "-" else span)
