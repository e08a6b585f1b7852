"""Whether content may be stored: structure, cardinality and primitives by the R4B models of `fhir.resources`, which
are R4's for the types that the store holds; required codes by R4's own bindings.

A model costs 50 to 100 times a JSON parse, so a large body is checked in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fhir.resources.R4B import get_fhir_model_class
from pydantic import ValidationError

from wetread.errors import InvalidInput, Unsupported
from wetread.record import lossless
from wetread.record.parameters import resource_types, table

_LARGE_CHARACTERS = 10_000
_MOST_ISSUES = 50
_NOT_IN_R4 = ("valueCodeableReference", "valueRatioRange")
"""Extension values that R4B has and R4 has not."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One fault. `code` is of FHIR R4 issue-type; `expression` a FHIRPath; `text` repeats nothing of the content."""

    code: str
    expression: str
    text: str


class InvalidResource(InvalidInput):
    """Content that breaks R4's definition of its type."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__(issues[0].text, location=issues[0].expression)
        self.issues = tuple(issues)


async def parsed(text: str) -> dict[str, Any]:
    """The resource in a text, parsed without loss and found valid. Raises InvalidInput, Unsupported."""
    content = lossless.parse(text)
    if len(text) > _LARGE_CHARACTERS:
        await asyncio.to_thread(check, content)
    else:
        check(content)
    return content


def check(content: Mapping[str, Any]) -> None:
    """Raises InvalidResource with every fault found, or Unsupported for a type that is not stored here."""
    resource_type = content.get("resourceType")
    if not isinstance(resource_type, str) or resource_type not in resource_types():
        raise Unsupported("this server stores no resource of that type; see GET metadata", location="resourceType")
    issues = [*_structure(resource_type, content), *_codes(resource_type, content), *_only_r4b(resource_type, content)]
    if issues:
        raise InvalidResource(issues[:_MOST_ISSUES])


def _structure(resource_type: str, content: Mapping[str, Any]) -> Iterator[Issue]:
    try:
        get_fhir_model_class(resource_type).model_validate(content)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            yield _issue(resource_type, fault["type"], fault["loc"], fault["msg"])
    except RecursionError:
        yield Issue("too-long", resource_type, "the resource is nested too deeply")
    except (ValueError, TypeError, AttributeError, LookupError):
        # The models stumble over some malformed content in place of naming it.
        yield Issue("structure", resource_type, "the resource does not fit its R4 definition")


def _issue(resource_type: str, kind: str, location: Sequence[str | int], message: str) -> Issue:
    where = resource_type
    for step in location:
        if step != "root":  # the models' own name for a value of the wrong JSON type
            where += f"[{step}]" if isinstance(step, int) else f".{step}"
    match kind:
        case "extra_forbidden":
            return Issue("structure", where, "R4 has no such element here")
        case "missing" | "model_field_validation.missing":
            return Issue("required", where, "a required element is missing")
        case _ if "regex" in message:
            return Issue("value", where, "the value does not have the form of its primitive type")
        case _ if "multiple" in message:
            return Issue("structure", where, "only one of the forms of a choice element may be given")
        case _:
            return Issue("structure", where, "the value does not fit R4's definition of this element")


@cache
def _required_codes() -> dict[str, dict[str, tuple[tuple[str, ...], frozenset[str]]]]:
    return {
        resource_type: {path: (tuple(path.split(".")), frozenset(codes)) for path, codes in rows.items()}
        for resource_type, rows in table("required-codes.json").items()
    }


def _codes(resource_type: str, content: Mapping[str, Any]) -> Iterator[Issue]:
    for steps, allowed in _required_codes().get(resource_type, {}).values():
        for where, value in _at(content, steps, resource_type):
            if isinstance(value, str) and value not in allowed:
                some = ", ".join(sorted(allowed)[:12])
                yield Issue("code-invalid", where, f"not a code of the required binding; R4 allows {some}")


def _at(value: Any, steps: Sequence[str], where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _at(item, steps, f"{where}[{number}]")
    elif not steps:
        yield where, value
    elif isinstance(value, Mapping) and steps[0] in value:
        yield from _at(value[steps[0]], steps[1:], f"{where}.{steps[0]}")


def _untyped(where: str, contained: Any) -> Iterator[Issue]:
    """The models take a contained resource without a type."""
    for number, item in enumerate(contained if isinstance(contained, list) else ()):
        if not (isinstance(item, Mapping) and isinstance(item.get("resourceType"), str)):
            yield Issue("required", f"{where}[{number}].resourceType", "a required element is missing")


def _only_r4b(where: str, value: Any) -> Iterator[Issue]:
    match value:
        case Mapping():
            for key, member in value.items():
                if key in _NOT_IN_R4:
                    yield Issue("structure", f"{where}.{key}", "R4 has no such element here")
                if key == "contained":
                    yield from _untyped(f"{where}.{key}", member)
                yield from _only_r4b(f"{where}.{key}", member)
        case list():
            for number, item in enumerate(value):
                yield from _only_r4b(f"{where}[{number}]", item)
