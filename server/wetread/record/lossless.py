"""JSON without loss: decimals keep their digits (FHIR R4 2.24.0.1: the precision of a decimal is significant)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NoReturn

from wetread.errors import InvalidInput

_DEEPEST = 100
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_MARKED = re.compile(r'"\\u0000([^"\\]*)"')
_ESCAPED_NO_TEXT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_NOT_TEXT = "a string holds a NUL or an unpaired surrogate, which is not text (FHIR R4 2.24.0.1)"


def parse(text: str) -> dict[str, Any]:
    """A JSON object, with numbers as int and Decimal. Raises InvalidInput; a key given twice is refused."""
    value = parse_value(text)
    if not isinstance(value, dict):
        raise InvalidInput("not a FHIR resource: expected a JSON object")
    return value


def parse_value(text: str) -> Any:
    """`parse` for any JSON value."""
    try:
        value = json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_members)
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise InvalidInput(message) from error
    except RecursionError as error:
        raise InvalidInput("the JSON is nested too deeply") from error
    except (ValueError, ArithmeticError) as error:
        raise InvalidInput("not JSON: a number has too many digits") from error
    if text.count("{") + text.count("[") > _DEEPEST:
        _require_shallow(value, _DEEPEST)
    if "\x00" in text or _NO_TEXT.search(text) or _ESCAPED_NO_TEXT.search(text):
        _require_text(value)
    return value


def dump(value: Any) -> str:
    """Compact JSON; Decimals keep their digits."""
    return _encoded(value, sort_keys=False)


def canonical(value: Any) -> str:
    """`dump` with sorted keys: equal for equal content, whatever the order of members."""
    return _encoded(value, sort_keys=True)


def _encoded(value: Any, *, sort_keys: bool) -> str:
    """By the standard library's encoder, in C, which knows no Decimal: those pass as marked strings."""
    decimals = 0

    def other(member: Any) -> Any:
        nonlocal decimals
        if isinstance(member, Decimal):
            decimals += 1
            return f"\0{member}"
        if isinstance(member, Mapping):
            return dict(member)
        raise TypeError(f"JSON has no form for {type(member).__name__}")

    encoder = json.JSONEncoder(
        ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=sort_keys, default=other
    )
    text = encoder.encode(value)
    if not decimals:
        return text
    unmarked, found = _MARKED.subn(r"\1", text)
    if found != decimals:
        raise ValueError("a string holds a NUL, which JSON of ours never does")
    return unmarked


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidInput(f"not JSON: {name} is not a JSON number")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidInput("a JSON object names one member twice; readers would disagree on which one counts")
    return members


def pretty(text: str) -> str:
    """JSON text on lines of its own, two blanks a level; no value is touched."""
    lines, level, parts = [""], 0, _TOKEN.findall(text)
    for at, part in enumerate(parts):
        if part in ("}", "]"):
            level -= 1
            if parts[at - 1] not in ("{", "["):
                lines.append("  " * level)
        lines[-1] += f"{part} " if part == ":" else part
        if part in ("{", "["):
            level += 1
        if part == "," or (part in ("{", "[") and parts[at + 1] not in ("}", "]")):
            lines.append("  " * level)
    return "\n".join(lines)


def is_text(value: str) -> bool:
    """Whether a string can be stored: no NUL, no unpaired surrogate."""
    return _NO_TEXT.search(value) is None


def _require_shallow(value: Any, levels: int) -> None:
    if levels == 0:
        raise InvalidInput("the JSON is nested too deeply")
    if isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            if isinstance(member, dict | list):
                _require_shallow(member, levels - 1)


def _require_text(value: Any) -> None:
    match value:
        case str():
            if not is_text(value):
                raise InvalidInput(_NOT_TEXT)
        case dict():
            for key, member in value.items():
                _require_text(key)
                _require_text(member)
        case list():
            for member in value:
                _require_text(member)
