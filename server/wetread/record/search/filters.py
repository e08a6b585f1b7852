"""`_filter` as SQL (FHIR R4 search_filter.html): each test is a condition as the parameter of that name makes it.

Chains ask for the reader's rights as chains of parameters do: both go through `query.linked`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import LiteralString

from wetread.errors import InvalidInput, Unsupported
from wetread.record.condition import Condition, all_of, any_of, none_of
from wetread.record.search import query, query_values
from wetread.record.search.filter_syntax import LOCATION, Both, Comparison, Either, Filter, Not, parse
from wetread.record.search.index import ON_OWN_COLUMN
from wetread.record.search.index_rows import folded, here
from wetread.record.search.parameters import FULL_TEXT, SearchParameter, common_parameters
from wetread.record.search.query import Question

_ORDERED = ("eq", "ne", "gt", "lt", "ge", "le", "ap", "sa", "eb", "pr")
OPERATORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "string": ("eq", "ne", "co", "sw", "ew", "gt", "lt", "ge", "le", "pr"),
        "number": _ORDERED,
        "quantity": _ORDERED,
        "date": (*_ORDERED, "co", "po"),
        "token": ("eq", "ne", "ss", "sb", "in", "ni", "pr"),
        "reference": ("re", "pr"),
        "uri": ("eq", "ne", "pr"),
        "composite": ("eq", "pr"),
    }
)
"""What is supported: the operators of each kind of parameter."""
_ON_OWN_COLUMN = ("eq", "ne", "gt", "lt", "ge", "le", "ap", "sa", "eb", "pr")
_OPERATORS = "eq ne co sw ew gt lt ge le ap sa eb pr po ss sb in ni re"
ALL_OPERATORS = tuple(_OPERATORS.split())
_BY_TERMINOLOGY = {"ss": "below", "sb": "above", "in": "in", "ni": "not-in"}
_COMPARED: dict[str, LiteralString] = {"gt": ">", "lt": "<", "ge": ">=", "le": "<="}
_SYSTEMS = {
    "loinc": "http://loinc.org",
    "snomed": "http://snomed.info/sct",
    "rxnorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "ucum": "http://unitsofmeasure.org",
}


async def condition(question: Question, types: tuple[str, ...], text: str, depth: int = 0) -> Condition:
    """A filter, on `resource r` of any of the types. Raises InvalidInput, Unsupported, Forbidden."""
    return await _condition(question, types, parse(text), depth)


async def _condition(question: Question, types: tuple[str, ...], tree: Filter, depth: int) -> Condition:
    match tree:
        case Both(left, right):
            return all_of([await _condition(question, types, part, depth) for part in (left, right)])
        case Either(left, right):
            return any_of([await _condition(question, types, part, depth) for part in (left, right)])
        case Not(inner):
            return none_of(await _condition(question, types, inner, depth))
    return await _tested(question, types, tree, 0, depth)


async def _tested(question: Question, types: tuple[str, ...], test: Comparison, at: int, depth: int) -> Condition:
    """A test, from the step of that number on."""
    if at == len(test.steps):
        return await _value(question, types, test)
    if depth >= query.DEEPEST_CHAIN:
        raise InvalidInput(f"a chain has at most {query.DEEPEST_CHAIN} links", location=LOCATION)
    step = test.steps[at]
    rest = test.steps[at + 1].name if at + 1 < len(test.steps) else test.name

    async def follow(targets: tuple[str, ...]) -> Condition:
        found = [await _tested(question, targets, test, at + 1, depth + 1)]
        if step.where is not None:
            found.append(await _condition(question, targets, step.where, depth + 1))
        return all_of(found)

    return await query.linked(question, types, step.name, rest, follow)


async def _value(question: Question, types: tuple[str, ...], test: Comparison) -> Condition:
    code, operator, value = test.name, test.operator, test.value
    parameter = common_parameters(types).get(code)
    if parameter is None or code in query.NOT_SUPPORTED:
        raise InvalidInput(f"{' and '.join(types[:3])} has no search parameter {code!r} here", location=LOCATION)
    if operator not in ALL_OPERATORS:
        raise InvalidInput(f"{operator!r} is none of the operators {' '.join(ALL_OPERATORS)}", location=LOCATION)
    served = () if code in FULL_TEXT else OPERATORS[parameter.kind]
    served = tuple(o for o in served if o in _ON_OWN_COLUMN) if code in ON_OWN_COLUMN else served
    if operator not in served:
        hint = f"it takes {' '.join(served)}" if served else "ask for it by itself"
        message = f"the operator {operator} is not served for {code}, of kind {parameter.kind}; {hint}"
        raise Unsupported(message, location=LOCATION)
    if operator == "pr":
        if value not in ("true", "false"):
            raise InvalidInput("pr takes true or false", location=LOCATION)
        return query.missing(types, parameter, "false" if value == "true" else "true")
    if parameter.kind == "composite":
        return query.composite(types, parameter, "$".join(_with_system(v) for v in query_values.split(value, "$")))
    if operator in _BY_TERMINOLOGY:
        matches = await query.by_terminology(question, parameter, _BY_TERMINOLOGY[operator], _with_system(value))
        return query.indexed(types, "token", code, matches, negate=operator == "ni")
    if operator == "re":
        value = here(value, question.bases)
    matches = _matches(parameter, operator, value)
    return query.on_own_columns(matches) if code in ON_OWN_COLUMN else query.indexed(
        types, parameter.kind, code, matches
    )  # fmt: skip


def _matches(parameter: SearchParameter, operator: str, value: str) -> Condition:
    """The rows that a test is true of."""
    match parameter.kind, operator:
        case "string", _:
            return _string(parameter, operator, value)
        case "date", "co" | "po":
            _, low, high = query_values.date_asked(f"eq{value}", parameter)
            if operator == "co":
                return Condition("i.low <= %s AND i.high >= %s", (low, high))
            return Condition("i.low < %s AND i.high > %s", (high, low))
        case "date" | "number" | "quantity", _:
            return query_values.of_value(operator + _with_system(value), "", parameter)
    equal = query_values.of_value(_with_system(value), "", parameter)
    return none_of(equal) if operator == "ne" else equal


def _string(parameter: SearchParameter, operator: str, text: str) -> Condition:
    """Case and accents aside, as searches take strings."""
    plain = folded(text)
    match operator:
        case "eq":
            return Condition("left(i.folded, 64) = %s AND i.folded = %s", (plain[:64], plain))
        case "ne":
            return Condition("i.folded <> %s", (plain,))
        case "co" | "sw":
            escaped = text.replace("\\", "\\\\")
            return query_values.of_value(escaped, "contains" if operator == "co" else "", parameter)
        case "ew":
            return Condition("i.folded LIKE %s", (f"%{query_values.pattern(plain)}",))
    return Condition('i.folded COLLATE "C" ' + _COMPARED[operator] + " %s", (plain,))


def _with_system(value: str) -> str:
    """The value with the url of a code system that the filter may call by a short name."""
    parts = value.split("|")
    return "|".join([_SYSTEMS.get(part, part) for part in parts[:-1]] + parts[-1:])
