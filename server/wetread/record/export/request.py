"""What an export is asked for: the kick-off parameters of Bulk Data Access 2.0 and 3.0, read and checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from wetread.domain.reader import Reader
from wetread.errors import Forbidden, InvalidInput
from wetread.record import lossless
from wetread.record.search.index import date_range, reference_parts
from wetread.record.search.parameters import parameters_of, resource_types, table
from wetread.record.search.slips import meant

PARAMETERS = (
    "_outputFormat",
    "_since",
    "_until",
    "_type",
    "_typeFilter",
    "_elements",
    "patient",
    "includeAssociatedData",
    "allowPartialManifests",
)
"""The kick-off parameters that are honoured; `organizeOutputBy` is refused."""
_NARROWING = ("_since", "_until", "_type", "_typeFilter", "_elements")
"""Where one of these is given and says nothing, less was meant than everything. So it is with `patient`."""
ASSOCIATED = ("LatestProvenanceResources", "RelevantProvenanceResources")
_MOST_NAMED = 10
MOST_FILTERS = 100
"""`_typeFilter`s of one export."""
OUTPUT_FORMATS = ("application/fhir+ndjson", "application/ndjson", "ndjson")

_NO_PATIENTS = frozenset(
    {"Endpoint", "HealthcareService", "Location", "Medication", "Organization", "Practitioner", "PractitionerRole"}
)
"""Types that help to read a patient's data and hold none: given whole where `_type` names them."""
_RESULT_PARAMETERS = re.compile(
    r"_(sort|count|include|revinclude|summary|total|elements|contained|containedType|score|format|pretty)(:|$)"
)
_ELEMENT = re.compile(r"(?:([A-Z]\w*)\.)?([a-z]\w*)")
_NEXT_FILTER = re.compile(r",(?=[A-Z][A-Za-z]*\?)")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """`level` is system, patient or group. `types` are what will be exported, in their order.

    `filters` are (type, query string) of `_typeFilter`: those of one type are alternatives. `member_filters` are the
    same of a Group's member rules, all of which a patient must fulfil. `limited` says that only patients listed for
    the job count. `warnings` tell what a lenient request asked in vain.
    """

    level: str
    types: tuple[str, ...]
    group_id: str = ""
    since: datetime | None = None
    until: datetime | None = None
    filters: tuple[tuple[str, str], ...] = ()
    elements: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    associated: str = ""
    member_filters: tuple[tuple[str, str], ...] = ()
    all_patients: bool = False
    """A Group of rules alone: its filters choose from all patients."""
    warnings: tuple[str, ...] = ()

    @property
    def limited(self) -> bool:
        return self.level == "group" or bool(self.patients)

    def elements_of(self, resource_type: str) -> list[str]:
        """The elements that are asked of this type; empty where all are."""
        found = [_ELEMENT.fullmatch(element) for element in self.elements]
        return [each[2] for each in found if each and each[1] in (None, resource_type)]

    def as_json(self) -> dict[str, Any]:
        """For the job's row; the types stand beside it."""
        moments = {name: getattr(self, name) for name in ("since", "until")}
        rest = {name: getattr(self, name) for name in self.__slots__ if name not in ("types", *moments)}
        return {**rest, **{name: moment.isoformat() for name, moment in moments.items() if moment}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], types: Sequence[str]) -> ExportRequest:
        given = dict(values)
        for name in ("since", "until"):
            if name in given:
                given[name] = datetime.fromisoformat(given[name])
        for name in ("filters", "member_filters"):
            given[name] = tuple((resource_type, query) for resource_type, query in given[name])
        for name in ("elements", "patients", "warnings"):
            given[name] = tuple(given[name])
        return cls(types=tuple(types), **given)


def may_export(reader: Reader, resource_type: str) -> bool:
    """Only `system/` scopes that no search parameter narrows export, and only what they may both read and search."""
    letters = {
        letter
        for scope in reader.scopes
        if scope.level == "system" and not scope.constraint and scope.resource_type in ("*", resource_type)
        for letter in scope.letters
    }
    return {"r", "s"} <= letters


def require_export(reader: Reader, types: Iterable[str]) -> None:
    """Raises Forbidden unless the reader may, now, export every one of these types."""
    lacking = [f"system/{resource_type}.rs" for resource_type in types if not may_export(reader, resource_type)]
    if lacking:
        named = " ".join(lacking) if len(lacking) <= _MOST_NAMED else "system/*.rs"
        raise Forbidden(f"this export needs scopes that the token has not, or only with search parameters: {named}")


@cache
def membership_parameters(resource_type: str) -> tuple[str, ...]:
    """The search parameters by which a resource of this type belongs to a patient; empty where none do.

    Those of the Patient compartment (R4 CompartmentDefinition/patient), and `patient` and `subject`: they stand outside
    it in types such as Device and Task.
    """
    if resource_type == "Patient":
        return ()
    own = parameters_of(resource_type)
    named = [name for name in ("patient", "subject") if name in own and own[name].kind == "reference"]
    return tuple(dict.fromkeys([*table("compartments.json")["Patient"].get(resource_type, ()), *named]))


def filter_of(text: str, name: str) -> tuple[str, str]:
    """`Type?query` of a `_typeFilter` or a member rule. Raises InvalidInput."""
    resource_type, mark, query = text.strip().partition("?")
    if not mark or resource_type not in resource_types() or not query:
        raise InvalidInput(f"{name} takes Type?query, such as Observation?status=final", location=f"http.{name}")
    if any(_RESULT_PARAMETERS.match(key) for key, _ in parse_qsl(query, keep_blank_values=True)):
        raise InvalidInput(f"{name} selects resources; it takes no _sort, _include and the like", location=name)
    return resource_type, query


@dataclass(slots=True)
class _Reading:
    """The parameters as they are read. What cannot be honoured is refused, or, when lenient, told of."""

    level: str
    lenient: bool
    values: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def unable(self, text: str, name: str) -> None:
        if not self.lenient:
            raise InvalidInput(f"{text}; Prefer: handling=lenient goes on without it", location=f"http.{name}")
        self.warnings.append(f"{name}: {text}; it was ignored")

    def several(self, name: str) -> list[str]:
        """Repeated values and comma lists are one list."""
        return [part.strip() for value in self.values.get(name, ()) for part in value.split(",") if part.strip()]

    def one(self, name: str) -> str:
        values = self.values.get(name, [""])
        if len(values) > 1:
            raise InvalidInput(f"{name} is given once", location=f"http.{name}")
        return values[0]


def read(
    reader: Reader,
    level: str,
    params: Sequence[tuple[str, str]],
    base_url: str,
    *,
    group_id: str = "",
    lenient: bool = False,
) -> ExportRequest:
    """The request that these parameters make; `base_url` is that of the FHIR face.

    Raises InvalidInput, and Forbidden where nothing may be exported.
    """
    reading = _Reading(level, lenient)
    for name, value in params:
        if not (lossless.is_text(name) and lossless.is_text(value)):
            raise InvalidInput("a parameter holds a NUL or an unpaired surrogate, which is not text")
        if name in PARAMETERS:
            reading.values.setdefault(name, []).append(value)
        elif like := meant(name, PARAMETERS):  # never ignored: the client means less than everything
            raise InvalidInput(f"this is no kick-off parameter; is {like} meant?", location=f"http.{name}")
        elif name not in ("_format", "_pretty"):
            reading.unable("this kick-off parameter is not supported", name)
    for name in _NARROWING:
        if name in reading.values and not reading.several(name):
            raise InvalidInput(f"{name} is empty; say what is meant, or leave it out", location=f"http.{name}")
    _check_format(reading)
    if reading.one("allowPartialManifests") not in ("", "true", "false"):
        reading.unable("this takes true or false", "allowPartialManifests")
    filters = _filters(reading)
    associated = _associated(reading)
    return ExportRequest(
        level=level,
        group_id=group_id,
        types=_types(reader, reading, filters, associated),
        since=_moment(reading, "_since"),
        until=_moment(reading, "_until"),
        filters=filters,
        elements=_elements(reading),
        patients=_patients(reading, base_url),
        associated=associated,
        warnings=tuple(reading.warnings),
    )


def _check_format(reading: _Reading) -> None:
    wanted = reading.one("_outputFormat").replace(" ", "+")
    if wanted and wanted not in OUTPUT_FORMATS:
        reading.unable(f"files are written as {OUTPUT_FORMATS[0]} only", "_outputFormat")


def _moment(reading: _Reading, name: str) -> datetime | None:
    text = reading.one(name).strip().replace(" ", "+")
    if not text:
        return None
    if "T" not in text:
        raise InvalidInput(f"{name} takes a FHIR instant, such as 2026-01-31T08:00:00Z", location=f"http.{name}")
    try:
        return date_range(text)[0].astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{name} takes a FHIR instant, such as 2026-01-31T08:00:00Z", location=name) from error


def _filters(reading: _Reading) -> tuple[tuple[str, str], ...]:
    texts = [text for value in reading.values.get("_typeFilter", ()) for text in _NEXT_FILTER.split(value)]
    texts = [text for text in texts if text.strip()]
    if len(texts) > MOST_FILTERS:
        raise InvalidInput(f"an export takes at most {MOST_FILTERS} filters", location="http._typeFilter")
    return tuple(filter_of(text, "_typeFilter") for text in texts)


def _associated(reading: _Reading) -> str:
    """The least restrictive of the values that are honoured."""
    wanted = reading.several("includeAssociatedData")
    for value in wanted:
        if value not in ASSOCIATED:
            reading.unable(f"supported are {' and '.join(ASSOCIATED)}", "includeAssociatedData")
    return max((value for value in wanted if value in ASSOCIATED), key=ASSOCIATED.index, default="")


def _types(reader: Reader, reading: _Reading, filters: Sequence[tuple[str, str]], associated: str) -> tuple[str, ...]:
    asked = dict.fromkeys(reading.several("_type"))
    for name in list(asked):
        if name not in resource_types():
            reading.unable("a type named here is not exported by this server", "_type")
            del asked[name]
        elif reading.level != "system" and not _of_patients(name) and name not in _NO_PATIENTS:
            reading.unable("a type named here belongs to no patient; ask for it at system level", "_type")
            del asked[name]
    if "_type" in reading.values:
        if not asked:
            raise InvalidInput("_type names no type that this server exports", location="http._type")
        require_export(reader, asked)
    else:
        asked = dict.fromkeys(
            name
            for name in sorted(resource_types())
            if may_export(reader, name) and (reading.level == "system" or _of_patients(name))
        )
        if not asked:
            require_export(reader, ["*"])
    if associated:
        require_export(reader, ["Provenance"])
        asked.setdefault("Provenance")
    for name, _ in filters:
        if name not in asked:
            reading.unable("a filter is for a type that is not exported", "_typeFilter")
    return tuple(asked)


def _of_patients(resource_type: str) -> bool:
    return resource_type == "Patient" or bool(membership_parameters(resource_type))


def _elements(reading: _Reading) -> tuple[str, ...]:
    wanted = reading.several("_elements")
    for element in wanted:
        if not _ELEMENT.fullmatch(element):
            raise InvalidInput("_elements takes root elements: name, or Patient.name", location="http._elements")
    return tuple(wanted)


def _patients(reading: _Reading, base_url: str) -> tuple[str, ...]:
    given = [value.split(",") for value in reading.values.get("patient", ())]
    if not all(any(map(str.strip, parts)) for parts in given):  # never taken for everyone
        raise InvalidInput("patient is empty; name whom to export, or leave it out", location="http.patient")
    ids = []
    for text in reading.several("patient"):
        parts = reference_parts(text.removeprefix(f"{base_url}/"))
        if parts.target_type != "Patient" or parts.url:
            raise InvalidInput("patient takes references to here, such as Patient/123", location="http.patient")
        ids.append(parts.target_id)
    if ids and reading.level == "system":  # never ignored: the client means less than everything
        raise InvalidInput("an export of the whole system takes no patients; ask at Patient level", location="patient")
    return tuple(dict.fromkeys(ids))
