"""One check of one resource: where it stands, and what it has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Place: TypeAlias = tuple[Any, ...]
"""Where a value stands: (place of the parent, JSON member, index or None); () above the root."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One fault. `code` is of FHIR R4 issue-type; `expression` a FHIRPath; `text` repeats nothing of the content."""

    code: str
    expression: str
    text: str
    severity: str = "error"
    is_tolerable: bool = False
    """A fault that no reader of the resource stumbles over, and that R4's own examples have: told of, but stored."""


MOST_ISSUES = 50


@dataclass(slots=True)
class Walk:
    """One check of one resource: what was found, and the resources that references may lead to."""

    root: Mapping[str, Any]
    issues: list[Issue] = field(default_factory=list)
    resource: Mapping[str, Any] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    """Of the elements of `resource` met so far."""
    contained: Mapping[str, str] = field(default_factory=dict)
    """Id of each resource contained in the root, to its type."""

    def add(self, code: str, place: Place, text: str, *, is_tolerable: bool = False) -> None:
        self.issues.append(Issue(code, expression(place), text, is_tolerable=is_tolerable))

    @property
    def is_full(self) -> bool:
        return len(self.issues) >= MOST_ISSUES


def expression(place: Place) -> str:
    """FHIRPath of a place."""
    steps = []
    while place:
        place, name, index = place
        steps.append(name if index is None else f"{name}[{index}]")
    return ".".join(reversed(steps))
