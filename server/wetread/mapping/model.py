"""What a map is, once it is loaded and checked (see `maps`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wetread.mapping.paths import Path


@dataclass(frozen=True, slots=True)
class CodeMap:
    """A code table -> another. Case of the source code is ignored; a key that ends in `*` matches a beginning."""

    name: str
    codes: Mapping[str, Any]
    prefixes: tuple[tuple[str, Any], ...] = ()
    otherwise: Any = None

    def get(self, code: str) -> Any:
        """The target, or None where the table has none (`otherwise` is not applied)."""
        key = code.strip().upper()
        if key in self.codes:
            return self.codes[key]
        return next((target for prefix, target in self.prefixes if key.startswith(prefix)), None)

    def __contains__(self, code: str) -> bool:
        """Whether the table names the code, be it with null: known, and nothing to say."""
        return code.strip().upper() in self.codes or self.get(code) is not None


@dataclass(frozen=True, slots=True)
class Rule:
    """How one FHIR element is filled. See docs/mapping.md."""

    first: tuple[Path, ...] = ()
    each: tuple[Path, ...] = ()
    combine: tuple[Path, ...] = ()
    convert: str = "text"
    codes: str | None = None
    value: Any = None
    take: str | None = None
    under: str | None = None
    default: Mapping[str, Any] = field(default_factory=dict)
    if_new: Any = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.first or self.each or self.combine


@dataclass(frozen=True, slots=True)
class Element:
    """A FHIR element by its dotted path; `repeats` where the key ended in `[]`.

    `match`: entries that agree in these keys are the same entry when a stored resource is updated; where it is empty,
    the message's entries replace the stored ones. `once`: later messages do not change it. `unless`: the other element
    of a FHIR choice, before which this one gives way.
    """

    path: tuple[str, ...]
    repeats: bool
    rules: tuple[Rule, ...]
    match: tuple[str, ...] = ()
    once: bool = False
    unless: str | None = None


@dataclass(frozen=True, slots=True)
class ResourceMap:
    resource_type: str
    elements: tuple[Element, ...]
    when: Path | None = None
    """The resource is made only where this path has a value."""


@dataclass(frozen=True)
class Maps:
    resources: Mapping[str, ResourceMap]
    order_facts: Mapping[str, tuple[Path, ...]]
    codes: Mapping[str, CodeMap]
    authorities: Mapping[str, str]
    """Shipped and site's default: HD namespace -> identifier system URI. The caller lays settings over it in Site."""
