"""Makes the R4 tables that searches read: composite parameters, compartments, and what belongs in a summary.

    python conformance/r4/search_tables.py        writes server/wetread/record/data/

From the same package as `tables.py`, which makes the table of the plain parameters.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tables import Definition, Package, _lines, definitions

_TARGET = Path(__file__).parents[2] / "server/wetread/record/data"
_NEVER_IN_PARTS = frozenset({"id", "extension", "modifierExtension"})


def composites(resources: list[Definition]) -> dict[str, dict[str, Definition]]:
    """Type, then code, to: canonical, component codes, and `items`: the elements within which all parts must hold.

    A composite on the resource itself has no items, nor has one of whose parts some lie outside the items.
    """
    by_url = {r["url"]: r for r in resources if r["resourceType"] == "SearchParameter"}
    table: dict[str, dict[str, Definition]] = {}
    for parameter in sorted(by_url.values(), key=lambda p: str(p["id"])):
        if parameter["type"] != "composite" or "expression" not in parameter:
            continue
        for base in parameter["base"]:
            parts = [by_url[c["definition"]]["code"] for c in parameter["component"]]
            items = [b.strip() for b in parameter["expression"].split("|") if b.strip().split(".")[0] == base]
            outside = any(c["expression"].startswith("%resource") for c in parameter["component"])
            row = {"url": parameter["url"], "components": parts}
            if items != [base] and not outside:
                row["items"] = items
            table.setdefault(base, {})[parameter["code"]] = row
    return {base: table[base] for base in sorted(table)}


def single_dates(package: Package, resources: list[Definition]) -> dict[str, list[str]]:
    """Type to the date parameters of which a resource has one value at most: of one element that does not repeat."""
    table: dict[str, list[str]] = {}
    for parameter in sorted(
        (r for r in resources if r["resourceType"] == "SearchParameter"), key=lambda p: str(p["id"])
    ):
        if parameter["type"] != "date" or "expression" not in parameter:
            continue
        for base in parameter["base"]:
            branches = [b.strip() for b in parameter["expression"].split("|") if _BASE.match(b.strip())[1] == base]
            roots = {_PATH.match(b.strip("( "))[0] for b in branches}  # the types of a choice are one element
            if len(roots) == 1 and all(_repeats_not(package, path) for path in roots):
                table.setdefault(base, []).append(parameter["code"])
    return {base: sorted(table[base]) for base in sorted(table)}


_BASE = re.compile(r"\(?(\w+)")
_PATH = re.compile(r"\w+(?:\.(?!as\(|where\()\w+)*")


def _repeats_not(package: Package, path: str) -> bool:
    steps = path.split(".")
    for end in range(2, len(steps) + 1):
        element = package.element(".".join(steps[:end])) or package.element(".".join(steps[:end]) + "[x]")
        if element is None or element["max"] != "1":
            return False
    return len(steps) > 1


def compartments(resources: list[Definition]) -> dict[str, dict[str, list[str]]]:
    """Compartment, then type, to the parameters that put a resource into it."""
    own = [r for r in resources if r["resourceType"] == "CompartmentDefinition" and r["id"] != "example"]
    return {
        c["code"]: {r["code"]: r["param"] for r in c["resource"] if r.get("param")}
        for c in sorted(own, key=lambda c: str(c["code"]))
    }


def summaries(package: Package) -> dict[str, Any]:
    """`types`: type, then element as JSON names it, to what of it belongs in a summary: 0 all, or parts, or a type's.

    `mandatory`: type to its elements that no part of a resource may lack: those required, and modifiers.
    """
    structures = {n: s["snapshot"]["element"] for n, s in package.structures.items() if "snapshot" in s}
    types = {
        name: _parts(name, elements)
        for name, elements in sorted(structures.items())
        if package.structures[name]["kind"] in ("resource", "complex-type") and not package.structures[name]["abstract"]
    }
    whole = {name for name, parts in types.items() if parts is not None and _is_whole(name, structures[name])}
    resource_types = package.resource_types()
    return {
        "types": {
            name: _pruned(parts, whole) for name, parts in types.items() if name not in whole or name in resource_types
        },
        "mandatory": {
            name: [
                json_name
                for element in structures[name]
                if element["path"].count(".") == 1 and (element["min"] > 0 or element.get("isModifier"))
                for json_name in _json_names(element)
            ]
            for name in resource_types
        },
    }


def _json_names(element: Definition) -> list[str]:
    name = element["path"].rpartition(".")[2]
    if not name.endswith("[x]"):
        return [name]
    return [name[:-3] + t["code"][0].upper() + t["code"][1:] for t in element["type"]]


def _parts(path: str, elements: list[Definition]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for element in elements:
        parent, _, name = element["path"].rpartition(".")
        if parent != path or not element.get("isSummary") or name == "extension":
            continue
        for json_name, type_ in zip(_json_names(element), element.get("type", [{"code": ""}]), strict=False):
            code = type_["code"]
            below = _parts(element["path"], elements) if code in ("BackboneElement", "Element") else {}
            parts[json_name] = below or (code if code[:1].isupper() else 0)
    return parts


def _is_whole(name: str, elements: list[Definition]) -> bool:
    """A data type all of whose elements belong in a summary."""
    return all(
        e.get("isSummary") for e in elements if "." in e["path"] and e["path"].rpartition(".")[2] not in _NEVER_IN_PARTS
    )


def _pruned(parts: Any, whole: set[str]) -> Any:
    if isinstance(parts, dict):
        return {name: _pruned(part, whole) for name, part in parts.items()}
    return 0 if parts in whole or parts in ("Resource", "BackboneElement", "Element", "Extension") else parts


def texts() -> dict[str, str]:
    """File name to content."""
    resources = definitions()
    package = Package(resources)
    return {
        "search-single-dates.json": _lines(single_dates(package, resources)) + "\n",
        "search-composites.json": _lines(composites(resources)) + "\n",
        "compartments.json": _lines(compartments(resources)) + "\n",
        "summaries.json": _lines(summaries(package)) + "\n",
    }


if __name__ == "__main__":
    for file_name, content in texts().items():
        json.loads(content)
        (_TARGET / file_name).write_text(content, encoding="utf-8")
