"""When a topic fires: a trigger of a SubscriptionTopic (FHIR R4B subscriptiontopic.html), asked of one change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from wetread.errors import Unsupported
from wetread.record import fhirpath
from wetread.record.fhirpath import syntax
from wetread.record.fhirpath.evaluate import compile_tree
from wetread.record.fhirpath.functions import REGULAR_EXPRESSIONS
from wetread.record.fhirpath.scope import Scope, truth
from wetread.record.search.index import Extraction
from wetread.record.search.parameters import resource_types
from wetread.record.subscriptions import criteria
from wetread.record.subscriptions.criteria import Test

Resource: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = Callable[[Resource | None, Resource | None], bool]
"""Of the versions after and before: a FHIRPath criterion."""
Look: TypeAlias = Callable[[Resource], Extraction]
"""How the index rows of a version are had: `Extraction`, or a caller's memory of one."""

KINDS = frozenset({"create", "update", "delete"})
_CORE = "http://hl7.org/fhir/StructureDefinition/"
_LONGEST_RULE = 4000
_RESULTS = {"test-passes": True, "test-fails": False}


@dataclass(frozen=True, slots=True)
class Trigger:
    """`current` and `previous` are asked of the versions after and before the change, `both` or either of them; what is
    asked of a version that there is not, before a creation and after a deletion, counts as the two results say."""

    resource_type: str
    kinds: frozenset[str]
    current: tuple[Test, ...] = ()
    previous: tuple[Test, ...] = ()
    passes_on_create: bool = True
    passes_on_delete: bool = True
    both: bool = False
    rule: Rule | None = None

    def fires(self, kind: str, current: Resource | None, previous: Resource | None, look: Look) -> bool:
        """Whether a change of this kind to a resource of the type is an event. Raises fhirpath.Undecided."""
        if kind not in self.kinds or not self._meets(current, previous, look):
            return False
        return self.rule is None or self.rule(current, previous)

    def _meets(self, current: Resource | None, previous: Resource | None, look: Look) -> bool:
        now = not self.current or _pass(self.current, current, look, self.passes_on_delete)
        if now and self.current and not self.both:
            return True
        if not now and (self.both or not self.previous):
            return False
        return not self.previous or _pass(self.previous, previous, look, self.passes_on_create)


def _pass(tests: tuple[Test, ...], version: Resource | None, look: Look, without: bool) -> bool:
    if version is None:
        return without
    looked_at = look(version)
    return all(test.passes(looked_at) for test in tests)


def trigger_of(body: Resource) -> Trigger:
    """From a `resourceTrigger`. Raises Unsupported for what is not evaluated here, KeyError, TypeError."""
    resource_type = type_of(body["resource"])
    kinds = frozenset(body.get("supportedInteraction", KINDS))
    if not kinds or not kinds <= KINDS:
        raise Unsupported("supportedInteraction: an interaction is create, update or delete")
    asked = body.get("queryCriteria", {})
    return Trigger(
        resource_type,
        kinds,
        _tests(resource_type, asked.get("current", "")),
        _tests(resource_type, asked.get("previous", "")),
        _RESULTS[asked.get("resultForCreate", "test-passes")],
        _RESULTS[asked.get("resultForDelete", "test-passes")],
        asked.get("requireBoth", False),
        rule_of(body["fhirPathCriteria"]) if "fhirPathCriteria" in body else None,
    )


def type_of(text: str) -> str:
    """The type that a topic names, by name or by the URL of its definition. Raises Unsupported."""
    resource_type = text.removeprefix(_CORE)
    if resource_type not in resource_types():
        raise Unsupported(f"resource: {resource_type[:64]!r} is no type whose resources are stored here")
    return resource_type


def _tests(resource_type: str, query: str) -> tuple[Test, ...]:
    head, _, params = query.rpartition("?")
    if head not in ("", resource_type):
        raise Unsupported(f"queryCriteria: the trigger is on {resource_type}, its query on {head}")
    tests = criteria.parsed(resource_type, params)
    if query and not tests:
        raise Unsupported(f"queryCriteria: {query!r} names no search parameter")
    return tests


def rule_of(text: str) -> Rule:
    """A FHIRPath criterion over `%previous` and `%current`, the latter the focus too; each is empty where there is no
    such version. It holds where it gives true.

    The evaluator bounds what an evaluation may cost. Raises Unsupported; the rule raises fhirpath.Undecided.
    """
    if len(text) > _LONGEST_RULE:
        raise Unsupported(f"fhirPathCriteria: at most {_LONGEST_RULE} characters")
    try:
        evaluate = compile_tree(_rewritten(syntax.parse(text)))
    except (fhirpath.NotFhirPath, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise Unsupported(f"fhirPathCriteria: {error}") from error

    def rule(current: Resource | None, previous: Resource | None) -> bool:
        now, before = ([] if version is None else [fhirpath.root(version)] for version in (current, previous))
        focus = now or before
        scope = Scope(focus[0], focus[0], focus[0], focus, given={"previous": before, "current": now})
        try:
            return truth(evaluate(focus, scope)) is True
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            # Without its text, which may hold values of the resource.
            raise fhirpath.Undecided(type(error).__name__) from None

    return rule


def _rewritten(tree: Any) -> Any:
    """The tree with the two versions as what is given to it. Raises Unsupported."""
    match tree:
        case syntax.Variable(name="%previous" | "%current" as name):
            return syntax.Given(name[1:])
        case syntax.Call(name=name) if name in REGULAR_EXPRESSIONS:
            raise Unsupported(f"fhirPathCriteria: {name}() may run for ever; say it with startsWith(), contains() or =")
        case tuple():
            return tuple(_rewritten(each) for each in tree)
        case str():
            return tree
    return replace(tree, **{f.name: _rewritten(getattr(tree, f.name)) for f in fields(tree)})
