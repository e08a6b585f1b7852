"""FHIRPath as a ViewDefinition writes it: constants, the keys of resources and references, `%rowIndex`
(SQL on FHIR 2.0, StructureDefinition ViewDefinition)."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from wetread.errors import InvalidInput, TooCostly
from wetread.record.fhirpath import Node, NotFhirPath, Undecided, syntax
from wetread.record.fhirpath.evaluate import compile_tree
from wetread.record.fhirpath.functions import REGULAR_EXPRESSIONS
from wetread.record.fhirpath.scope import Scope


@dataclass(frozen=True, slots=True)
class Source:
    """What rows are made of, and until when by `time.monotonic()`."""

    resource: Node
    deadline: float = math.inf


Expression: TypeAlias = Callable[[Source, Any, int], list[Any]]
"""`expression(source, focus, row_index)`: the items it gives for a focus; nothing is in focus where it is None."""
Constants: TypeAlias = Mapping[str, syntax.Literal]

_KINDS = {
    **{"valueBoolean": "boolean", "valueTime": "time"},
    **dict.fromkeys(("valueDate", "valueDateTime", "valueInstant"), "date"),
    **dict.fromkeys(
        ("valueDecimal", "valueInteger", "valueInteger64", "valuePositiveInt", "valueUnsignedInt"), "number"
    ),
    **dict.fromkeys(
        ("valueBase64Binary", "valueCanonical", "valueCode", "valueId", "valueMarkdown", "valueOid", "valueString"),
        "string",
    ),
    **dict.fromkeys(("valueUri", "valueUrl", "valueUuid"), "string"),
}
_NAME = re.compile(r"[A-Za-z]\w*")
_TYPE = re.compile(r"[A-Za-z]+")
_REFUSED = REGULAR_EXPRESSIONS | {"aggregate"}
"""The last has the total for itself."""
_LAST_PART = "split('/_history/').first().split('/').last()"


def constants_of(rows: Any, location: str) -> Constants:
    """The constants of a view, by name. Raises InvalidInput."""
    found = {}
    for number, row in enumerate(rows if isinstance(rows, list) else []):
        where = f"{location}[{number}]"
        values = [key for key in row if key.startswith("value")] if isinstance(row, dict) else []
        if len(values) != 1 or values[0] not in _KINDS or not _NAME.fullmatch(str(row.get("name", ""))):
            raise InvalidInput("a constant has a name and one value of a primitive type", location=where)
        value = row[values[0]]
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if values[0] in ("valueDateTime", "valueInstant") and "T" not in text:
            text += "T"
        found[row["name"]] = syntax.Literal(_KINDS[values[0]], text)
    return found


def expression(text: Any, constants: Constants, location: str) -> Expression:
    """Raises InvalidInput here for what is no FHIRPath, and when it is called for what cannot be decided.

    When it is called past the deadline it raises TooCostly: one call is bounded by the evaluator, their number is not.
    """
    try:
        evaluate = compile_tree(_rewritten(syntax.parse(str(text)), constants))
    except NotFhirPath as error:
        raise InvalidInput(error.message, location=location) from error
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise InvalidInput("this path, or a constant in it, cannot be read", location=location) from error

    def items(source: Source, focus: Any, row_index: int) -> list[Any]:
        if time.monotonic() > source.deadline:
            raise TooCostly("the view takes too long; ask for less, or use $export")
        resource = source.resource
        this = [] if focus is None else [focus]
        context = focus if isinstance(focus, Node) else resource
        # What `%rowIndex` stands for travels as the total, which no expression has outside aggregate().
        scope = Scope(resource, resource, context, this, total=[row_index])
        try:
            return evaluate(this, scope)
        except (Undecided, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise InvalidInput("this path cannot be applied to a resource of the store", location=location) from error

    return items


def _rewritten(tree: Any, constants: Constants) -> Any:
    """The tree in the language that the evaluator knows."""
    match tree:
        case syntax.Variable(name="%rowIndex"):
            return syntax.Variable("$total")
        case syntax.Variable(name=name) if name[1:].strip("`'") in constants:
            return constants[name[1:].strip("`'")]
        case syntax.Call(name=name) if name in _REFUSED:
            raise NotFhirPath(f"a view has no {name}()")
        case syntax.Call(name="getResourceKey", arguments=()):
            return syntax.Name("id")
        case syntax.Dot(left=left, right=syntax.Call(name="getReferenceKey", arguments=arguments)):
            return _reference_key(_rewritten(left, constants), arguments)
        case syntax.Call(name="getReferenceKey", arguments=arguments):
            return _reference_key(syntax.Variable("$this"), arguments)
        case tuple():
            return tuple(_rewritten(each, constants) for each in tree)
        case str():
            return tree
    return replace(tree, **{f.name: _rewritten(getattr(tree, f.name), constants) for f in fields(tree)})


def _reference_key(left: Any, arguments: tuple[Any, ...]) -> Any:
    """The id that a reference names, where it is of the type that is asked for."""
    found = syntax.Dot(left, syntax.Name("reference"))
    match arguments:
        case ():
            pass
        case (syntax.Name(name=wanted),) if _TYPE.fullmatch(wanted):
            of_type = syntax.parse(f"matches('(^|/){wanted}/[^/]')")
            found = syntax.Dot(found, syntax.Call("where", (of_type,)))
        case _:
            raise NotFhirPath("getReferenceKey() takes the name of one type")
    return syntax.Dot(found, syntax.Call("select", (syntax.parse(_LAST_PART),)))
