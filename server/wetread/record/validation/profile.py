"""Content against a profile: what a StructureDefinition asks for beyond R4 (FHIR R4 profiling.html).

Judged: cardinality, fixed values and patterns, types, types of what references point to, required bindings to value
sets that list their codes, lengths, slices (by value, pattern, exists, type and profile), profiles of extensions and
data types, and invariants of severity error. `mustSupport` is no rule for content. Not judged, and so never a fault:
bindings to value sets that cannot be listed from what is given, and invariants in FHIRPath that `fhirpath` has not, or
that have a regular expression of their author, which may run for ever.

A profile is read as its differential on top of those of its bases, so a snapshot is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, TypeAlias

from wetread.record import fhirpath, structures
from wetread.record.fhirpath import Node, navigation, syntax
from wetread.record.fhirpath.evaluate import path_of
from wetread.record.fhirpath.values import order
from wetread.record.search.parameters import table
from wetread.record.validation import resource_types as validate_types
from wetread.record.validation.resource_types import Issue, Place, expression
from wetread.record.validation.valuesets import codes_of

Definitions: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Conformance resources by canonical URL: StructureDefinition, ValueSet and CodeSystem."""
CORE = "http://hl7.org/fhir/StructureDefinition/"
_IMPLIED_SLICING = {"discriminator": [{"type": "value", "path": "url"}], "rules": "open"}
_BY_TYPE = {"discriminator": [{"type": "type", "path": "$this"}], "rules": "open"}
_MOST_BASES = 20
_DEEPEST = 40
_MOST_VISITS = 10_000
"""Of elements, in one check: profiles that name each other would double them with every step."""
_SLICE_CHECKS_OF_A_VISIT = 10
"""So many items asked whether they are of a slice count as a visit: there are items times slices of them."""
_REFUSED = frozenset({"matches", "matchesFull", "replaceMatches"})
_NOT_A_PATH = (fhirpath.NotFhirPath, RecursionError, TypeError, ValueError, ArithmeticError)


@dataclass(slots=True)
class Rule:
    """What a profile says of one element: its ElementDefinition, the rules of its children, and its slices."""

    name: str
    told: dict[str, Any] = field(default_factory=dict)
    children: dict[str, Rule] = field(default_factory=dict)
    slices: dict[str, Rule] = field(default_factory=dict)

    def value(self, prefix: str) -> Any:
        """The `fixed[x]` or `pattern[x]` of the element; None where it has none."""
        return next((v for k, v in self.told.items() if k.startswith(prefix) and k[len(prefix) :][:1].isupper()), None)

    @property
    def types(self) -> list[Mapping[str, Any]]:
        return list(self.told.get("type", ()))

    @property
    def slicing(self) -> Mapping[str, Any]:
        if "slicing" in self.told:
            slicing: Mapping[str, Any] = self.told["slicing"]
            return slicing
        return _IMPLIED_SLICING if self.name in ("extension", "modifierExtension") else _BY_TYPE


def check_profile(content: Mapping[str, Any], profile_url: str, definitions: Definitions) -> list[Issue]:
    """Every fault of a resource by R4 and by a profile; a profile that is not among the definitions is one fault."""
    resource_type = content.get("resourceType")
    if not isinstance(resource_type, str) or not validate_types.is_known(resource_type):
        return [Issue("structure", "resourceType", "R4 has no resource of that type")]
    issues = validate_types.check(content)
    root = Node(content, resource_type)
    check = _Check(definitions, root)
    check.profile(profile_url, root, ((), resource_type, None))
    return [*issues, *check.found()][: validate_types.MOST_ISSUES]


def check_extensions(content: Mapping[str, Any], definitions: Definitions) -> list[Issue]:
    """Every fault of the extensions in a resource whose definitions are at hand; others are left alone."""
    resource_type = content.get("resourceType")
    if not isinstance(resource_type, str) or not validate_types.is_known(resource_type):
        return []
    root = Node(content, resource_type)
    check = _Check(definitions, root)
    for item, place in _extensions(root, ((), root.type, None)):
        url = item.value.get("url")
        if isinstance(url, str) and check.tree(url) is not None:
            check.profile(url, item, place)
    return check.found()[: validate_types.MOST_ISSUES]


def _extensions(node: Node, place: Place) -> Iterator[tuple[Node, Place]]:
    """The extensions that stand anywhere in a node, those within extensions left out: their parents judge them."""
    definition = structures.structure("Element" if node.type in structures.PRIMITIVES else node.type)
    for name, element in definition.elements.items() if definition else ():
        for index, item in enumerate(navigation.child([node], name)):
            where = (place, name, index if element.array else None)
            if item.type == "Extension" and isinstance(item.value, dict):
                yield item, where
            else:
                yield from _extensions(item, where)


def tree(profile_url: str, definitions: Definitions) -> tuple[str, Rule] | None:
    """The type that a profile constrains and its rules, those of its bases among them. None where the profile, or one
    that it is based on, is not among the definitions."""
    chain: list[Mapping[str, Any]] = []
    url = profile_url.split("|")[0]
    while not _core_type(url):
        definition = definitions.get(url)
        if definition is None or definition.get("resourceType") != "StructureDefinition" or len(chain) > _MOST_BASES:
            return None
        chain.append(definition)
        url = str(definition.get("baseDefinition", "")).split("|")[0]
    name = str(chain[0].get("type", "")) if chain else _core_type(url)
    root = Rule(name)
    for definition in reversed(chain):
        form = definition.get("differential") or definition.get("snapshot") or {}
        for element in form.get("element", ()):
            _place(root, element).told.update(element)
    return name, root


def _core_type(url: str) -> str:
    """The type whose own definition a URL is; empty for any other."""
    if not url.startswith(CORE):
        return ""
    name = url.removeprefix(CORE)
    known = name in ("Resource", "DomainResource", "Element", "BackboneElement") or structures.structure(name)
    return name if known or name in structures.PRIMITIVES else ""


def _place(root: Rule, element: Mapping[str, Any]) -> Rule:
    """The rule at an element's id, such as `Observation.component:systolic.value[x]`, made where it is new."""
    path = str(element.get("id") or element["path"] + (f":{element['sliceName']}" if "sliceName" in element else ""))
    rule, holder = root, root.name
    for step in path.split(".")[1:]:
        name, _, slice_name = step.partition(":")
        name = name.removesuffix("[x]")
        definition = structures.structure(holder)
        found = definition.members.get(name) if definition else None
        if found and found[0].is_choice and name != found[0].name:  # `valueQuantity` for value[x] as a Quantity
            name, slice_name = found[0].name, slice_name or name
        base = definition.elements.get(name) if definition else None
        rule = rule.children.setdefault(name, Rule(name))
        if slice_name:
            rule = rule.slices.setdefault(slice_name, Rule(name, _told_by_name(base, slice_name)))
        holder = _holder(base, rule)
    return rule


def _told_by_name(base: structures.Element | None, slice_name: str) -> dict[str, Any]:
    """A slice of a choice element, named as R4 names its member, tells its type by its name."""
    kinds = [kind for key, kind in base.members() if key == slice_name] if base and base.is_choice else []
    return {"type": [{"code": kinds[0]}]} if kinds else {}


def _holder(base: structures.Element | None, rule: Rule) -> str:
    codes = [str(t.get("code", "")) for t in rule.types]
    if len(codes) == 1 and codes[0] not in ("BackboneElement", "Element"):
        return codes[0]
    return base.types[0] if base and len(base.types) == 1 else ""


@cache
def _own_expressions() -> frozenset[str]:
    """The invariants of the profiles that come with us, which may have regular expressions."""
    rows = table("profiles-own.json")
    elements = [e for row in rows for e in row.get("differential", row.get("snapshot", {})).get("element", ())]
    return frozenset(c["expression"] for e in elements for c in e.get("constraint", ()) if "expression" in c)


def _path(text: str) -> fhirpath.Path | None:
    """An expression of a profile; None for one that is not tried."""
    try:
        parsed = syntax.parse(text)
        is_tried = text in _own_expressions() or _REFUSED.isdisjoint(_functions(parsed))
        return path_of(parsed) if is_tried else None
    except _NOT_A_PATH:
        return None


def _functions(part: Any) -> Iterator[str]:
    if isinstance(part, syntax.Call):
        yield part.name
    if is_dataclass(part):
        part = tuple(getattr(part, f.name) for f in fields(part))
    for inner in part if isinstance(part, tuple) else ():
        yield from _functions(inner)


@dataclass(slots=True)
class _Shared:
    """What a check has in common with the trials within it, and drops at its end."""

    visits: int = 0
    trees: dict[str, tuple[str, Rule] | None] = field(default_factory=dict)
    paths: dict[str, fhirpath.Path | None] = field(default_factory=dict)


@dataclass(slots=True)
class _Check:
    definitions: Definitions
    root: Node
    shared: _Shared = field(default_factory=_Shared)
    resource: Node = field(init=False)
    contained: Mapping[str, str] = field(init=False)
    issues: list[Issue] = field(default_factory=list)
    depth: int = 0

    def __post_init__(self) -> None:
        self.resource = self.root
        self.contained = validate_types.contained(self.root.value)

    def add(self, code: str, place: Place, text: str) -> None:
        self.issues.append(Issue(code, expression(place), text))

    def found(self) -> list[Issue]:
        """The faults, and whether they are all."""
        if self.shared.visits < _MOST_VISITS:
            return self.issues
        text = "the profiles ask for more than is judged of one resource; what is beyond is left alone"
        return [Issue("too-costly", self.root.type, text, "warning"), *self.issues]

    def tree(self, url: str) -> tuple[str, Rule] | None:
        if url not in self.shared.trees:
            self.shared.trees[url] = tree(url, self.definitions)
        return self.shared.trees[url]

    def path(self, text: str) -> fhirpath.Path | None:
        if text not in self.shared.paths:
            self.shared.paths[text] = _path(text)
        return self.shared.paths[text]

    def nodes(self, text: str, item: Node) -> list[Node] | None:
        """What the path of a discriminator leads to; None where that cannot be decided."""
        path = self.path(text)
        try:
            return [i for i in path(item, self.resource, self.root) if isinstance(i, Node)] if path else None
        except (fhirpath.Undecided, *_NOT_A_PATH):
            return None

    def profile(self, url: str, item: Node, place: Place) -> None:
        if _core_type(url):
            if not structures.is_a(item.type, _core_type(url)):
                self.add("structure", place, f"{_core_type(url)} was expected here")
            return
        found = self.tree(url)
        if found is None:
            self.add("not-found", place, f"the profile {url}, or one that it is based on, is not known here")
        elif not structures.is_a(item.type, found[0]):
            self.add("structure", place, f"the profile {url} is one of {found[0]}")
        else:
            self.element(found[1], item, place)

    def conforms(self, url: str, item: Node) -> bool:
        """Whether an item conforms to a profile; one that is not known here is taken to be met."""
        if self.tree(url) is None:
            return True
        trial = _Check(self.definitions, self.root, self.shared, depth=self.depth)
        trial.profile(url, item, ())
        return not trial.issues

    def element(self, rule: Rule, item: Node, place: Place) -> None:
        """One value against what is said of its element, then its children."""
        self.depth += 1
        is_full = len(self.issues) >= validate_types.MOST_ISSUES or self.shared.visits >= _MOST_VISITS
        if self.depth < _DEEPEST and not is_full:
            self.shared.visits += 1
            held = self.resource
            if isinstance(item.value, dict) and "resourceType" in item.value:
                self.resource = item
            self._value(rule, item, place)
            if self._types(rule, item, place):
                self._binding(rule, item, place)
                self._invariants(rule, item, place)
                for name, child in rule.children.items():
                    self._child(child, item, name, place)
            self.resource = held
        self.depth -= 1

    def _value(self, rule: Rule, item: Node, place: Place) -> None:
        fixed, pattern = rule.value("fixed"), rule.value("pattern")
        if fixed is not None and not same(item.value, fixed):
            self.add("value", place, "the value is not the one that the profile fixes")
        if pattern is not None and not fits(item.value, pattern):
            self.add("value", place, "the value does not fit the profile's pattern")
        longest = rule.told.get("maxLength")
        if isinstance(longest, int) and isinstance(item.value, str) and len(item.value) > longest:
            self.add("too-long", place, f"the profile allows {longest} characters")

        for prefix, beyond in (("minValue", -1), ("maxValue", 1)):
            bound = rule.value(prefix)
            if bound is not None and _order(item, Node(bound, item.type)) == beyond:
                self.add("value", place, "the value is beyond the bound that the profile sets")

    def _types(self, rule: Rule, item: Node, place: Place) -> bool:
        """Whether the item is of a type that the profile allows, so that the rest of the rule speaks of it."""
        if not rule.types:
            return True
        allowed = [t for t in rule.types if type_fits(item.type, str(t.get("code", "")))]
        if not allowed:
            self.add("structure", place, "the profile allows another type here")
            return False
        profiles = [url for t in allowed for url in t.get("profile", ())]
        if len(profiles) == 1:
            if self.tree(profiles[0]) is not None:
                self.profile(profiles[0], item, place)
        elif profiles and not any(self.conforms(url, item) for url in profiles):
            self.add("structure", place, "the value conforms to none of the profiles that are allowed here")
        targets = {url for t in allowed for url in t.get("targetProfile", ())}
        if item.type == "Reference" and targets:
            self._target({self._target_type(url) for url in targets}, item, place)
        return True

    def _target_type(self, url: str) -> str:
        definition = self.definitions.get(url.split("|")[0])
        return _core_type(url) or (str(definition.get("type", "")) if definition else "")

    def _target(self, allowed: set[str], item: Node, place: Place) -> None:
        found = self.target(item)
        if found and not {found, "Resource", ""} & allowed:
            self.add("invalid", place, f"the profile lets the reference point to {', '.join(sorted(allowed))} only")

    def target(self, item: Node) -> str:
        """The type of what a Reference points to, as far as it tells; a contained resource tells by its own."""
        return validate_types.target_type(self.contained, item.value) if isinstance(item.value, dict) else ""

    def _binding(self, rule: Rule, item: Node, place: Place) -> None:
        if not self.in_binding(rule, item):
            self.add("code-invalid", place, "no code of the value set that the profile requires")

    def in_binding(self, rule: Rule, item: Node) -> bool:
        binding = rule.told.get("binding", {})
        if binding.get("strength") != "required" or "valueSet" not in binding:
            return True
        allowed = codes_of(str(binding["valueSet"]), self.definitions)
        if allowed is None:
            return True
        if isinstance(item.value, str):
            return any(item.value in codes for codes in allowed.values())
        if not isinstance(item.value, dict):
            return True
        codings = item.value.get("coding", ()) if item.type == "CodeableConcept" else (item.value,)
        return any(c.get("code") in allowed.get(c.get("system", ""), ()) for c in codings if isinstance(c, dict))

    def _invariants(self, rule: Rule, item: Node, place: Place) -> None:
        for constraint in rule.told.get("constraint", ()):
            if constraint.get("severity") != "error" or "expression" not in constraint:
                continue
            if str(constraint.get("source", "")) and _core_type(str(constraint["source"])):
                continue  # R4's own, repeated by a snapshot: judged already
            path = self.path(str(constraint["expression"]))
            if path is not None and not fhirpath.holds(path, item, self.resource, self.root):
                self.add("invariant", place, f"{constraint.get('key', '')}: the profile's invariant does not hold")

    def _child(self, rule: Rule, parent: Node, name: str, place: Place) -> None:
        items = [i for i in navigation.child([parent], name) if isinstance(i, Node)]
        definition = structures.structure(parent.type)
        base = definition.elements.get(name) if definition else None
        if definition is not None and base is None:
            return  # the profile names an element that the type has not
        places = [(place, name, n if base is None or base.array else None) for n in range(len(items))]
        self._count(rule, len(items), (place, name, None), "")
        for item, where in zip(items, places, strict=True):
            self.element(rule, item, where)
        if rule.slices:
            self._slices(rule, items, places, (place, name, None))

    def _count(self, rule: Rule, count: int, place: Place, slice_name: str) -> None:
        least, most = rule.told.get("min", 0), str(rule.told.get("max", "*"))
        of_slice = f" of the slice {slice_name}" if slice_name else ""
        if count < least:
            self.add("required", place, f"the profile asks for at least {least}{of_slice}")
        if most != "*" and count > int(most):
            self.add("structure", place, f"the profile allows at most {most}{of_slice}")

    def _slices(self, rule: Rule, items: list[Node], places: list[Place], place: Place) -> None:
        slicing = rule.slicing
        matched: set[int] = set()
        undecided = False
        for name, part in rule.slices.items():
            if self.shared.visits >= _MOST_VISITS:
                return
            self.shared.visits += len(items) // _SLICE_CHECKS_OF_A_VISIT
            chosen = [self.is_of_slice(part, item, slicing) for item in items]
            if None in chosen:
                undecided = True
                continue
            mine = [n for n, is_mine in enumerate(chosen) if is_mine and ("/" in name or n not in matched)]
            matched.update(mine)
            self._count(part, len(mine), place, name)
            for n in mine:
                self.element(part, items[n], places[n])
        if slicing.get("rules") == "closed" and not undecided:
            for n, where in enumerate(places):
                if n not in matched:
                    self.add("structure", where, "the profile closes this element to anything but its slices")

    def is_of_slice(self, part: Rule, item: Node, slicing: Mapping[str, Any]) -> bool | None:
        """Whether an item is of a slice; None where the discriminators do not decide it here."""
        decided = [self._discriminates(d, part, item) for d in slicing.get("discriminator", ())]
        if False in decided:
            return False
        return None if None in decided or not decided else True

    def _discriminates(self, discriminator: Mapping[str, Any], part: Rule, item: Node) -> bool | None:
        path = str(discriminator.get("path", "$this"))
        kind = discriminator.get("type")
        if path == "url" and item.type == "Extension" and (urls := _extension_urls(part)):
            return isinstance(item.value, dict) and item.value.get("url") in urls
        within = self._rule_at(part, path)
        found = self.nodes(path, item)
        if found is None:
            return None
        match kind:
            case "exists":
                if within is None:
                    return None
                return not found if str(within.told.get("max")) == "0" else bool(found)
            case "type":
                return self._is_of_type(part, path, within, item, found)
            case "profile":
                profiles = [url for t in (within.types if within else ()) for url in t.get("profile", ())]
                return any(self.conforms(url, i) for url in profiles for i in found) if profiles else None
        if within is None or not _is_decisive(within):
            return None
        return any(self._matches(within, i) for i in found)

    def _is_of_type(self, part: Rule, path: str, within: Rule | None, item: Node, found: list[Node]) -> bool | None:
        if path.endswith("resolve()"):
            inner = path.removesuffix("resolve()").removesuffix(".") or "$this"
            rule = self._rule_at(part, inner)
            wanted = {self._target_type(u) for t in (rule.types if rule else ()) for u in t.get("targetProfile", ())}
            references = self.nodes(inner, item)
            return any(self.target(r) in wanted for r in references) if wanted and references is not None else None
        codes = [str(t.get("code", "")) for t in (within.types if within else ())]
        return any(type_fits(i.type, code) for i in found for code in codes) if codes else None

    def _rule_at(self, part: Rule, path: str) -> Rule | None:
        """The rule that a discriminator's path leads to within a slice, profiles of types followed."""
        rule = part
        for step in fhirpath_steps(path):
            inner = rule.children.get(step)
            if inner is None:
                urls = [url for t in rule.types for url in t.get("profile", ())]
                trees = [t for url in urls if (t := self.tree(url))]
                inner = next((t[1].children[step] for t in trees if step in t[1].children), None)
            if inner is None:
                return None
            rule = inner
        return rule

    def _matches(self, rule: Rule, item: Node) -> bool:
        """Whether an item has the values, patterns and codes that make it one of a slice."""
        fixed, pattern = rule.value("fixed"), rule.value("pattern")
        if fixed is not None and not same(item.value, fixed):
            return False
        if (pattern is not None and not fits(item.value, pattern)) or not self.in_binding(rule, item):
            return False
        for name, child in rule.children.items():
            for wanted in (child, *child.slices.values()):
                if _is_decisive(wanted) and not any(self._matches(wanted, i) for i in navigation.child([item], name)):
                    return False
        return True


def _order(item: Node, bound: Node) -> int | None:
    try:
        return order(item, bound)
    except TypeError:
        return None


def _is_decisive(rule: Rule) -> bool:
    if rule.value("fixed") is not None or rule.value("pattern") is not None:
        return True
    if rule.told.get("binding", {}).get("strength") == "required":
        return True
    return any(_is_decisive(c) for child in rule.children.values() for c in (child, *child.slices.values()))


def _extension_urls(part: Rule) -> set[str]:
    urls = {str(url).split("|")[0] for t in part.types for url in t.get("profile", ())}
    if "url" in part.children and (fixed := part.children["url"].value("fixed")):
        urls.add(str(fixed))
    return urls


def fhirpath_steps(path: str) -> Iterator[str]:
    """The elements that a discriminator's path names; `$this`, `ofType()` and `resolve()` are none."""
    for step in path.split("."):
        if step != "$this" and "(" not in step:
            yield step.removesuffix("[x]")


def type_fits(own: str, wanted: str) -> bool:
    if not own or wanted.startswith("http://hl7.org/fhirpath/"):
        return True
    return structures.is_a(own, wanted)


def same(value: Any, fixed: Any) -> bool:
    """Equal, numbers by value."""
    if isinstance(value, dict) and isinstance(fixed, Mapping):
        return value.keys() == fixed.keys() and all(same(value[k], fixed[k]) for k in fixed)
    if isinstance(value, list) and isinstance(fixed, list):
        return len(value) == len(fixed) and all(same(v, f) for v, f in zip(value, fixed, strict=True))
    return bool(value == fixed) and isinstance(value, bool) is isinstance(fixed, bool)


def fits(value: Any, pattern: Any) -> bool:
    """Whether a value has all that a pattern has (FHIR R4 elementdefinition.html, `pattern[x]`)."""
    if isinstance(value, dict) and isinstance(pattern, Mapping):
        return all(key in value and fits(value[key], pattern[key]) for key in pattern)
    if isinstance(value, list) and isinstance(pattern, list):
        return all(any(fits(v, p) for v in value) for p in pattern)
    return same(value, pattern)
