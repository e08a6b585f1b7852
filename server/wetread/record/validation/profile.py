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
from dataclasses import dataclass, field
from typing import Any

from wetread.record import fhirpath, structures
from wetread.record.fhirpath import Node, navigation
from wetread.record.validation import resource_types as validate_types
from wetread.record.validation.comparison import fits, ordered, same, type_fits
from wetread.record.validation.native_rules import contained, target_type
from wetread.record.validation.profile_rules import NOT_A_PATH, Definitions, Rule, core_type, path_tried, tree
from wetread.record.validation.valuesets import codes_of
from wetread.record.validation.walk import MOST_ISSUES, Issue, Place, expression

_DEEPEST = 40
_MOST_VISITS = 10_000
"""Of elements, in one check: profiles that name each other would double them with every step."""
_SLICE_CHECKS_OF_A_VISIT = 10
"""So many items asked whether they are of a slice count as a visit: there are items times slices of them."""


def check_profile(content: Mapping[str, Any], profile_url: str, definitions: Definitions) -> list[Issue]:
    """Every fault of a resource by R4 and by a profile; a profile that is not among the definitions is one fault."""
    resource_type = content.get("resourceType")
    if not isinstance(resource_type, str) or not validate_types.is_known(resource_type):
        return [Issue("structure", "resourceType", "R4 has no resource of that type")]
    issues = validate_types.check(content)
    root = Node(content, resource_type)
    check = _Check(definitions, root)
    check.profile(profile_url, root, ((), resource_type, None))
    return [*issues, *check.found()][:MOST_ISSUES]


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
    return check.found()[:MOST_ISSUES]


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
        self.contained = contained(self.root.value)

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
            self.shared.paths[text] = path_tried(text)
        return self.shared.paths[text]

    def nodes(self, text: str, item: Node) -> list[Node] | None:
        """What the path of a discriminator leads to; None where that cannot be decided."""
        path = self.path(text)
        try:
            return [i for i in path(item, self.resource, self.root) if isinstance(i, Node)] if path else None
        except (fhirpath.Undecided, *NOT_A_PATH):
            return None

    def profile(self, url: str, item: Node, place: Place) -> None:
        if core_type(url):
            if not structures.is_a(item.type, core_type(url)):
                self.add("structure", place, f"{core_type(url)} was expected here")
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
        is_full = len(self.issues) >= MOST_ISSUES or self.shared.visits >= _MOST_VISITS
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
            if bound is not None and ordered(item, Node(bound, item.type)) == beyond:
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
        return core_type(url) or (str(definition.get("type", "")) if definition else "")

    def _target(self, allowed: set[str], item: Node, place: Place) -> None:
        found = self.target(item)
        if found and not {found, "Resource", ""} & allowed:
            self.add("invalid", place, f"the profile lets the reference point to {', '.join(sorted(allowed))} only")

    def target(self, item: Node) -> str:
        """The type of what a Reference points to, as far as it tells; a contained resource tells by its own."""
        return target_type(self.contained, item.value) if isinstance(item.value, dict) else ""

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
            if str(constraint.get("source", "")) and core_type(str(constraint["source"])):
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
