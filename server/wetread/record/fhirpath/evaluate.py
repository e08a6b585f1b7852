"""From the tree of an expression to a closure (FHIRPath 2.0.0, 5 and 6)."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any, TypeAlias

from wetread.record.fhirpath import navigation, syntax, values
from wetread.record.fhirpath.operators import OPERATORS, distinct, is_in
from wetread.record.fhirpath.scope import Evaluate, Scope, Undecided, bounded, single, truth
from wetread.record.fhirpath.values import Items, Node, Quantity

Path: TypeAlias = Callable[..., Items]
_URLS = {"%ucum": "http://unitsofmeasure.org", "%sct": "http://snomed.info/sct", "%loinc": "http://loinc.org"}


@cache
def compiled(expression: str) -> Path:
    """`path(node, resource, root)`: the items that the expression gives for a node; `resource` (`%resource`) and
    `root` (`%rootResource`) are the node itself where left out. Raises NotFhirPath here, Undecided when called.

    It is kept for ever: for our own expressions, not for those that callers send."""
    return path_of(syntax.parse(expression))


def path_of(tree: syntax.Tree) -> Path:
    """`compiled` for a tree, kept nowhere."""
    evaluate = compile_tree(tree)

    def path(node: Node, resource: Node | None = None, root: Node | None = None) -> Items:
        resource = resource or node
        return evaluate([node], Scope(root or resource, resource, node, [node]))

    return path


def holds(path: Path, node: Node, resource: Node, root: Node) -> bool:
    """Whether an invariant holds: it gives true, or nothing at all, or cannot be decided."""
    try:
        found = path(node, resource, root)
    except (Undecided, TypeError, ValueError, ArithmeticError, RecursionError):
        return True
    return not found or truth(found) is not False


def compile_tree(tree: syntax.Tree) -> Evaluate:
    match tree:
        case syntax.Literal():
            constant = [_literal(tree)]
            return lambda focus, scope: constant
        case syntax.Empty():
            return lambda focus, scope: []
        case syntax.Variable():
            return _variable(tree.name)
        case syntax.Given():
            name = tree.name
            return lambda focus, scope: scope.given[name]
        case syntax.Name():
            return _name(tree.name)
        case syntax.Call():
            from wetread.record.fhirpath.functions import call

            return call(tree.name, tree.arguments)
        case syntax.Dot():
            return _path(tree)
        case syntax.Item():
            return _item(compile_tree(tree.left), compile_tree(tree.index))
        case syntax.Unary():
            return _unary(tree.sign, compile_tree(tree.operand))
        case syntax.TypeTest():
            return _type_test(tree.operator, compile_tree(tree.operand), tree.type)
        case syntax.Binary():
            return _binary(tree.operator, compile_tree(tree.left), compile_tree(tree.right))


def _path(tree: syntax.Dot) -> Evaluate:
    left, right = compile_tree(tree.left), _step(tree.right)
    if not _is_fixed(tree):
        return lambda focus, scope: right(left(focus, scope), scope)
    key = id(right)

    def path(focus: Items, scope: Scope) -> Items:
        """Read once: within `all()` it would be read again for every item."""
        if key not in scope.known:
            scope.known[key] = right(left(focus, scope), scope)
        return scope.known[key]

    return path


def _is_fixed(tree: syntax.Tree) -> bool:
    """Whether a path starts at what is the same for the whole evaluation and has no arguments."""
    if isinstance(tree, syntax.Dot):
        return _is_fixed(tree.left) and not (isinstance(tree.right, syntax.Call) and tree.right.arguments)
    if isinstance(tree, syntax.Given):
        return True
    return isinstance(tree, syntax.Variable) and tree.name in ("%resource", "%rootResource", "%context")


def _step(tree: syntax.Name | syntax.Call) -> Evaluate:
    """After a dot a name is a child, never a type."""
    if isinstance(tree, syntax.Name):
        name = tree.name
        return lambda focus, scope: navigation.child(focus, name)
    return compile_tree(tree)


def _literal(tree: syntax.Literal) -> Any:
    match tree.kind:
        case "boolean":
            return tree.text == "true"
        case "date":
            value = values.temporal(tree.text)
        case "time":
            value = values.time_of_day(tree.text.removeprefix("T"))
        case "number" if tree.unit:
            return Quantity(Decimal(tree.text), tree.unit)
        case "number":
            return Decimal(tree.text) if "." in tree.text else int(tree.text)
        case _:
            return tree.text
    if value is None:
        raise syntax.NotFhirPath(f"not a date or time: @{tree.text}")
    return value


def _variable(name: str) -> Evaluate:
    match name:
        case "$this":
            return lambda focus, scope: scope.this
        case "$index":
            return lambda focus, scope: [scope.index]
        case "$total":
            return lambda focus, scope: scope.total
        case "%resource":
            return lambda focus, scope: [scope.resource]
        case "%rootResource":
            return lambda focus, scope: [scope.root]
        case "%context":
            return lambda focus, scope: [scope.context]
    if name in _URLS:
        constant = [_URLS[name]]
    elif name.startswith("%vs-"):
        constant = ["http://hl7.org/fhir/ValueSet/" + name[4:]]
    elif name.startswith("%ext-"):
        constant = ["http://hl7.org/fhir/StructureDefinition/" + name[5:]]
    else:
        raise syntax.NotFhirPath(f"unknown variable {name}")
    return lambda focus, scope: constant


def _name(name: str) -> Evaluate:
    if not name[0].isupper():
        return lambda focus, scope: navigation.child(focus, name)

    def at_root(focus: Items, scope: Scope) -> Items:
        """A path may start with the type of what it is applied to: `Appointment.status`."""
        own = [item for item in focus if type(item) is Node and navigation.is_type(item, name)]
        return own or navigation.child(focus, name)

    return at_root


def _item(left: Evaluate, index: Evaluate) -> Evaluate:
    def item(focus: Items, scope: Scope) -> Items:
        number = single(index(scope.this, scope))
        return left(focus, scope)[number : number + 1] if isinstance(number, int) and number >= 0 else []

    return item


def _unary(sign: str, operand: Evaluate) -> Evaluate:
    def signed(focus: Items, scope: Scope) -> Items:
        value = single(operand(focus, scope))
        if value is None or sign == "+":
            return [] if value is None else [value]
        if isinstance(value, Quantity):
            return [Quantity(-value.value, value.unit)]
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise Undecided("only a number has a sign")
        return [-value]

    return signed


def _type_test(operator: str, operand: Evaluate, name: str) -> Evaluate:
    if operator == "as":
        return lambda focus, scope: [i for i in operand(focus, scope) if navigation.is_type(i, name)]

    def is_of(focus: Items, scope: Scope) -> Items:
        found = operand(focus, scope)
        if len(found) > 1:
            raise Undecided("`is` takes one item")
        return [navigation.is_type(found[0], name)] if found else []

    return is_of


def _binary(operator: str, left: Evaluate, right: Evaluate) -> Evaluate:
    match operator:
        case "and" | "or" | "xor" | "implies":
            return _logic(operator, left, right)
        case "|" | "in" | "contains":
            return _of_sets(operator, left, right)
        case "&":
            return lambda focus, scope: [bounded(_text(left(focus, scope)) + _text(right(focus, scope)))]
    apply = OPERATORS[operator]
    return lambda focus, scope: apply(left(focus, scope), right(focus, scope))


def _of_sets(operator: str, left: Evaluate, right: Evaluate) -> Evaluate:
    def apply(focus: Items, scope: Scope) -> Items:
        one, other = left(focus, scope), right(focus, scope)
        scope.compares(one, other)
        match operator:
            case "|":
                return distinct([*one, *other])
            case "in":
                return is_in(one, other)
        return is_in(other, one)

    return apply


def _text(items: Items) -> str:
    if len(items) > 1:
        raise Undecided("`&` takes one item")
    return (navigation.string_of(items[0]) or "") if items else ""


def _logic(operator: str, left: Evaluate, right: Evaluate) -> Evaluate:
    """Three-valued logic (FHIRPath 6.5); the right side is read only where it can matter."""

    def logic(focus: Items, scope: Scope) -> Items:
        one = truth(left(focus, scope))
        if operator == "and" and one is False:
            return [False]
        if (operator == "or" and one) or (operator == "implies" and one is False):
            return [True]
        other = truth(right(focus, scope))
        match operator:
            case "and":
                result = False if other is False else (one and other)
            case "or":
                result = True if other else (None if one is None or other is None else False)
            case "xor":
                result = None if one is None or other is None else one is not other
            case _:
                result = True if other else (None if one is None or other is None else False)
        return [] if result is None else [result]

    return logic
