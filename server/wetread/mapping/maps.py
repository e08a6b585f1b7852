"""Loads and checks the maps: every mistake is found at start, and named by file and key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any

from wetread.errors import Misconfigured
from wetread.mapping.datatypes import CONVERTERS
from wetread.mapping.files import Source, files
from wetread.mapping.model import CodeMap, Element, Maps, ResourceMap, Rule
from wetread.mapping.paths import Path

RESOURCES = ("Patient", "Encounter", "ServiceRequest", "Task")
"""The resource maps that must exist."""

ORDER_FACTS = ("accession", "study-instance-uid", "priority", "modality", "ordering-location", "cancel-reason")
"""The path lists that `hl7v2/order.yaml` must hold."""

PREPARED = (
    "patient",
    "encounter",
    "requester",
    "service-request",
    "placer",
    "filler",
    "accession",
    "study-instance-uid",
    "priority",
    "modality",
    "further-procedures",
    "status",
    "replaces",
)
"""What `take:` may name: references to the resources of the same message, and the facts of the order."""

_REQUEST_STATUS = frozenset({"draft", "active", "on-hold", "revoked", "completed", "entered-in-error", "unknown"})
_CODE_MAPS: Mapping[str, frozenset[str] | None] = {
    "gender": frozenset({"male", "female", "other", "unknown"}),
    "priority": frozenset({"routine", "urgent", "asap", "stat"}),
    "encounter-status": frozenset(
        {"planned", "arrived", "triaged", "in-progress", "onleave", "finished", "cancelled", "entered-in-error"}
        | {"unknown"}
    ),
    "order-control": frozenset(
        {"create", "update", "cancel", "discontinue", "hold", "release", "status", "number", "replace", "replaced"}
        | {"reject", "none"}
    ),
    "order-status": _REQUEST_STATUS,
    "result-status": _REQUEST_STATUS,
    "name-use": frozenset({"usual", "official", "temp", "nickname", "anonymous", "old", "maiden"}),
    "address-use": frozenset({"home", "work", "temp", "old", "billing"}),
    "telecom-use": frozenset({"home", "work", "temp", "old", "mobile"}),
    "telecom-system": frozenset({"phone", "fax", "email", "pager", "url", "sms", "other"}),
    "coding-system": None,
    "identifier-type": None,
    "modality": None,
}
"""The code maps the converters and the order rules ask for, and the targets that FHIR's required bindings allow."""


def load(shipped: FilePath, overlay: FilePath | None) -> Maps:
    """The maps of the folder `shipped`, with the site's files of the same name in their place.

    A site's file that starts with `extends: shipped` says only what differs. Raises Misconfigured, naming file and
    key, when a file is missing, unreadable or wrong.
    """
    hl7, codes = files(shipped, overlay, "hl7v2"), files(shipped, overlay, "codes")
    code_maps = {name: _code_map(source) for name, source in codes.items()}
    for name in _CODE_MAPS:
        if name not in code_maps:
            raise Misconfigured(f"{shipped / 'codes' / name}.yaml is missing; restore it from the shipped maps")
    resources: dict[str, ResourceMap] = {}
    facts: Mapping[str, tuple[Path, ...]] = {}
    authorities: Mapping[str, str] = {}
    for name, source in hl7.items():
        if name == "order":
            facts = _order_facts(source)
        elif name == "authorities":
            authorities = _authorities(source)
        else:
            resource = _resource_map(source, code_maps)
            resources[resource.resource_type] = resource
    missing = [name for name in RESOURCES if name not in resources] + ([] if facts else ["order"])
    if missing:
        raise Misconfigured(f"{shipped / 'hl7v2'}: no map for {', '.join(missing)}; restore it from the shipped maps")
    return Maps(
        MappingProxyType(resources), MappingProxyType(dict(facts)), MappingProxyType(code_maps), dict(authorities)
    )


def _paths(source: Source, value: Any, *key: str) -> tuple[Path, ...]:
    texts = value if isinstance(value, list) else [value]
    if not texts:
        source.wrong("expected at least one path", *key)
    found = []
    for text in texts:
        try:
            found.append(Path.parse(source.string(text, *key)))
        except ValueError as problem:
            source.wrong(str(problem), *key)
    return tuple(found)


def _code_map(source: Source) -> CodeMap:
    name = source.file.stem
    source.only(source.content, frozenset({"description", "codes", "same", "otherwise"}))
    targets = _CODE_MAPS.get(name)
    codes: dict[str, Any] = {}
    prefixes: list[tuple[str, Any]] = []
    for key, target in _pairs(source):
        if targets is not None and target is not None and target not in targets:
            source.wrong(f"expected one of {', '.join(sorted(targets))}", "codes", key)
        if key.endswith("*"):
            prefixes.append((key[:-1].upper(), target))
        else:
            codes[key.upper()] = target
    otherwise = source.content.get("otherwise")
    if targets is not None and otherwise is not None and otherwise not in targets:
        source.wrong(f"expected one of {', '.join(sorted(targets))}", "otherwise")
    return CodeMap(name, codes, tuple(sorted(prefixes, key=lambda p: -len(p[0]))), otherwise)


def _pairs(source: Source) -> Iterator[tuple[str, Any]]:
    same = source.content.get("same", [])
    if not isinstance(same, list):
        source.wrong("expected a list of codes that stay as they are", "same")
    yield from ((source.string(code, "same"), code) for code in same)
    if "codes" in source.content:
        yield from source.table("codes").items()


def _order_facts(source: Source) -> dict[str, tuple[Path, ...]]:
    source.only(source.content, frozenset({"description", "order"}))
    table = source.table("order")
    source.only(table, frozenset(ORDER_FACTS), "order")
    for name in ORDER_FACTS:
        if name not in table:
            source.wrong("is missing; expected a list of paths", "order", name)
    return {name: _paths(source, value, "order", name) for name, value in table.items()}


def _authorities(source: Source) -> dict[str, str]:
    source.only(source.content, frozenset({"description", "authorities"}))
    table = {name: source.string(uri, "authorities", name) for name, uri in source.table("authorities").items()}
    for name, uri in table.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:\S+", uri):
            source.wrong("expected an absolute URI, e.g. urn:oid:1.2.3 or https://...", "authorities", name)
    return table


def _resource_map(source: Source, codes: Mapping[str, CodeMap]) -> ResourceMap:
    source.only(source.content, frozenset({"description", "resource", "when", "elements"}))
    resource_type = source.string(source.content.get("resource"), "resource")
    if resource_type not in RESOURCES:
        source.wrong(f"expected one of {', '.join(RESOURCES)}", "resource")
    when = _paths(source, source.content["when"], "when")[0] if "when" in source.content else None
    elements = tuple(_element(source, codes, key, body) for key, body in source.table("elements").items())
    return ResourceMap(resource_type, elements, when)


_ELEMENT_KEY = re.compile(r"_?[a-z][A-Za-z0-9]*(\.[a-z][A-Za-z0-9]*)*(\[\])?")
RULE_KEYS = frozenset(
    {"from", "each", "combine", "value", "take", "as", "codes", "under", "default", "if-new", "match", "once", "unless"}
)


def _element(source: Source, codes: Mapping[str, CodeMap], key: str, body: Any) -> Element:
    where = ("elements", key)
    if not _ELEMENT_KEY.fullmatch(key):
        source.wrong("is not an element name; expected e.g. birthDate, period.start or name[]", *where)
    bodies = body if isinstance(body, list) else [body]
    for one in bodies:
        if not isinstance(one, Mapping):
            source.wrong("expected a rule, e.g. {from: PID-7, as: date}", *where)
        source.only(one, RULE_KEYS, *where)
    repeats = key.endswith("[]")
    match: tuple[str, ...] = ()
    for one in bodies:
        if "match" in one:
            if not isinstance(one["match"], list):
                source.wrong("expected a list of keys of the entry", *where, "match")
            match = tuple(source.string(m, *where, "match") for m in one["match"])
    if match and not repeats:
        source.wrong("only a repeating element (its key ends in []) has entries to match", *where, "match")
    rules = tuple(_rule(source, codes, one, repeats, where) for one in bodies)
    if len(rules) > 1 and not repeats:
        source.wrong("several rules need a repeating element; use a list of paths under `from` instead", *where)
    once = any(one.get("once") is True for one in bodies)
    unless = next((source.string(one["unless"], *where, "unless") for one in bodies if "unless" in one), None)
    return Element(tuple(key.removesuffix("[]").split(".")), repeats, rules, match, once, unless)


def _rule(
    source: Source, codes: Mapping[str, CodeMap], body: Mapping[str, Any], repeats: bool, where: tuple[str, ...]
) -> Rule:
    sources = [key for key in ("from", "each", "combine", "value", "take") if key in body]
    if len(sources) != 1 and not (not sources and "if-new" in body):
        source.wrong("expected exactly one of from, each, combine, value, take", *where)
    if "each" in body and not repeats:
        source.wrong("reads every repetition, so the element's key must end in []", *where, "each")
    convert = source.string(body.get("as", "text"), *where, "as")
    if convert not in CONVERTERS:
        source.wrong(f"no converter {convert!r}; expected one of {', '.join(sorted(CONVERTERS))}", *where, "as")
    if "combine" in body and convert != "concept":
        source.wrong("joins concepts only; add `as: concept`", *where, "combine")
    table = body.get("codes")
    if table is not None and table not in codes:
        source.wrong(f"no code map {table!r} under codes/", *where, "codes")
    if "take" in body and body["take"] not in PREPARED:
        source.wrong(f"expected one of {', '.join(PREPARED)}", *where, "take")
    default = body.get("default", {})
    if not isinstance(default, Mapping):
        source.wrong("expected a table of keys and values", *where, "default")
    return Rule(
        _paths(source, body["from"], *where, "from") if "from" in body else (),
        _paths(source, body["each"], *where, "each") if "each" in body else (),
        _paths(source, body["combine"], *where, "combine") if "combine" in body else (),
        convert,
        table,
        body.get("value"),
        body.get("take"),
        source.string(body["under"], *where, "under") if "under" in body else None,
        default,
        body.get("if-new"),
    )
