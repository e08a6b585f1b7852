"""FHIR data types as rows of the index tables, without their resource: `(...)` as the columns of each table stand."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

from wetread.record.search import units
from wetread.record.search.parameters import SearchParameter

Row: TypeAlias = tuple[Any, ...]

BEGINNING = datetime.min.replace(tzinfo=UTC)
END = datetime.max.replace(tzinfo=UTC)

_INFINITY = Decimal("Infinity")
_LONGEST = 256
_CONTACT_SYSTEMS = frozenset({"phone", "fax", "email", "pager", "url", "sms", "other"})
_REFERENCE = re.compile(
    r"(?P<base>https?://.+/)?(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?"
)
_MOMENT = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d)"
    r"(?:T(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?P<fraction>\.\d+)?)?(?P<zone>Z|[+-]\d\d:\d\d)?)?)?)?"
)


@dataclass(frozen=True, slots=True)
class ReferenceParts:
    """A reference taken apart. `url` is empty for a reference on this server, else the absolute or canonical url."""

    target_type: str = ""
    target_id: str = ""
    url: str = ""


def bounded(value: str) -> str:
    """A value for an exact match, short enough for a b-tree row: a long one is cut and told apart by its digest."""
    if len(value) <= _LONGEST:
        return value
    return f"{value[:_LONGEST]}…{hashlib.sha256(value.encode()).hexdigest()}"


def folded(text: str) -> str:
    """Text for comparison: no case, no accents, single spaces (FHIR R4 3.1.1.4.8)."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(text.casefold().split())


@lru_cache(maxsize=256)
def _zone(text: str | None) -> tzinfo:
    """Raises ValueError."""
    if text in (None, "Z"):
        return UTC
    assert text is not None  # noqa: S101
    hours, minutes = int(text[1:3]), int(text[4:6])
    if minutes > 59:
        raise ValueError("not a time zone")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def here(text: str, bases: Sequence[str]) -> str:
    """A reference by one of the server's own addresses (without closing slash) as the relative one that it means."""
    for base in bases:
        if text.startswith(base) and text[len(base) : len(base) + 1] == "/":
            return text[len(base) + 1 :]
    return text


def reference_parts(text: str, bases: Sequence[str] = ()) -> ReferenceParts:
    """Takes a Reference.reference, a canonical or a uri apart; empty for a fragment (a contained resource).

    A canonical keeps its version in its url.
    """
    if text.startswith("#"):
        return ReferenceParts()
    text = here(text, bases)
    found = _REFERENCE.fullmatch(text)
    if not found:
        return ReferenceParts(url=bounded(text))
    return ReferenceParts(found["type"], found["id"], bounded(text) if found["base"] else "")


def date_range(text: str) -> tuple[datetime, datetime]:
    """The span that a FHIR date, dateTime or instant of any precision covers: start, and end (exclusive).

    A time without zone is UTC. Raises ValueError.
    """
    found = _MOMENT.fullmatch(text.strip())
    if not found:
        raise ValueError("not a FHIR date")
    year, month, day, hour, minute, second = (
        int(found[name]) if found[name] else None for name in ("year", "month", "day", "hour", "minute", "second")
    )
    zone = _zone(found["zone"])
    leap = second == 60
    micro = round(float(found["fraction"] or 0) * 1_000_000)
    start = datetime(year or 1, month or 1, day or 1, hour or 0, minute or 0, 59 if leap else second or 0, tzinfo=zone)
    try:
        start = start.astimezone(UTC) + timedelta(microseconds=micro, seconds=leap)
        if month is None:
            end = start.replace(year=start.year + 1)
        elif day is None:
            end = (start + timedelta(days=31)).replace(day=1)
        elif hour is None:
            end = start + timedelta(days=1)
        elif second is None:
            end = start + timedelta(minutes=1)
        elif found["fraction"] is None:
            end = start + timedelta(seconds=1)
        else:
            end = start + timedelta(microseconds=10 ** max(0, 7 - len(found["fraction"])))
    except (OverflowError, ValueError):
        return min(start, END), END
    return start, end


def _token(value: Any, parameter: SearchParameter) -> Iterator[Row]:
    """(system, code, text): the text is what `:text` looks at, lines of folded words."""
    match value:
        case bool():
            yield "", "true" if value else "false", ""
        case str():
            yield parameter.system_of(value), bounded(value), ""
        case int() | Decimal():
            yield "", str(value), ""
        case {"coding": list(codings)}:
            text = value.get("text")
            rows = [row for coding in codings for row in _token(coding, parameter)]
            yield from _with_text(rows, folded(text)[:_LONGEST] if isinstance(text, str) else "")
        case {"code": str(code)}:
            display = value.get("display")
            text = folded(display)[:_LONGEST] if isinstance(display, str) else ""
            yield bounded(str(value.get("system", ""))), bounded(code), text
        case {"value": str(identifier)}:
            system = str(value.get("system", ""))
            yield "" if system in _CONTACT_SYSTEMS else bounded(system), bounded(identifier), _type_text(value)
        case {"text": str(text)}:
            yield "", "", folded(text)[:_LONGEST]


def _with_text(rows: list[Row], text: str) -> list[Row]:
    """The rows of a CodeableConcept; its own text stands with the first coding, or in a row without code."""
    if not text or any(row[2] == text for row in rows):
        return rows
    if not rows:
        return [("", "", text)]
    system, code, display = rows[0]
    return [(system, code, f"{display}\n{text}" if display else text), *rows[1:]]


def _type_text(identifier: dict[str, Any]) -> str:
    text = identifier["type"].get("text") if isinstance(identifier.get("type"), dict) else None
    return folded(text)[:_LONGEST] if isinstance(text, str) else ""


def identifier_types(value: Any) -> Iterator[Row]:
    """(type's system and code, value, no text) of an Identifier, for `:of-type` (FHIR R4 3.1.1.4.10)."""
    match value:
        case {"type": {"coding": list(codings)}, "value": str(identifier)}:
            for coding in codings:
                if isinstance(coding, dict) and isinstance(coding.get("code"), str):
                    yield bounded(f"{coding.get('system', '')}|{coding['code']}"), bounded(identifier), ""


def references(value: Any, parameter: SearchParameter, bases: Sequence[str] = ()) -> Iterator[Row]:
    """`bases` are the server's own addresses: what begins so is found as what is here."""
    match value:
        case str():
            yield from _canonical(value, bases)
        case {"resourceType": str(resource_type), "id": str(resource_id)}:
            if resource_type in parameter.targets:
                yield resource_type, resource_id, "", "", ""
        case dict():
            parts = reference_parts(str(value.get("reference", "")), bases)
            identifier = value.get("identifier")
            system, code = "", ""
            if isinstance(identifier, dict):
                system, code = bounded(str(identifier.get("system", ""))), bounded(str(identifier.get("value", "")))
            if parts != ReferenceParts() or code:
                target_type = parts.target_type or str(value.get("type", ""))
                yield target_type, parts.target_id, parts.url, system, code


def _canonical(value: str, bases: Sequence[str]) -> Iterator[Row]:
    """Found by its url and, where it names a version, by `url|version` too (FHIR R4 references.html#canonical).

    One that begins with an address of the server may mean what is stored here under that id, or what says that this is
    its url.
    """
    url, bar, version = value.partition("|")
    local = here(url, bases)
    for text in (local, url) if local != url else (url,):
        parts = reference_parts(text)
        yield parts.target_type, parts.target_id, parts.url, "", ""
    if bar:
        yield "", "", bounded(f"{local}|{version.partition('#')[0]}"), "", ""


def _date(value: Any, parameter: SearchParameter) -> Iterator[Row]:
    match value:
        case str():
            yield date_range(value)
        case {"event": list(events)}:
            ranges = [date_range(e) for e in events if isinstance(e, str)]
            if ranges:
                yield min(low for low, _ in ranges), max(high for _, high in ranges)
        case {"repeat": {"boundsPeriod": dict(bounds)}}:
            yield from _date(bounds, parameter)
        case {"start": _} | {"end": _}:
            low = date_range(value["start"])[0] if "start" in value else BEGINNING
            yield low, date_range(value["end"])[1] if "end" in value else END


_NAME_PARTS = ("text", "family", "given", "prefix", "suffix")
_ADDRESS_PARTS = ("text", "line", "city", "district", "state", "postalCode", "country")


def _string(value: Any, parameter: SearchParameter) -> Iterator[Row]:
    match value:
        case str():
            if text := folded(value):
                yield text, value
        case {"coding": list(codings)}:
            displays = [c.get("display") for c in codings if isinstance(c, dict)]
            for part in (value.get("text"), *displays):
                yield from _string(part, parameter)
        case dict():
            for name in dict.fromkeys(_NAME_PARTS + _ADDRESS_PARTS):
                parts = value.get(name)
                for part in parts if isinstance(parts, list) else (parts,):
                    yield from _string(part, parameter)


def _number(value: Any, parameter: SearchParameter) -> Iterator[Row]:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        if (number := _storable(value)) is not None:
            yield number, number, "", "", "", None, None, ""
    else:
        yield from _quantity(value, parameter)


def _quantity(value: Any, parameter: SearchParameter) -> Iterator[Row]:
    match value:
        case {"low": _} | {"high": _}:
            low, high = value.get("low", {}), value.get("high", {})
            unit = low or high
            least, most = _storable(low.get("value", -_INFINITY)), _storable(high.get("value", _INFINITY))
        case {"value": int() | Decimal() as number}:
            unit = value
            least = most = _storable(number)
            if value.get("comparator", "").startswith("<"):
                least = -_INFINITY
            elif value.get("comparator", "").startswith(">"):
                most = _INFINITY
        case _:
            return
    if least is not None and most is not None:
        money = str(unit.get("currency", ""))
        system = "urn:iso:std:iso:4217" if money else str(unit.get("system", ""))
        code = money or str(unit.get("code", ""))
        canonical = units.canonical(code) if system == units.UCUM else None
        yield (
            least,
            most,
            bounded(system),
            bounded(code),
            bounded(str(unit.get("unit", ""))),
            canonical.of(least) if canonical else None,
            canonical.of(most) if canonical else None,
            canonical.unit if canonical else "",
        )


def _storable(number: int | Decimal) -> Decimal | None:
    """The number where PostgreSQL's numeric can hold it."""
    value = Decimal(number)
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        return value if value.is_infinite() else None
    return value if abs(value.adjusted()) < 1000 and -exponent < 1000 else None


def _uri(value: Any, parameter: SearchParameter) -> Iterator[Row]:
    if isinstance(value, str):
        yield (bounded(value),)
        url, bar, _ = value.partition("|")
        if bar:  # a canonical, such as a profile that names its version, is found without it as well
            yield (bounded(url),)


_Read: TypeAlias = Callable[[Any, SearchParameter], Iterator[Row]]
READERS: dict[str, tuple[str, _Read]] = {
    "token": ("token", _token),
    "reference": ("reference", references),
    "date": ("date", _date),
    "string": ("string", _string),
    "number": ("quantity", _number),
    "quantity": ("quantity", _quantity),
    "uri": ("uri", _uri),
}
