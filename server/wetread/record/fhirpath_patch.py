"""FHIRPath Patch of a resource (FHIR R4 fhirpatch.html): a Parameters resource whose operations name elements by path.

Paths are those that walk down the resource: children, items, and functions that choose among them (`FUNCTIONS`), which
cost no more than the resource is large. They name elements of the resource itself, what it contains among them.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from wetread.errors import Inapplicable, InvalidInput, TooCostly, TooLarge, WetreadError
from wetread.record import fhirpath, lossless, structures
from wetread.record.fhirpath import Node, syntax
from wetread.record.fhirpath.evaluate import path_of
from wetread.record.patch import MOST_OPERATIONS
from wetread.record.structures import Element, Structure
from wetread.record.validation import validate

MOST_PATH_CHARACTERS = 1000
MOST_SECONDS = 5.0
_FUNCTIONS = """
    all as contains count empty endsWith exists extension first hasExtension hasValue is last length lower not ofType
    select single skip startsWith substring tail take trim upper where
"""
FUNCTIONS = frozenset(_FUNCTIONS.split())
_NEEDS = {
    "add": ("path", "name", "value"),
    "insert": ("path", "index", "value"),
    "delete": ("path",),
    "replace": ("path", "value"),
    "move": ("path", "source", "destination"),
}
_PARTS = ("type", "path", "name", "value", "index", "source", "destination")
Pair: TypeAlias = tuple[Any, Any]
"""A JSON value and the `_` sibling of a primitive, each None where there is none."""


@dataclass(frozen=True, slots=True)
class Operation:
    """`value` is the part of that name as it came; `where` is this operation's place in the Parameters."""

    kind: str
    path: fhirpath.Path
    where: str
    name: str = ""
    value: Mapping[str, Any] | None = None
    index: int = 0
    source: int = 0
    destination: int = 0


def parsed(content: Mapping[str, Any]) -> tuple[Operation, ...]:
    """The operations of a Parameters resource. Raises InvalidInput that tells where it is wrong, TooLarge."""
    if content.get("resourceType") != "Parameters":
        raise InvalidInput("a FHIRPath Patch is a Parameters resource", location="resourceType")
    members = content.get("parameter", [])
    if isinstance(members, list) and len(members) > MOST_OPERATIONS:
        raise TooLarge(f"a patch has at most {MOST_OPERATIONS} operations here")
    issues = validate.issues(content)
    if not all(issue.is_tolerable for issue in issues):
        raise validate.InvalidResource(issues)
    return tuple(_operation(member, f"Parameters.parameter[{n}]") for n, member in enumerate(members))


def _operation(member: Mapping[str, Any], where: str) -> Operation:
    if member["name"] != "operation":
        raise InvalidInput("each parameter of a FHIRPath Patch is an operation", location=f"{where}.name")
    given: dict[str, Any] = {}
    for n, part in enumerate(member.get("part", [])):
        name, place = part["name"], f"{where}.part[{n}]"
        if name not in _PARTS or name in given:
            raise InvalidInput(f"an operation has the parts {', '.join(_PARTS)}, each once", location=f"{place}.name")
        match name:
            case "value":
                given[name] = part
            case "index" | "source" | "destination":
                given[name] = _primitive(part, ("valueInteger", "valueUnsignedInt", "valuePositiveInt"), int, place)
            case _:
                given[name] = _primitive(part, ("valueString", "valueCode", "valueId"), str, place)
    kind = given.pop("type", "")
    if kind not in _NEEDS:
        raise InvalidInput(f"type is one of {', '.join(_NEEDS)}", location=f"{where}.part")
    missing = [name for name in _NEEDS[kind] if name not in given]
    if missing:
        raise InvalidInput(f"{kind} needs {' and '.join(missing)}", location=f"{where}.part")
    needed = {name: given[name] for name in _NEEDS[kind] if name != "path"}
    return Operation(kind, _path(given["path"], where), where, **needed)


def _primitive(part: Mapping[str, Any], keys: Sequence[str], kind: type, where: str) -> Any:
    value = next((part[key] for key in keys if key in part), None)
    if not isinstance(value, kind):
        raise InvalidInput(f"{part['name']} is a {keys[0]}", location=where)
    return value


def _path(text: str, where: str) -> fhirpath.Path:
    if len(text) > MOST_PATH_CHARACTERS:
        raise InvalidInput(f"a path has at most {MOST_PATH_CHARACTERS} characters here", location=where)
    try:
        tree = syntax.parse(text)
        refused = next(_refused(tree), None)
        if refused is not None:
            raise InvalidInput(f"a path of a patch has no {refused} here", location=where)
        return path_of(tree)
    except (fhirpath.NotFhirPath, RecursionError) as error:
        raise InvalidInput("the path is not FHIRPath", location=where) from error


def _refused(tree: Any) -> Iterator[str]:
    """What of an expression leads elsewhere than down, or may cost more than a walk down."""
    match tree:
        case syntax.Variable(name) if name not in ("$this", "$index"):
            yield name
        case syntax.Call(name, arguments):
            if name not in FUNCTIONS:
                yield f"{name}()"
            for argument in arguments:
                yield from _refused(argument)
        case syntax.Dot(left, right) | syntax.Item(left, right):
            yield from _refused(left)
            yield from _refused(right)
        case syntax.Binary(_, left, right):
            yield from _refused(left)
            yield from _refused(right)
        case syntax.Unary(_, operand) | syntax.TypeTest(_, operand, _):
            yield from _refused(operand)


def applied(content: dict[str, Any], operations: Sequence[Operation]) -> dict[str, Any]:
    """The content with every operation done, in order; `content` itself is changed.

    Raises Inapplicable where a path does not name what the operation needs, InvalidInput where a value is not of the
    element's type, TooCostly where the paths take too long.
    """
    end = time.monotonic() + MOST_SECONDS
    for operation in operations:
        if time.monotonic() > end:
            raise TooCostly("the paths of this patch take too long; send it in parts", location=operation.where)
        try:
            _apply(operation, _found(operation, content))
        except WetreadError as error:
            error.location = error.location or operation.where
            raise
    return content


def change(operations: Sequence[Operation]) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]:
    """For `resources.patch`: does the operations, and finds the outcome valid.

    Raises InvalidInput for content that is not, or that is another resource than before.
    """

    async def changed(content: dict[str, Any]) -> dict[str, Any]:
        identity = content["resourceType"], content["id"]
        after = await asyncio.to_thread(applied, content, operations)
        if (after.get("resourceType"), after.get("id")) != identity:
            where = f"{identity[0]}.id"
            raise InvalidInput("a patch changes neither the type nor the id of a resource", location=where)
        return await validate.parsed(await asyncio.to_thread(lossless.dump, after))

    return changed


def _found(operation: Operation, content: dict[str, Any]) -> list[Node]:
    try:
        found = operation.path(fhirpath.root(content))
    except (fhirpath.Undecided, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise Inapplicable("the path cannot be applied to this resource") from error
    if not all(isinstance(item, Node) for item in found):
        raise Inapplicable("the path gives a value, not an element of the resource")
    if not found and operation.kind != "delete":
        raise Inapplicable("the path finds no element")
    return found


def _apply(operation: Operation, found: list[Node]) -> None:
    match operation.kind:
        case "insert":
            holder, key, pairs = _list(found)
            if not 0 <= operation.index <= len(pairs):
                raise Inapplicable("index is beyond the end of the list")
            _, pair = _made(_element(found[0])[1], operation)
            pairs.insert(operation.index, pair)
            _write(holder, key, pairs)
        case "move":
            holder, key, pairs = _list(found)
            if not (0 <= operation.source < len(pairs) and 0 <= operation.destination < len(pairs)):
                raise Inapplicable("source and destination are numbers of the list's elements")
            pairs.insert(operation.destination, pairs.pop(operation.source))
            _write(holder, key, pairs)
        case _ if len(found) > 1:
            raise Inapplicable("the path finds more than one element")
        case "add":
            _add(found[0], operation)
        case "replace":
            _replace(found[0], operation)
        case _ if found:
            _delete(found[0])


def _add(node: Node, operation: Operation) -> None:
    structure = _structure(node)
    member = structure.members.get(operation.name) if structure else None
    element = structure.elements.get(operation.name) if structure else None
    element = element or (member[0] if member else None)
    if element is None:
        raise Inapplicable("the element has no child of that name")
    key, pair = _made(element, operation)
    if not isinstance(node.value, dict) and node.extra is None:
        node.extra = {}
        _put(node, (node.value, node.extra))
    _append(_holder(node), element, key, pair)


def _append(holder: dict[str, Any], element: Element, key: str, pair: Pair) -> None:
    if element.array:
        _write(holder, key, [*_pairs(holder, key), pair])
    elif any(name in holder or f"_{name}" in holder for name, _ in element.members()):
        raise Inapplicable("the element is there already and does not repeat; replace it")
    else:
        _set(holder, key, pair)


def _replace(node: Node, operation: Operation) -> None:
    (parent, old, _), element = _element(node)
    key, pair = _made(element, operation)
    if key == old:
        _put(node, pair)
    else:  # a choice, of another type than before
        holder = _holder(parent)
        _set(holder, old, (None, None))
        _set(holder, key, pair)


def _delete(node: Node) -> None:
    """Takes an element away, and what would be empty without it: JSON of FHIR has no empty element."""
    (parent, key, index), _ = _element(node)
    holder = _holder(parent)
    if index is None:
        _set(holder, key, (None, None))
    else:
        pairs = _pairs(holder, key)
        del pairs[index]
        _write(holder, key, pairs)
    if holder or parent.place is None:
        return
    if isinstance(parent.value, dict) or parent.value is None:
        _delete(parent)
    else:
        _put(parent, (parent.value, None))


def _element(node: Node) -> tuple[tuple[Node, str, int | None], Element]:
    """Where a node stands, and its definition there."""
    structure = _structure(node.place[0]) if node.place else None
    if node.place is None or structure is None or node.place[1] not in structure.members:
        raise Inapplicable("the path names the resource itself, not an element of it")
    return node.place, structure.members[node.place[1]][0]


def _structure(node: Node) -> Structure | None:
    return structures.structure(node.type if isinstance(node.value, dict) else "Element")


def _holder(node: Node) -> dict[str, Any]:
    """The JSON object that has the children of a node."""
    holder = node.value if isinstance(node.value, dict) else node.extra
    assert isinstance(holder, dict)  # noqa: S101
    return holder


def _put(node: Node, pair: Pair) -> None:
    """Writes another value where a node stands."""
    assert node.place is not None  # noqa: S101
    parent, key, index = node.place
    holder = _holder(parent)
    if index is None:
        _set(holder, key, pair)
    else:
        pairs = _pairs(holder, key)
        pairs[index] = pair
        _write(holder, key, pairs)


def _list(found: Sequence[Node]) -> tuple[dict[str, Any], str, list[Pair]]:
    """The list that the nodes are all of."""
    places = [node.place for node in found]
    first = places[0]
    if first is None or any(p is None or p[0] is not first[0] or p[1] != first[1] or p[2] is None for p in places):
        raise Inapplicable("the path names no list, or several")
    holder = _holder(first[0])
    pairs = _pairs(holder, first[1])
    if len(pairs) != len(found):
        raise Inapplicable("the path names a part of a list; name the whole")
    return holder, first[1], pairs


def _pairs(holder: Mapping[str, Any], key: str) -> list[Pair]:
    values, siblings = holder.get(key) or [], holder.get(f"_{key}") or []
    size = max(len(values), len(siblings))
    return [
        (values[n] if n < len(values) else None, siblings[n] if n < len(siblings) else None) for n in range(size)
    ]  # fmt: skip


def _write(holder: dict[str, Any], key: str, pairs: Sequence[Pair]) -> None:
    values, siblings = [v for v, _ in pairs], [s for _, s in pairs]
    _set(holder, key, (values if any(v is not None for v in values) else None, siblings if any(siblings) else None))


def _set(holder: dict[str, Any], key: str, pair: Pair) -> None:
    for name, value in zip((key, f"_{key}"), pair, strict=True):
        if value is None:
            holder.pop(name, None)
        else:
            holder[name] = value


def _made(element: Element, operation: Operation) -> tuple[str, Pair]:
    """The JSON member and the value that an operation gives for an element; a copy, for it may be done again."""
    assert operation.value is not None  # noqa: S101
    try:
        return _value(element, copy.deepcopy(operation.value))
    except RecursionError as error:
        raise InvalidInput("the value is nested too deeply") from error


def _value(element: Element, part: Mapping[str, Any]) -> tuple[str, Pair]:
    if "resource" in part:
        if element.types != ("Resource",):
            raise InvalidInput("a resource is given where none can stand")
        return element.name, (part["resource"], None)
    if "part" in part:
        if element.is_choice or structures.structure(element.types[0]) is None:
            raise InvalidInput("a value of this type is given as value[x], not in parts")
        return element.name, (_built(element.types[0], part["part"]), None)
    suffix = next((key.lstrip("_").removeprefix("value") for key in part if key.lstrip("_").startswith("value")), "")
    pair = part.get(f"value{suffix}"), part.get(f"_value{suffix}")
    if element.is_choice:
        if element.name + suffix not in dict(element.members()):
            raise InvalidInput("the value is of a type that the element cannot have")
        return element.name + suffix, pair
    own = element.types[0].replace("SimpleQuantity", "Quantity")
    is_primitive = suffix[:1].lower() + suffix[1:] in structures.PRIMITIVES
    if own != suffix if own not in structures.PRIMITIVES else not is_primitive:
        raise InvalidInput("the value is not of the element's type")
    return element.name, pair


def _built(type_name: str, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An element that has no value[x], such as Patient.contact, from its children."""
    structure = structures.structure(type_name)
    made: dict[str, Any] = {}
    for part in parts:
        element = structure.elements.get(part["name"]) if structure else None
        if element is None:
            raise InvalidInput("a part of the value has the name of no child of the element")
        _append(made, element, *_value(element, part))
    return made
