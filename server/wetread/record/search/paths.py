"""Compiles the FHIRPath subset in which the R4 core SearchParameters are written (FHIRPath N1; FHIR R4 3.1.1.2).

    expression  = comparison ("and" comparison)* ("|" ...)*
    comparison  = path (("=" | "!=") literal)?
    path        = (name | "(" expression ")") step* ("as" Type | "is" Type)?
    step        = "." name | "." function "(" arguments ")" | "[" integer "]"
    function    = where | exists | as | ofType | extension | hasExtension | resolve

It walks parsed JSON without a model: a choice element such as Observation.value is found as `valueQuantity`, and the
node remembers `Quantity`. `resolve()` reads no other resource: its one use, `where(resolve() is Patient)`, is a test
on the reference's own text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from wetread.errors import Misconfigured
from wetread.record.search.parameters import choice_types


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON value, and its FHIR type where the element's name told it (choice elements)."""

    value: Any
    type: str = ""


Nodes: TypeAlias = list[Node]
Evaluate: TypeAlias = Callable[[Nodes], Nodes]
Read: TypeAlias = Callable[[Mapping[str, Any]], Nodes]

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^'\\]|\\.)*')|(?P<number>\d+)|(?P<name>[A-Za-z_]\w*)|(?P<sign>!=|[.()|\[\]=]))"
)
_REFERENCE_TYPE = re.compile(r"(?:^|/)([A-Z][A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?$")


@cache
def compiled(expression: str) -> Read:
    """From a resource to the nodes that the expression names. Raises Misconfigured on what we cannot read."""
    parser = _Parser(expression)
    evaluate = parser.union()
    parser.expect_end()
    return lambda resource: evaluate([Node(resource, resource.get("resourceType", ""))])


def reference_type(reference: Any) -> str:
    """The type of the resource that a Reference points to, as far as its own text tells; empty where it does not."""
    if not isinstance(reference, dict):
        return ""
    found = _REFERENCE_TYPE.search(str(reference.get("reference", "")))
    return found.group(1) if found else str(reference.get("type", ""))


class _Parser:
    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens = list(self._tokens())
        self.at = 0

    def _tokens(self) -> Iterator[str]:
        at, text = 0, self.expression.strip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise self.fault()
            yield found.group(found.lastgroup or 0)
            at = found.end()

    def fault(self) -> Misconfigured:
        return Misconfigured(f"this expression is outside the FHIRPath subset of search parameters: {self.expression}")

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *expected: str) -> str:
        token = self.peek()
        if not token or (expected and token not in expected):
            raise self.fault()
        self.at += 1
        return token

    def expect_end(self) -> None:
        if self.peek():
            raise self.fault()

    def union(self) -> Evaluate:
        branches = [self.conjunction()]
        while self.peek() == "|":
            self.take()
            branches.append(self.conjunction())
        return branches[0] if len(branches) == 1 else lambda nodes: [n for b in branches for n in b(nodes)]

    def conjunction(self) -> Evaluate:
        terms = [self.comparison()]
        while self.peek() == "and":
            self.take()
            terms.append(self.comparison())
        return terms[0] if len(terms) == 1 else lambda nodes: [Node(all(_is_true(t(nodes)) for t in terms))]

    def comparison(self) -> Evaluate:
        path = self.path()
        if self.peek() not in ("=", "!="):
            return path
        wanted = self.take() == "="
        literal = _literal(self.take())
        return lambda nodes: [Node(any(n.value == literal for n in path(nodes)) is wanted)]

    def path(self) -> Evaluate:
        steps: list[Evaluate] = [self.head()]
        while self.peek() in (".", "[", "as", "is"):
            match self.take():
                case ".":
                    steps.append(self.step())
                case "[":
                    steps.append(_item(int(self.take())))
                    self.take("]")
                case "as":
                    steps.append(_of_type(self.take()))
                case _:
                    steps.append(_is_type(self.take()))
        return lambda nodes: _through(steps, nodes)

    def head(self) -> Evaluate:
        if self.peek() == "(":
            self.take()
            inner = self.union()
            self.take(")")
            return inner
        name = self.take()
        if self.peek() == "(":
            return self.call(name)
        return _root(name) if name[0].isupper() else _child(name)

    def step(self) -> Evaluate:
        name = self.take()
        return self.call(name) if self.peek() == "(" else _child(name)

    def call(self, name: str) -> Evaluate:
        self.take("(")
        result: Evaluate
        match name:
            case "where":
                result = _where(self.union())
            case "as" | "ofType":
                result = _of_type(self.take())
            case "extension":
                result = _extension(str(_literal(self.take())))
            case "hasExtension":
                result = _exists(_extension(str(_literal(self.take()))))
            case "exists":
                result = _exists(lambda nodes: nodes)
            case "resolve":
                result = lambda nodes: [Node(n.value, reference_type(n.value)) for n in nodes]  # noqa: E731
            case _:
                raise self.fault()
        self.take(")")
        return result


def _literal(token: str) -> str | bool | int:
    if token in ("true", "false"):
        return token == "true"  # noqa: S105
    if token.isdigit():
        return int(token)
    return token[1:-1].replace("\\'", "'")


def _is_true(nodes: Nodes) -> bool:
    return bool(nodes) and all(n.value is not False for n in nodes)


def _through(steps: Sequence[Evaluate], nodes: Nodes) -> Nodes:
    for step in steps:
        nodes = step(nodes)
    return nodes


def _root(type_name: str) -> Evaluate:
    """The resource itself, where it is of the named type: an expression for several types yields only its own part."""
    everything = type_name in ("Resource", "DomainResource")
    return lambda nodes: [n for n in nodes if everything or n.type == type_name]


def _child(name: str) -> Evaluate:
    return lambda nodes: [child for n in nodes for child in _children(n.value, name)]


def _children(value: Any, name: str) -> Iterator[Node]:
    if not isinstance(value, dict):
        return
    if name in value:
        yield from _each(value[name], "")
        return
    choices = _choices(name)
    for key, member in value.items():
        if key in choices:
            yield from _each(member, choices[key])


@cache
def _choices(name: str) -> dict[str, str]:
    """How a choice element of this name may stand in JSON, each with its type."""
    return {f"{name}{type_name}": type_name for type_name in choice_types()}


def _each(value: Any, type_name: str) -> Iterator[Node]:
    for item in value if isinstance(value, list) else (value,):
        if item is not None:
            resource_type = item.get("resourceType", "") if isinstance(item, dict) else ""
            yield Node(item, type_name or resource_type)


def _item(index: int) -> Evaluate:
    return lambda nodes: nodes[index : index + 1]


def _of_type(type_name: str) -> Evaluate:
    return lambda nodes: [n for n in nodes if not n.type or n.type.casefold() == type_name.casefold()]


def _is_type(type_name: str) -> Evaluate:
    return lambda nodes: [Node(n.type == type_name) for n in nodes]


def _where(condition: Evaluate) -> Evaluate:
    return lambda nodes: [n for n in nodes if _is_true(condition([n]))]


def _exists(inner: Evaluate) -> Evaluate:
    return lambda nodes: [Node(bool(inner(nodes)))]


def _extension(url: str) -> Evaluate:
    """The values of the extensions with this url, as the core parameters on extensions mean them."""

    def evaluate(nodes: Nodes) -> Nodes:
        of_url = [n for n in _child("extension")(nodes) if isinstance(n.value, dict) and n.value.get("url") == url]
        return _child("value")(of_url)

    return evaluate
