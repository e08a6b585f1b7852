"""Makes the profiles of `wetread.record`: those of the R4 core package, its extension definitions among them, and ours.

    python conformance/r4/profiles.py        writes server/wetread/record/data/profiles-*

Of each differential stays what content can be judged by.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from tables import definitions

_OWN = Path(__file__).parents[1]
_TARGET = Path(__file__).parents[2] / "server/wetread/record/data"
_KEPT = ("resourceType", "url", "version", "type", "baseDefinition")
_KEPT_OF_ELEMENT = ("id", "path", "sliceName", "slicing", "min", "max", "maxLength")
_KEPT_BY_PREFIX = ("fixed", "pattern", "minValue", "maxValue")
_KEPT_OF_TYPE = ("code", "profile", "targetProfile")
_KEPT_OF_CONSTRAINT = ("key", "severity", "expression")


def texts() -> dict[str, str]:
    """File name to content, one profile a line."""
    ours = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(_OWN.glob("*.json"))]
    return {"profiles-r4.json": _lines(definitions()), "profiles-own.json": _lines(ours)}


def _lines(resources: list[dict[str, Any]]) -> str:
    profiles = sorted((_lean(r) for r in resources if _is_profile(r)), key=lambda p: str(p["url"]))
    return "[\n" + ",\n".join(map(_json, profiles)) + "\n]\n"


def _is_profile(resource: dict[str, Any]) -> bool:
    return resource.get("resourceType") == "StructureDefinition" and resource.get("derivation") == "constraint"


def _lean(profile: dict[str, Any]) -> dict[str, Any]:
    kept = {key: profile[key] for key in _KEPT if key in profile}
    return kept | {"differential": {"element": [_lean_element(e) for e in profile["differential"]["element"]]}}


def _lean_element(element: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in element.items() if k in _KEPT_OF_ELEMENT or k.startswith(_KEPT_BY_PREFIX)}
    if "type" in element:
        kept["type"] = [{k: v for k, v in t.items() if k in _KEPT_OF_TYPE} for t in element["type"]]
    if rules := [c for c in element.get("constraint", ()) if c["severity"] == "error"]:
        kept["constraint"] = [{k: v for k, v in c.items() if k in _KEPT_OF_CONSTRAINT} for c in rules]
    binding = element.get("binding", {})
    if binding.get("strength") == "required" and "valueSet" in binding:
        kept["binding"] = {"strength": "required", "valueSet": binding["valueSet"]}
    return kept


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    for file_name, content in texts().items():
        (_TARGET / file_name).write_text(content, encoding="utf-8")
