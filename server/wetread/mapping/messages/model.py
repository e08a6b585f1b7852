"""What a map from a resource to a message is, once it is loaded and checked (see `load`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wetread.record import fhirpath


@dataclass(frozen=True, slots=True)
class Expression:
    """FHIRPath on what `variable` names: `focus`, a related resource, or, where it is empty, what is in hand."""

    text: str
    variable: str
    path: fhirpath.Path | None
    """None for the resources themselves."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One source of a field. `take` names what the message itself knows; `codes` translates, `otherwise` where it has
    no such code."""

    sources: tuple[Expression, ...] = ()
    value: str = ""
    take: str = ""
    convert: str = "text"
    codes: Mapping[str, str] | None = None
    otherwise: str = ""
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class FieldMap:
    """Field `number`, or its component where that is not 0. The first rule that gives a value fills it."""

    number: int
    component: int
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class SegmentMap:
    """One segment, or one for each item of `each`; left out where it would hold nothing that the resources say."""

    name: str
    fields: tuple[FieldMap, ...]
    each: Expression | None = None
    when: Expression | None = None


@dataclass(frozen=True, slots=True)
class GroupMap:
    """Segments that are repeated together, for each item of `each`."""

    each: Expression
    parts: tuple[SegmentMap | GroupMap, ...]


@dataclass(frozen=True, slots=True)
class Related:
    """Resources of one type that are read along, under a name. `references` gives References."""

    name: str
    resource_type: str
    references: Expression


@dataclass(frozen=True, slots=True)
class MessageMap:
    """`message` is MSH-9, such as `("ORU", "R01", "ORU_R01")`. `related` stand in the order in which they are read."""

    resource_type: str
    message: tuple[str, str, str]
    related: tuple[Related, ...]
    parts: tuple[SegmentMap | GroupMap, ...]
