"""The grammar of FHIRPath (FHIRPath 2.0.0, appendix B): from text to a tree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from wetread.errors import Misconfigured


class NotFhirPath(Misconfigured):
    """An expression that is no FHIRPath, or that asks for what this evaluator has not."""


@dataclass(frozen=True, slots=True)
class Literal:
    """`kind`: string, number, date, time, boolean; `unit` makes a number a quantity."""

    kind: str
    text: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Variable:
    """`$this`, `$index`, `$total` or `%name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller gives under a name when it evaluates. The parser makes none: a language of ours that has such
    variables puts it in their place."""

    name: str


@dataclass(frozen=True, slots=True)
class Empty:
    """`{}`"""


@dataclass(frozen=True, slots=True)
class Name:
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Dot:
    left: Tree
    right: Name | Call


@dataclass(frozen=True, slots=True)
class Item:
    left: Tree
    index: Tree


@dataclass(frozen=True, slots=True)
class Unary:
    sign: str
    operand: Tree


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str
    left: Tree
    right: Tree


@dataclass(frozen=True, slots=True)
class TypeTest:
    """`operand is type` and `operand as type`."""

    operator: str
    operand: Tree
    type: str


Tree: TypeAlias = Literal | Variable | Given | Empty | Name | Call | Dot | Item | Unary | Binary | TypeTest

_TOKEN = re.compile(
    r"""\s*(?:(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<string>'(?:[^'\\]|\\.)*')
    |(?P<date>@\d{4}(?:-\d\d(?:-\d\d)?)?(?:T(?:\d\d(?::\d\d(?::\d\d(?:\.\d+)?)?)?(?:Z|[+-]\d\d:\d\d)?)?)?)
    |(?P<time>@T\d\d(?::\d\d(?::\d\d(?:\.\d+)?)?)?)
    |(?P<number>\d+(?:\.\d+)?)
    |(?P<delimited>`(?:[^`\\]|\\.)*`)
    |(?P<variable>\$(?:this|index|total)\b|%(?:[A-Za-z_]\w*|`[^`]*`|'[^']*'))
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign><=|>=|!=|!~|[-+*/&|=~<>().,\[\]{}]))""",
    re.VERBOSE | re.DOTALL,
)
_LEVELS: tuple[tuple[str, ...], ...] = (
    ("implies",),
    ("or", "xor"),
    ("and",),
    ("in", "contains"),
    ("=", "~", "!=", "!~"),
    ("<=", "<", ">", ">="),
    ("|",),
    ("is", "as"),
    ("+", "-", "&"),
    ("*", "/", "div", "mod"),
)
_TYPE_LEVEL = 7
UNITS = frozenset(["year", "month", "week", "day", "hour", "minute", "second", "millisecond"])
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}


def parse(expression: str) -> Tree:
    """Raises NotFhirPath."""
    parser = _Parser(expression)
    tree = parser.binary(0)
    if parser.kind:
        raise parser.fault()
    return tree


def unescaped(text: str) -> str:
    return re.sub(
        r"\\(u[0-9a-fA-F]{4}|.)",
        lambda m: chr(int(m[1][1:], 16)) if len(m[1]) > 1 else _ESCAPES.get(m[1], m[1]),
        text,
        flags=re.DOTALL,
    )


class _Parser:
    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens = self._tokens()
        self.at = 0

    def _tokens(self) -> list[tuple[str, str]]:
        at, text, tokens = 0, self.expression.rstrip(), []
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise self.fault()
            kind = found.lastgroup or ""
            if kind != "comment":
                tokens.append((kind, found.group(kind)))
            at = found.end()
        return tokens

    def fault(self) -> NotFhirPath:
        return NotFhirPath(f"this is not FHIRPath, or not in the part that is understood here: {self.expression}")

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    @property
    def text(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        text = self.text
        if not text or (expected and text != expected):
            raise self.fault()
        self.at += 1
        return text

    def binary(self, level: int) -> Tree:
        if level == len(_LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.text in _LEVELS[level] and self.kind in ("name", "sign"):
            operator = self.take()
            if level == _TYPE_LEVEL:
                left = TypeTest(operator, left, self.type_name())
            else:
                left = Binary(operator, left, self.binary(level + 1))
        return left

    def type_name(self) -> str:
        name = self.identifier()
        while self.text == ".":
            self.take()
            name += "." + self.identifier()
        return name

    def identifier(self) -> str:
        if self.kind == "delimited":
            return unescaped(self.take()[1:-1])
        if self.kind != "name":
            raise self.fault()
        return self.take()

    def unary(self) -> Tree:
        if self.kind == "sign" and self.text in "+-":
            return Unary(self.take(), self.unary())
        tree = self.term()
        while self.text in (".", "[") and self.kind == "sign":
            if self.take() == ".":
                tree = Dot(tree, self.invocation())
            else:
                tree = Item(tree, self.binary(0))
                self.take("]")
        return tree

    def invocation(self) -> Name | Call:
        name = self.identifier()
        if self.text != "(" or self.kind != "sign":
            return Name(name)
        self.take()
        arguments: list[Tree] = []
        while self.text != ")":
            if arguments:
                self.take(",")
            arguments.append(self.binary(0))
        self.take()
        return Call(name, tuple(arguments))

    def term(self) -> Tree:
        match self.kind:
            case "string":
                return Literal("string", unescaped(self.take()[1:-1]))
            case "number":
                return self.number()
            case "date" | "time" as kind:
                return Literal(kind, self.take()[1:])
            case "variable":
                return Variable(self.take().replace("`", "").replace("'", ""))
            case "name" if self.text in ("true", "false"):
                return Literal("boolean", self.take())
            case "name" | "delimited":
                return self.invocation()
            case "sign" if self.text == "(":
                self.take()
                tree = self.binary(0)
                self.take(")")
                return tree
            case "sign" if self.text == "{":
                self.take()
                self.take("}")
                return Empty()
        raise self.fault()

    def number(self) -> Tree:
        text = self.take()
        if self.kind == "string":
            return Literal("number", text, unescaped(self.take()[1:-1]))
        if self.kind == "name" and self.text.removesuffix("s") in UNITS:
            return Literal("number", text, self.take().removesuffix("s"))
        return Literal("number", text)
