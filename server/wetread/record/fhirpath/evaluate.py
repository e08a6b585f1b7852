"""From the tree of an expression to a closure (FHIRPath 2.0.0, 5 and 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, DivisionByZero, InvalidOperation
from functools import cache
from typing import Any, TypeAlias

from wetread.record.fhirpath import navigation, syntax, values
from wetread.record.fhirpath.values import Items, Node, Quantity


class Undecided(Exception):
    """An expression cannot be applied to these values: the language calls it an error."""


@dataclass(slots=True)
class Scope:
    """What an expression sees besides its input. `this` is `$this`, as a collection."""

    root: Node
    resource: Node
    context: Node
    this: Items
    index: int = 0
    total: Items = field(default_factory=list)
    known: dict[int, Items] = field(default_factory=dict)
    """What paths from `%resource` gave, which is the same wherever they stand."""
    comparisons: int = 0

    def compares(self, left: Items, right: Items) -> None:
        """Counts what every item with every other costs. Raises Undecided where it is too much."""
        self.comparisons += len(left) * len(right)
        if self.comparisons > _MOST_COMPARISONS:
            raise Undecided("too many items to compare")


def bounded(text: str, added: int = 0) -> str:
    """The text, where it is not too long to go on with when so many characters come to it. Raises Undecided."""
    if len(text) + added > _MOST_CHARACTERS:
        raise Undecided("the text becomes too long")
    return text


Evaluate: TypeAlias = Callable[[Items, Scope], Items]
Path: TypeAlias = Callable[..., Items]
_MOST_COMPARISONS = 500_000
"""About a second."""
_MOST_CHARACTERS = 10_000_000
"""Of a text that an expression makes: more than a body may have of one, less than hurts."""
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


def truth(items: Items) -> bool | None:
    """A collection where a boolean is expected: one item of another kind counts as true (FHIRPath 4.5)."""
    if not items:
        return None
    if len(items) > 1:
        raise Undecided("one item was expected")
    value = values.plain(items[0])
    return value if isinstance(value, bool) else True


def single(items: Items) -> Any:
    """The value of the one item; None for none. Raises Undecided."""
    if len(items) > 1:
        raise Undecided("one item was expected")
    return values.plain(items[0]) if items else None


def compile_tree(tree: syntax.Tree) -> Evaluate:
    match tree:
        case syntax.Literal():
            constant = [_literal(tree)]
            return lambda focus, scope: constant
        case syntax.Empty():
            return lambda focus, scope: []
        case syntax.Variable():
            return _variable(tree.name)
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
    """Whether a path starts at a variable of the whole evaluation and has no arguments."""
    if isinstance(tree, syntax.Dot):
        return _is_fixed(tree.left) and not (isinstance(tree.right, syntax.Call) and tree.right.arguments)
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
    apply = _OPERATORS[operator]
    return lambda focus, scope: apply(left(focus, scope), right(focus, scope))


def _of_sets(operator: str, left: Evaluate, right: Evaluate) -> Evaluate:
    def apply(focus: Items, scope: Scope) -> Items:
        one, other = left(focus, scope), right(focus, scope)
        scope.compares(one, other)
        match operator:
            case "|":
                return distinct([*one, *other])
            case "in":
                return _is_in(one, other)
        return _is_in(other, one)

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


def equal_collections(left: Items, right: Items) -> bool | None:
    if not left or not right:
        return None
    if len(left) != len(right):
        return False
    undecided = False
    for one, other in zip(left, right, strict=True):
        same = values.equal(one, other)
        if same is False:
            return False
        undecided = undecided or same is None
    return None if undecided else True


def _equals(left: Items, right: Items) -> Items:
    same = equal_collections(left, right)
    return [] if same is None else [same]


def _differs(left: Items, right: Items) -> Items:
    same = equal_collections(left, right)
    return [] if same is None else [not same]


def equivalent_collections(left: Items, right: Items) -> bool:
    if len(left) != len(right):
        return False
    rest = list(right)
    for one in left:
        found = next((n for n, other in enumerate(rest) if values.equivalent(one, other)), None)
        if found is None:
            return False
        rest.pop(found)
    return True


def _compares(accepted: Callable[[int], bool]) -> Callable[[Items, Items], Items]:
    def compare(left: Items, right: Items) -> Items:
        one, other = single(left), single(right)
        if one is None or other is None:
            return []
        try:
            order = values.order(one, other)
        except TypeError as error:
            raise Undecided(str(error)) from error
        return [] if order is None else [accepted(order)]

    return compare


def _is_in(left: Items, right: Items) -> Items:
    if not left:
        return []
    if len(left) > 1:
        raise Undecided("`in` takes one item on its left")
    return [contains(right, left[0])]


def contains(items: Items, wanted: Any) -> bool:
    return any(values.equal(item, wanted) for item in items)


def distinct(items: Items) -> Items:
    texts = [values.plain(item) for item in items]
    if all(type(text) is str for text in texts):  # many, mostly: ids, urls, codes
        firsts: dict[str, Any] = {}
        for text, item in zip(texts, items, strict=True):
            firsts.setdefault(text, item)
        return list(firsts.values())
    found: Items = []
    for item in items:
        if not contains(found, item):
            found.append(item)
    return found


def _arithmetic(operator: str) -> Callable[[Items, Items], Items]:
    def compute(left: Items, right: Items) -> Items:
        one, other = single(left), single(right)
        if one is None or other is None:
            return []
        if operator == "+" and isinstance(one, str) and isinstance(other, str):
            return [bounded(one + other)]
        if isinstance(one, values.Temporal) and isinstance(other, Quantity) and operator in "+-":
            from wetread.record.fhirpath.calendar import shifted

            moved = shifted(one, other if operator == "+" else Quantity(-other.value, other.unit))
            if moved is None:
                raise Undecided("not a duration, or out of the calendar")
            return [moved]
        if isinstance(one, Quantity) and isinstance(other, Quantity):
            return _of_quantities(operator, one, other)
        for value in (one, other):
            if isinstance(value, bool) or not isinstance(value, int | Decimal):
                raise Undecided("arithmetic takes numbers")
        return _of_numbers(operator, one, other)

    return compute


def _of_quantities(operator: str, one: Quantity, other: Quantity) -> Items:
    if operator in "+-" and one.unit == other.unit:
        return [Quantity(one.value + (other.value if operator == "+" else -other.value), one.unit)]
    if operator == "*" and "1" in (one.unit, other.unit):
        return [Quantity(one.value * other.value, other.unit if one.unit == "1" else one.unit)]
    if operator == "/" and other.value and other.unit in ("1", one.unit):
        return [Quantity(one.value / other.value, "1" if other.unit == one.unit else one.unit)]
    return []


def _of_numbers(operator: str, one: Any, other: Any) -> Items:
    try:
        match operator:
            case "+":
                return [one + other]
            case "-":
                return [one - other]
            case "*":
                return [one * other]
            case "/":
                return [Decimal(one) / Decimal(other)]
            case "div":
                return [int(Decimal(one) // Decimal(other))]
            case _:
                rest = Decimal(one) % Decimal(other)
                return [rest if isinstance(one, Decimal) or isinstance(other, Decimal) else int(rest)]
    except (DivisionByZero, InvalidOperation, ZeroDivisionError):
        return []


_OPERATORS: Mapping[str, Callable[[Items, Items], Items]] = {
    "=": _equals,
    "!=": _differs,
    "~": lambda left, right: [equivalent_collections(left, right)],
    "!~": lambda left, right: [not equivalent_collections(left, right)],
    "<": _compares(lambda order: order < 0),
    "<=": _compares(lambda order: order <= 0),
    ">": _compares(lambda order: order > 0),
    ">=": _compares(lambda order: order >= 0),
    **{operator: _arithmetic(operator) for operator in ("+", "-", "*", "/", "div", "mod")},
}
