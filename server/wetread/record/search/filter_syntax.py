"""The grammar of `_filter` (FHIR R4 search_filter.html 3.1.3.0): from text to a tree.

`and` and `or` go from left to right, neither before the other; a value is a JSON string or a token without blanks.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TypeAlias

from wetread.errors import InvalidInput
from wetread.record.lossless import is_text

MOST_CHARACTERS = 4000
MOST_TESTS = 100
DEEPEST = 20
LOCATION = "http._filter"


@dataclass(frozen=True, slots=True)
class Step:
    """A parameter that a path goes through: `subject`, `subject:Patient` or `subject[name eq x]`."""

    name: str
    where: Filter | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """`subject.name co "pet"`: the steps before the last name lead to other resources."""

    steps: tuple[Step, ...]
    name: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Both:
    left: Filter
    right: Filter


@dataclass(frozen=True, slots=True)
class Either:
    left: Filter
    right: Filter


@dataclass(frozen=True, slots=True)
class Not:
    filter: Filter


Filter: TypeAlias = Comparison | Both | Either | Not

_BLANK = re.compile(r"\s*")
_WORD = re.compile(r"(and|or|not)(?=[\s(]|$)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*(?::[A-Za-z]+)?")
_OPERATOR = re.compile(r"[a-z]{2}(?=\s)")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_TOKEN = re.compile(r'[^\s)\]"][^\s)\]]*')


def parse(text: str) -> Filter:
    """Raises InvalidInput that tells where the text leaves the grammar, or what it has too much of."""
    if len(text) > MOST_CHARACTERS:
        raise InvalidInput(f"a filter has at most {MOST_CHARACTERS} characters here", location=LOCATION)
    parser = _Parser(text)
    tree = parser.filter(0)
    if parser.at < len(text):
        raise parser.fault("and, or, or the end")
    return tree


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.tests = 0

    def fault(self, expected: str) -> InvalidInput:
        return InvalidInput(f"expected {expected} at character {self.at + 1} of the filter", location=LOCATION)

    def take(self, pattern: re.Pattern[str]) -> str:
        """What matches here, blanks after it skipped; empty where nothing does."""
        found = pattern.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        self._skip()
        return found.group()

    def sign(self, sign: str) -> bool:
        if not self.text.startswith(sign, self.at):
            return False
        self.at += 1
        self._skip()
        return True

    def _skip(self) -> None:
        found = _BLANK.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def filter(self, depth: int) -> Filter:
        if depth > DEEPEST:
            raise InvalidInput(f"a filter is nested at most {DEEPEST} times here", location=LOCATION)
        self._skip()
        left = self._term(depth)
        while word := self.take(_WORD):
            if word == "not":
                raise self.fault("and or or")
            right = self._term(depth)
            left = Both(left, right) if word == "and" else Either(left, right)
        return left

    def _term(self, depth: int) -> Filter:
        start = self.at
        word = self.take(_WORD)
        if self.sign("("):
            if word not in ("", "not"):
                raise self.fault("a test")
            inner = self.filter(depth + 1)
            if not self.sign(")"):
                raise self.fault("a closing parenthesis")
            return Not(inner) if word else inner
        self.at = start  # a parameter may be called as a word of the grammar is
        return self._test(depth)

    def _test(self, depth: int) -> Comparison:
        self.tests += 1
        if self.tests > MOST_TESTS:
            raise InvalidInput(f"a filter has at most {MOST_TESTS} tests here", location=LOCATION)
        steps: list[Step] = []
        while True:
            name = self.take(_NAME)
            if not name:
                raise self.fault("the name of a search parameter")
            where = None
            if self.sign("["):
                where = self.filter(depth + 1)
                if not self.sign("]"):
                    raise self.fault("a closing bracket")
            if not self.sign("."):
                break
            steps.append(Step(name, where))
        if where is not None:
            raise self.fault("a full stop and a parameter")
        operator = self.take(_OPERATOR)
        if not operator:
            raise self.fault("an operator")
        return Comparison(tuple(steps), name, operator, self._value())

    def _value(self) -> str:
        if text := self.take(_STRING):
            try:
                value = str(json.loads(text))
            except ValueError as error:
                raise self.fault("a JSON string before this") from error
        elif not (value := self.take(_TOKEN)):
            raise self.fault("a value")
        if not is_text(value):
            raise InvalidInput("a value holds a NUL or an unpaired surrogate", location=LOCATION)
        return value
