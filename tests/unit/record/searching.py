"""How the tests of searches ask, and read the answer."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.record import resources
from wetread.record.search.search import SearchRequest, SearchSet, search
from wetread.store.database import Connection

BASE = "https://wetread.example/fhir"
LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"


def bundle(found: SearchSet) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(found.body)
    return content


def entries(found: SearchSet, mode: str) -> list[str]:
    """The ids of the entries of a mode."""
    return [e["resource"]["id"] for e in bundle(found).get("entry", []) if e["search"]["mode"] == mode]


async def found(conn: Connection, query: str, reader: Reader = SYSTEM) -> list[str]:
    """The ids that `Type?parameters` matches, in their order."""
    resource_type, _, rest = query.partition("?")
    params = parse_qsl(rest, keep_blank_values=True)
    return entries(await search(conn, reader, SearchRequest(resource_type, params, BASE, strict=True)), "match")


async def included(conn: Connection, query: str, reader: Reader = SYSTEM) -> set[str]:
    resource_type, _, rest = query.partition("?")
    return set(
        entries(await search(conn, reader, SearchRequest(resource_type, parse_qsl(rest), BASE, strict=True)), "include")
    )


def next_page(page: SearchSet) -> list[tuple[str, str]] | None:
    links = {link["relation"]: link["url"] for link in bundle(page)["link"]}
    return parse_qsl(urlsplit(links["next"]).query) if "next" in links else None


async def put(conn: Connection, *all_: dict[str, Any]) -> None:
    for each in all_:
        await resources.put(conn, each)


def reader_of(*resource_types: str) -> Reader:
    return Reader("x", tuple(Scope("system", t, frozenset("rs")) for t in resource_types))


def resource(resource_type: str, id_: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": resource_type, "id": id_, **more}


def observation(id_: str, code: str = "1-1", **more: Any) -> dict[str, Any]:
    return resource("Observation", id_, status="final", code={"coding": [{"system": LOINC, "code": code}]}, **more)


def to(*references: str) -> Any:
    """One Reference, or several."""
    made = [{"reference": r} for r in references]
    return made[0] if len(made) == 1 else made


def quantity(value: Any, code: str, system: str = UCUM) -> dict[str, Any]:
    return {"value": value, "system": system, "code": code, "unit": code}
