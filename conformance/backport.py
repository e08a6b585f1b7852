"""The profiles and extensions of the Subscriptions R5 Backport guide 1.1.0 for R4, as definitions to validate with.

The guide is a package that no registry of ours carries, so `backport-guide/` has its sources for R4 and what SUSHI
makes of them. Run as a module it compiles them anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("backport-guide")
_NOTIFICATION_TYPES = ("handshake", "heartbeat", "event-notification", "query-status", "query-event")
_TYPES = "http://hl7.org/fhir/subscription-notification-type"


def definitions() -> list[dict[str, Any]]:
    """R4 conformance resources: those of the guide, and the codes of R4B that it binds to."""
    guide = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.json"))]
    return [*guide, *_terms_of_later_versions()]


def compiled() -> dict[str, dict[str, Any]]:
    """What SUSHI makes of the sources, by the name of its file, without snapshots: the validator makes its own.

    Raises what `shorthand.compiled` raises.
    """
    from conformance import shorthand  # which needs the validator, which needs the definitions

    made = {}
    for definition in shorthand.compiled(FOLDER).values():
        definition.pop("snapshot", None)
        made[f"{definition['resourceType'].lower()}-{definition['id']}.json"] = definition
    return made


def _terms_of_later_versions() -> list[dict[str, Any]]:
    """What R4 has no codes for: the types of notification, which the guide takes from R4B."""
    types = _codes("subscription-notification-type", _TYPES, "4.3.0", _NOTIFICATION_TYPES)
    values = {key: types[key] for key in ("id", "name", "version", "status")} | {
        "resourceType": "ValueSet",
        "url": "http://hl7.org/fhir/ValueSet/subscription-notification-type",
        "compose": {"include": [{"system": _TYPES}]},
    }
    return [types, values]


def _codes(name: str, url: str, version: str, codes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "resourceType": "CodeSystem",
        "id": name,
        "url": url,
        "name": "".join(part.capitalize() for part in name.split("-")),
        "version": version,
        "status": "active",
        "caseSensitive": True,
        "content": "complete",
        "concept": [{"code": code} for code in codes],
    }


def main() -> int:
    for name, definition in compiled().items():
        text = json.dumps(definition, indent=1, ensure_ascii=False) + "\n"
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
