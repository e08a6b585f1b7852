"""CodeSystem/$lookup, $validate-code and $subsumes, ValueSet/$validate-code (FHIR R4 codesystem-operations.html)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wetread.errors import InvalidInput, NotFound
from wetread.record.operations.input import Given
from wetread.record.search.index import folded
from wetread.record.terminology import code_grammars, definitions, expansion, value_set
from wetread.record.terminology.code_system import CodeSystem, Concept
from wetread.record.terminology.definitions import Definition
from wetread.record.terminology.value_set import Member, Selected, Versions
from wetread.store.database import Connection


@dataclass(frozen=True, slots=True)
class Coding:
    """A code to be checked."""

    system: str
    code: str
    display: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one code. `display` is the right one; `message` an error, or with `result` true a hint. `broken` says that its
    own code system has no such code."""

    result: bool
    message: str = ""
    display: str = ""
    broken: bool = False

    def parameters(self) -> dict[str, Any]:
        return parameters(
            {"name": "result", "valueBoolean": self.result},
            *([{"name": "message", "valueString": self.message}] if self.message else []),
            *([{"name": "display", "valueString": self.display}] if self.display else []),
        )


def parameters(*members: Mapping[str, Any]) -> dict[str, Any]:
    """A Parameters resource."""
    return {"resourceType": "Parameters", "parameter": list(members)}


def coding_of(value: Mapping[str, Any]) -> Coding:
    """A FHIR Coding, which needs a code here."""
    if not value.get("code"):
        raise InvalidInput("a coding without a code says nothing to check", location="coding.code")
    return Coding(value.get("system", ""), value["code"], value.get("display", ""), value.get("version", ""))


async def lookup(conn: Connection, given: Given, instance: Definition | None) -> dict[str, Any]:
    """What a code system says of a code. Raises InvalidInput, NotFound."""
    coding = _one_coding(given, "code", "coding", given.text("system"), given.text("version"))
    if not coding.system:
        raise InvalidInput("a code is looked up with its system", location="system")
    system = await _held(conn, coding.system, coding.version)
    concept = _known(system, coding.code)
    asked = set(given.every("property"))
    language = given.text("displayLanguage")
    member = Member(system.url, concept.code, concept.display, system.version, concept, concept.designations)
    return parameters(
        {"name": "name", "valueString": system.name},
        *([{"name": "version", "valueString": system.version}] if system.version else []),
        {"name": "display", "valueString": expansion.display_in(member, language) or concept.code},
        *(_designation(d) for d in concept.designations if not asked or "designation" in asked),
        *(p for p in _properties(system, concept) if not asked or p["part"][0]["valueCode"] in asked),
    )


def _designation(given: Mapping[str, Any]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if "language" in given:
        parts.append({"name": "language", "valueCode": given["language"]})
    if "use" in given:
        parts.append({"name": "use", "valueCoding": given["use"]})
    return {"name": "designation", "part": [*parts, {"name": "value", "valueString": given.get("value", "")}]}


def _properties(system: CodeSystem, concept: Concept) -> Iterator[dict[str, Any]]:
    if concept.definition:
        yield _property("definition", {"valueString": concept.definition})
    for code in system.parents.get(concept.code, ()):
        yield _property("parent", {"valueCode": code}, _display(system, code))
    for code in system.children.get(concept.code, ()):
        yield _property("child", {"valueCode": code}, _display(system, code))
    for given in concept.properties:
        if given.get("code") not in ("parent", "child"):
            yield _property(str(given.get("code")), {k: v for k, v in given.items() if k.startswith("value")})


def _display(system: CodeSystem, code: str) -> str:
    concept = system.concepts.get(code)
    return concept.display if concept else ""


def _property(code: str, value: Mapping[str, Any], description: str = "") -> dict[str, Any]:
    parts = [{"name": "code", "valueCode": code}, {"name": "value", **value}]
    return {
        "name": "property",
        "part": [*parts, *([{"name": "description", "valueString": description}] if description else [])],
    }


async def subsumes(conn: Connection, given: Given, instance: Definition | None) -> dict[str, Any]:
    """How two codes of one system stand to one another. Raises InvalidInput, NotFound."""
    url = str(instance["url"]) if instance and "url" in instance else given.text("system")
    a = _one_coding(given, "codeA", "codingA", url, given.text("version"))
    b = _one_coding(given, "codeB", "codingB", url, given.text("version"))
    if not a.system or a.system != b.system or (url and a.system != url):
        raise InvalidInput("two codes of one system are compared: name that system", location="system")
    system = await definitions.code_system_in(conn, instance) if instance else await _held(conn, a.system, a.version)
    one, other = _known(system, a.code).code, _known(system, b.code).code
    if one == other:
        outcome = "equivalent"
    elif other in system.below(one):
        outcome = "subsumes"
    else:
        outcome = "subsumed-by" if other in system.above(one) else "not-subsumed"
    return parameters({"name": "outcome", "valueCode": outcome})


async def validate_in_code_system(conn: Connection, given: Given, instance: Definition | None) -> dict[str, Any]:
    """Whether a code is one of a code system's. Raises InvalidInput, NotFound for a code system that is not here."""
    definition = instance or given.one("codeSystem")
    if definition is not None and definition is not instance:
        await expansion.require_form(definition)
    url = str(definition.get("url", "")) if definition else given.text("url")
    codings = _codings(given, url, given.text("version"))
    if not url and len({c.system for c in codings}) == 1:
        url = codings[0].system
    if not url and definition is None:
        raise InvalidInput("name a code system: url, codeSystem or coding.system", location="url")
    own = [c for c in codings if c.system == url]
    if not own:
        return Verdict(False, f"no code of the code system {url} was given").parameters()
    if definition is None and code_grammars.is_code(url, own[0].code) is not None:
        return _best(_by_grammar(c) for c in own).parameters()
    system = (
        await definitions.code_system_in(conn, definition) if definition else await _held(conn, url, own[0].version)
    )
    return _best(_in_system(system, c, given) for c in own).parameters()


def _by_grammar(coding: Coding) -> Verdict:
    if code_grammars.is_code(coding.system, coding.code):
        return Verdict(True, display=coding.code)
    return Verdict(False, f"{coding.code} is no code of {coding.system}", broken=True)


def _in_system(system: CodeSystem, coding: Coding, given: Given) -> Verdict:
    concept = system.concept(coding.code)
    if concept is None:
        if system.content == "fragment":
            return Verdict(True, f"{coding.code} is not in the fragment of {system.url} that is held here")
        return Verdict(False, f"{coding.code} is no code of {system.url}")
    member = Member(system.url, concept.code, concept.display, system.version, concept, concept.designations)
    return _verdict(member, coding, given)


async def validate_in_value_set(conn: Connection, given: Given, instance: Definition | None) -> dict[str, Any]:
    """Whether a code is in a value set. Raises InvalidInput, NotFound for a value set that is not here."""
    definition = await expansion.definition_of(conn, given, instance)
    codings = _codings(given, given.text("system"), given.text("systemVersion"))
    versions = Versions(otherwise={c.system: c.version for c in codings if c.version})
    selected = await value_set.selected(conn, definition, versions)
    if "code" in given.values:
        codings = [_with_system(selected, c) for c in codings]
    verdicts = [await _in_value_set(conn, selected, c, given) for c in codings]
    return _best(verdicts).parameters()


def _with_system(selected: Selected, coding: Coding) -> Coding:
    """A bare code is that of the one system from which the value set has it."""
    systems = {system for system, code in selected.members if code == coding.code}
    if coding.system or len(systems) != 1:
        return coding
    return replace(coding, system=systems.pop())


async def _in_value_set(conn: Connection, selected: Selected, coding: Coding, given: Given) -> Verdict:
    if not coding.system:
        return Verdict(False, f"{coding.code} is in the value set from no system, or from several: name its system")
    member = selected.members.get((coding.system, coding.code)) or _in_other_case(selected, coding)
    if member is not None:
        if coding.version and member.version and not definitions.is_version(member.version, coding.version):
            used = f"the value set takes version {member.version} of {coding.system}, not {coding.version}"
            return Verdict(False, used, member.display)
        return _verdict(member, coding, given)
    if coding.system in selected.fragments:
        return Verdict(True, f"{coding.code} is not in the fragment of {coding.system} that is held here")
    if coding.system in selected.unknown:
        return Verdict(False, f"{selected.unknown[coding.system]}, so the code cannot be checked")
    if coding.system in selected.whole and coding.code not in selected.whole[coding.system]:
        if code_grammars.is_code(coding.system, coding.code) is not None:
            return _by_grammar(coding)
        return Verdict(False, f"the code system {coding.system} is not held here, so the code cannot be checked")
    system = selected.systems.get(coding.system) or await definitions.code_system_of(conn, coding.system)
    broken = system is not None and system.content == "complete" and system.concept(coding.code) is None
    no_code = f", nor a code of {coding.system}" if broken else ""
    return Verdict(False, f"{coding.code} of {coding.system} is not in the value set{no_code}", broken=broken)


def _in_other_case(selected: Selected, coding: Coding) -> Member | None:
    system = selected.systems.get(coding.system)
    concept = system.concept(coding.code) if system else None
    return selected.members.get((coding.system, concept.code)) if concept else None


def _verdict(member: Member, coding: Coding, given: Given) -> Verdict:
    display = expansion.display_in(member, given.text("displayLanguage"))
    if member.abstract and not given.flag("abstract", otherwise=True):
        return Verdict(False, f"{member.code} is abstract: it groups other codes and is not for use", display)
    if coding.display and display and not _is_display(coding.display, member, display):
        return Verdict(False, f"the display of {member.code} is {display!r}, not the one given", display)
    return Verdict(True, f"{member.code} is no longer active" if member.inactive else "", display)


def _is_display(text: str, member: Member, display: str) -> bool:
    others = (str(d.get("value", "")) for d in member.designations)
    own = member.concept.display if member.concept else ""
    return folded(text) in {folded(t) for t in (display, member.display, own, *others)}


def _best(verdicts: Iterable[Verdict]) -> Verdict:
    """A concept with several codings is right when one of them is and none is a code that does not exist."""
    found = list(verdicts)
    good = next((v for v in found if v.result), None)
    if good and not any(v.broken for v in found):
        return good
    messages = dict.fromkeys(v.message for v in found if not v.result)
    return Verdict(False, "; ".join(messages), next((v.display for v in found if v.display), ""))


def _codings(given: Given, system: str, version: str) -> Sequence[Coding]:
    """The codes to be checked, from `code`, `coding` or `codeableConcept`: exactly one of them is given."""
    forms = [name for name in ("code", "coding", "codeableConcept") if name in given.values]
    if len(forms) != 1:
        raise InvalidInput("give one of code, coding and codeableConcept", location="code")
    if forms == ["codeableConcept"]:
        codings = [coding_of(c) for c in given.one("codeableConcept").get("coding", ())]
        if not codings:
            raise InvalidInput("the concept has no coding to check", location="codeableConcept.coding")
        return codings
    found = _one_coding(given, "code", "coding", system, version)
    return [Coding(found.system, found.code, found.display or given.text("display"), found.version)]


def _one_coding(given: Given, code: str, coding: str, system: str, version: str) -> Coding:
    if (code in given.values) == (coding in given.values):
        raise InvalidInput(f"give either {code} or {coding}", location=code)
    if coding in given.values:
        found = coding_of(given.one(coding))
        return Coding(found.system or system, found.code, found.display, found.version or version)
    return Coding(system, given.text(code), "", version)


async def _held(conn: Connection, url: str, version: str) -> CodeSystem:
    system = await definitions.code_system_of(conn, url, version)
    if system is None or not system.concepts:
        raise NotFound(f"the code system {url} of this version is not held here; store it as a CodeSystem")
    return system


def _known(system: CodeSystem, code: str) -> Concept:
    concept = system.concept(code)
    if concept is None:
        raise NotFound(f"{code} is no code of {system.url}", location="code")
    return concept
