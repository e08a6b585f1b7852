"""Takes the examples of the package from a demonstration: `python -m conformance.examples DEMO-OUTPUT`.

They are the resources of two of its studies as Wetread stored them, less the version and the time of storage. Task and
ServiceRequest name the profile that they keep, which the server leaves unsaid: a site's maps may differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from conformance.generate import FOLDER, text_of

from wetread.api.fhir_metadata import SUPPORTED_PROFILES
from wetread.domain.codes import PROFILES
from wetread.store import embedded

ACCESSION_NUMBERS = ("DEMO-A1001", "DEMO-A1004")
"""A film of a child's chest, and a head CT of a phantom with a bleed."""
_BASE = "https://wetread.example/fhir"
_TYPES = (
    *("Patient", "Encounter", "Practitioner", "ServiceRequest", "Task", "ImagingStudy"),
    *("Device", "Observation", "DiagnosticReport", "Provenance"),
)

Resource = dict[str, Any]


def captured(database_url: str) -> list[Resource]:
    """The orders of `ACCESSION_NUMBERS`, what refers to them, and what that refers to."""
    with psycopg.connect(database_url) as conn:
        rows = conn.execute(
            "SELECT resource_type || '/' || id, body FROM resource WHERE NOT deleted AND resource_type = ANY (%s)",
            (list(_TYPES),),
        )
        stored = {reference: json.loads(body) for reference, body in rows}
    orders = {reference for reference, r in stored.items() if _is_asked_for(r)}
    wanted = orders | {reference for reference, r in stored.items() if orders & set(_references(r))}
    while fresh := {target for reference in wanted for target in _references(stored[reference])} & set(stored) - wanted:
        wanted |= fresh
    return [_shown(stored[reference]) for reference in sorted(wanted)]


def _is_asked_for(resource: Mapping[str, Any]) -> bool:
    numbers = {i.get("value") for i in resource.get("identifier", ())}
    return resource["resourceType"] == "ServiceRequest" and bool(numbers & set(ACCESSION_NUMBERS))


def _references(value: Any) -> Iterator[str]:
    match value:
        case {"reference": str(reference)}:
            yield reference
        case dict():
            for member in value.values():
                yield from _references(member)
        case list():
            for member in value:
                yield from _references(member)


def _shown(resource: Resource) -> Resource:
    meta = {k: v for k, v in resource.pop("meta").items() if k not in ("versionId", "lastUpdated")}
    if "source" in meta:
        meta["source"] = _BASE
    profiles = SUPPORTED_PROFILES.get(resource["resourceType"], ())
    meta |= {"profile": [f"{PROFILES}/{name}" for name in profiles]} if profiles else {}
    kind, id_ = resource.pop("resourceType"), resource.pop("id")
    return {"resourceType": kind, "id": id_, **({"meta": meta} if meta else {}), **resource}


def main(arguments: Sequence[str]) -> int:
    with embedded.borrowed(Path(arguments[0]) / "server") as url:
        found = captured(url)
    folder = FOLDER / "examples"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    for resource in found:
        file = folder / f"{resource['resourceType'].lower()}-{resource['id']}.json"
        file.write_text(text_of(resource), encoding="utf-8")
    print(f"{len(found)} examples")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
