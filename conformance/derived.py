"""Definitions that follow from what Wetread works by: its code maps, models, audit kinds and FHIR tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from wetread import __version__
from wetread.api.fhir_metadata import capabilities_of_the_software
from wetread.mapping import maps
from wetread.mapping.model import CodeMap
from wetread.reading.manifest import Manifest
from wetread.record.audit.kinds import KINDS
from wetread.record.export import request as export_request
from wetread.record.operations.operations import OPERATIONS, Operation
from wetread.record.subscriptions import bindings, questions
from wetread.record.terminology import definitions

ROOT = Path(__file__).parents[1]
CANONICAL = "https://wetread.org/fhir"
DATE = "2026-11-21"
"""Of the newest content; not of the hour in which somebody builds it."""
WORDS = f"{CANONICAL}/CodeSystem/hl7v2-word"
_V2 = "http://terminology.hl7.org/CodeSystem/v2-"
_DCM = "http://dicom.nema.org/resources/ontology/DCM"

Resource = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CodeTable:
    """What a code map's two columns are: HL7 v2 tables, first come first served, and the system of its targets.

    A source code of none of the tables is a word that senders write in place of one, of the system `WORDS`: HAPI FHIR
    takes no group without a system.
    """

    tables: tuple[str, ...]
    target: str = ""
    """Empty where each target names its own system."""


CODE_TABLES: Mapping[str, CodeTable] = {
    "address-use": CodeTable(("0190",), "http://hl7.org/fhir/address-use"),
    "coding-system": CodeTable(("0396",), "urn:ietf:rfc:3986"),
    "encounter-status": CodeTable(("0003",), "http://hl7.org/fhir/encounter-status"),
    "gender": CodeTable(("0001",), "http://hl7.org/fhir/administrative-gender"),
    "identifier-type": CodeTable(("0203",), f"{_V2}0203"),
    "language": CodeTable(()),
    "modality": CodeTable(("0074",), _DCM),
    "name-use": CodeTable(("0200",), "http://hl7.org/fhir/name-use"),
    "order-control": CodeTable(("0119",), f"{CANONICAL}/CodeSystem/order-action"),
    "order-status": CodeTable(("0038",), "http://hl7.org/fhir/request-status"),
    "patient-class": CodeTable(("0004",)),
    "priority": CodeTable(("0485", "0027"), "http://hl7.org/fhir/request-priority"),
    "result-status": CodeTable(("0123",), "http://hl7.org/fhir/request-status"),
    "telecom-system": CodeTable(("0202",), "http://hl7.org/fhir/contact-point-system"),
    "telecom-use": CodeTable(("0201", "0202"), "http://hl7.org/fhir/contact-point-use"),
}

EXPORT_PARAMETERS: Mapping[str, tuple[str, str]] = {
    "_outputFormat": ("string", "1"),
    "_since": ("instant", "1"),
    "_until": ("instant", "1"),
    "_type": ("string", "*"),
    "_typeFilter": ("string", "*"),
    "_elements": ("string", "*"),
    "patient": ("Reference", "*"),
    "includeAssociatedData": ("code", "*"),
    "allowPartialManifests": ("boolean", "1"),
}
"""Type and greatest number of each parameter of a kick-off."""

SUBSCRIPTION_ANSWERS: Mapping[str, tuple[tuple[str, int, str, str], ...]] = {
    "get-ws-binding-token": (
        ("token", 1, "1", "string"),
        ("expiration", 1, "1", "dateTime"),
        ("subscription", 0, "*", "string"),
        ("websocket-url", 1, "1", "url"),
    ),
}
"""What an operation on subscriptions answers, where it is no Bundle: name, least and greatest number, type."""
SUBSCRIPTION_LIMITS: Mapping[str, str] = {
    "status": "the caller's own subscriptions; all for administrators, engineers and clients of system scopes.",
    "events": f"at most {questions.MOST_EVENTS} events in one answer, whose link says where it goes on; of each no "
    "more than the caller may read.",
    "get-ws-binding-token": "a token for the caller's own websocket subscriptions, valid for "
    f"{bindings.LIFETIME.seconds // 60} minutes.",
}


def every() -> dict[str, Resource]:
    """Every definition by type and id, as `ConceptMap/hl7v2-gender`."""
    made = [
        *concept_maps(),
        words(),
        *exports(),
        *of_subscriptions(),
        ai_findings(),
        audit_subtypes(),
        capabilities_of_the_software(DATE),
    ]
    return {f"{r['resourceType']}/{r['id']}": r for r in made}


def concept_maps() -> list[Resource]:
    """One ConceptMap for each table of `mappings/codes`, as shipped."""
    loaded = maps.load(ROOT / "mappings", None).codes
    return [_concept_map(loaded[name], CODE_TABLES[name]) for name in sorted(loaded)]


def _concept_map(code_map: CodeMap, table: CodeTable) -> Resource:
    file = ROOT / "mappings" / "codes" / f"{code_map.name}.yaml"
    groups: dict[tuple[str, str], list[Resource]] = {}
    prefixes = {f"{prefix}*": target for prefix, target in code_map.prefixes}
    for key, target in sorted({**code_map.codes, **prefixes}.items()):
        source, code = _source(key, table)
        system, mapped = _target(target, table.target)
        groups.setdefault((source, system), []).append(_element(code, mapped, same_system=source == system))
    return _canonical("ConceptMap", f"hl7v2-{code_map.name}", f"HL7 v2 code map: {code_map.name}") | {
        "description": yaml.safe_load(file.read_text(encoding="utf-8"))["description"],
        "group": [
            {
                "source": source,
                "target": system,
                "element": elements,
                **_unmapped(code_map.otherwise, table.target, system),
            }
            for (source, system), elements in sorted(groups.items(), key=lambda item: (item[0][0] == WORDS, item[0]))
        ],
    }


def words() -> Resource:
    """What stands in `group.source` for codes of no table."""
    return _canonical("CodeSystem", "hl7v2-word", "Words for codes of HL7 v2") | {
        "description": "What senders write in HL7 v2 fields in place of a code of the field's table. What a word means "
        "depends on the field, so the words stand in the ConceptMaps alone.",
        "caseSensitive": False,
        "content": "not-present",
    }


def _source(key: str, table: CodeTable) -> tuple[str, str]:
    """System and code of a source: the v2 table's own spelling, or the word as the map has it."""
    for number in table.tables:
        code = _v2_table(number).get(key)
        if code is not None:
            return f"{_V2}{number}", code
    return WORDS, key


def _target(target: Any, system: str) -> tuple[str, str | None]:
    match target:
        case {"coding": [coding]}:
            return coding["system"], coding["code"]
        case {"system": own, "code": code}:
            return own, code
        case _:
            return system, target


def _element(code: str, mapped: str | None, *, same_system: bool) -> Resource:
    if mapped is None:
        return {"code": code, "target": [{"equivalence": "unmatched", "comment": "It says nothing of this."}]}
    equivalence = "equal" if same_system and mapped == code else "relatedto"
    return {"code": code, "target": [{"code": mapped, "equivalence": equivalence}]}


def _unmapped(otherwise: Any, target_system: str, group_system: str) -> Resource:
    if otherwise is None:
        return {}
    system, code = _target(otherwise, target_system)
    return {"unmapped": {"mode": "fixed", "code": code}} if system == group_system else {}


@cache
def _v2_table(number: str) -> Mapping[str, str]:
    """The codes of an HL7 v2 table, each by its upper case; `TS<integer>` is found as `TS*`."""
    [table] = definitions.shipped("CodeSystem", f"{_V2}{number}")
    codes = [concept["code"] for concept in table["concept"]]
    return {code.replace("<integer>", "*").upper(): code for code in codes}


def exports() -> list[Resource]:
    """The kick-off of a bulk export at its three levels, with the parameters that are honoured."""
    return [
        _export("export", "System", "system"),
        _export("patient-export", "Patient", "type", "Patient"),
        _export("group-export", "Group", "instance", "Group"),
    ]


def _export(name: str, title: str, level: str, *types: str) -> Resource:
    parameters = [p for p in export_request.PARAMETERS if not (p == "patient" and level == "system")]
    return _canonical("OperationDefinition", name, f"Bulk export: {title}") | {
        "description": f"Bulk Data Access 2.0 with additions of 3.0, {title} level, as Wetread does it.",
        "kind": "operation",
        "affectsState": False,
        "code": "export",
        "base": f"http://hl7.org/fhir/uv/bulkdata/OperationDefinition/{name}",
        **({"resource": list(types)} if types else {}),
        **{each: each == level for each in ("system", "type", "instance")},
        "parameter": [_input(p, *EXPORT_PARAMETERS[p]) for p in parameters],
    }


def of_subscriptions() -> list[Resource]:
    """The operations of the Subscriptions R5 Backport guide, as Wetread does them."""
    return [_of_subscriptions(o) for o in OPERATIONS if o.resource_type == "Subscription"]


def _of_subscriptions(operation: Operation) -> Resource:
    out = [
        {"name": name, "use": "out", "min": least, "max": most, "type": type_}
        for name, least, most, type_ in SUBSCRIPTION_ANSWERS.get(operation.code, (("return", 1, "1", "Bundle"),))
    ]
    title = f"Subscription ${operation.code}"
    return _canonical("OperationDefinition", f"subscription-{operation.code}", title) | {
        "description": f"{title} of Subscriptions R5 Backport 1.1: {SUBSCRIPTION_LIMITS[operation.code]}",
        "kind": "operation",
        "affectsState": operation.affects_state,
        "code": operation.code,
        "base": operation.url,
        "resource": ["Subscription"],
        **{each: each in operation.levels for each in ("system", "type", "instance")},
        "parameter": [*(_input(p.name, p.type, p.max) for p in operation.inputs), *out],
    }


def _input(name: str, type_: str, most: str) -> Resource:
    targets = {"targetProfile": ["http://hl7.org/fhir/StructureDefinition/Patient"]} if type_ == "Reference" else {}
    return {"name": name, "use": "in", "min": 0, "max": most, "type": type_, **targets}


def ai_findings() -> Resource:
    """The findings that the shipped models may report."""
    codes: dict[tuple[str, str], str] = {}
    for file in sorted((ROOT / "models").glob("*/manifest.json")):
        for finding in Manifest.model_validate_json(file.read_bytes()).findings:
            codes[finding.code.system, finding.code.code] = finding.code.display
    return _value_set(
        "ai-finding", "AI findings", "What the model packages that come with Wetread may find or measure.", codes
    )


def audit_subtypes() -> Resource:
    """The subtypes that Wetread's AuditEvents carry."""
    codes = {(c.system, c.code): c.display for kind in KINDS.values() for c in kind.subtypes}
    return _value_set("audit-subtype", "Subtypes of AuditEvent", "What an AuditEvent of Wetread is about.", codes)


def _value_set(name: str, title: str, description: str, codes: Mapping[tuple[str, str], str]) -> Resource:
    return _canonical("ValueSet", name, title) | {
        "description": description,
        "compose": {"include": list(_includes(codes))},
    }


def _includes(codes: Mapping[tuple[str, str], str]) -> Iterator[Resource]:
    for system in sorted({system for system, _ in codes}):
        own = sorted((code, display) for (of, code), display in codes.items() if of == system)
        yield {"system": system, "concept": [{"code": code, "display": display} for code, display in own]}


def _canonical(resource_type: str, name: str, title: str) -> Resource:
    return {
        "resourceType": resource_type,
        "id": name,
        "url": f"{CANONICAL}/{resource_type}/{name}",
        "version": __version__,
        "name": "".join(part.capitalize() for part in name.split("-")),
        "title": title,
        "status": "active",
        "experimental": False,
        "publisher": "Wetread",
    }
