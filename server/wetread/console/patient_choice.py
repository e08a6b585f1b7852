"""Finding the patient, and the visit, that an app is for: among what the person may read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from wetread.domain.reader import Reader
from wetread.errors import NotFound
from wetread.record import resources
from wetread.record.search import search
from wetread.store.database import Connection

_MOST = 20
_LONGEST = 100


@dataclass(frozen=True, slots=True)
class Patient:
    id: str
    name: str
    born: str
    sex: str
    identifiers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Visit:
    id: str
    label: str


async def found(conn: Connection, reader: Reader, name: str, identifier: str, fhir_base: str) -> list[Patient]:
    """At most twenty, by name. Raises Forbidden where the person may search no patients."""
    asked = [("name", name.strip()[:_LONGEST]), ("identifier", identifier.strip()[:_LONGEST])]
    given = [(parameter, _plain(value)) for parameter, value in asked if value]
    if not given:
        return []
    entries = await _search(conn, reader, "Patient", [*given, ("_sort", "family")], fhir_base)
    return [_patient(each) for each in entries]


async def chosen(conn: Connection, reader: Reader, patient_id: str) -> Patient:
    """Raises NotFound, Forbidden."""
    return _patient((await resources.read(conn, reader, "Patient", patient_id)).resource())


async def visits(conn: Connection, reader: Reader, patient_id: str, fhir_base: str) -> list[Visit]:
    """The patient's latest. Empty where the person may search none."""
    if not reader.may_some("s", "Encounter"):
        return []
    entries = await _search(
        conn, reader, "Encounter", [("patient", f"Patient/{patient_id}"), ("_sort", "-date")], fhir_base
    )
    return [Visit(each["id"], _visit(each)) for each in entries]


async def require_visit(conn: Connection, reader: Reader, patient_id: str, visit_id: str) -> None:
    """That the visit is the patient's. Raises NotFound, Forbidden."""
    visit = (await resources.read(conn, reader, "Encounter", visit_id)).resource()
    if visit.get("subject", {}).get("reference") != f"Patient/{patient_id}":
        raise NotFound("this visit is not the chosen patient's")


async def _search(
    conn: Connection, reader: Reader, resource_type: str, params: list[tuple[str, str]], fhir_base: str
) -> list[dict[str, Any]]:
    page = await search.search(
        conn, reader, search.SearchRequest(resource_type, [*params, ("_count", str(_MOST))], fhir_base)
    )
    entries = json.loads(page.body).get("entry", [])
    return [each["resource"] for each in entries if each["resource"]["resourceType"] == resource_type]


def _plain(value: str) -> str:
    """As a value of a search: its own characters have no meaning there (FHIR R4 search.html#escaping)."""
    return "".join(f"\\{char}" if char in "\\,$" else char for char in value)


def _patient(content: dict[str, Any]) -> Patient:
    names = content.get("name") or [{}]
    parts = [*names[0].get("given", []), names[0].get("family", "")]
    name = names[0].get("text") or " ".join(part for part in parts if part)
    identifiers = tuple(str(each["value"]) for each in content.get("identifier", []) if each.get("value"))
    return Patient(
        content["id"], name or "without a name", content.get("birthDate", ""), content.get("gender", ""), identifiers
    )


def _visit(content: dict[str, Any]) -> str:
    begun = content.get("period", {}).get("start", "")[:10]
    kind = content.get("class", {}).get("display") or content.get("class", {}).get("code", "")
    return ", ".join(part for part in (begun or "without a date", kind, content.get("status", "")) if part)
