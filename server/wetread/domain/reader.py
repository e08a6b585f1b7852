"""The Reader: what a credential became. Every read of record, archive and outbound takes one and limits its own SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from wetread.errors import Forbidden, InvalidInput

_SCOPE = re.compile(r"(patient|user|system)/(\*|[A-Z][A-Za-z]+)\.(c?r?u?d?s?)(?:\?(.+))?$")
_V1 = {"read": "rs", "write": "cud", "*": "cruds"}


@dataclass(frozen=True, slots=True)
class Scope:
    """One SMART App Launch 2.2 scope: level, resource type (`*` for all), the letters of cruds, and the search
    parameters that what it opens must match (SMART App Launch 2.2 scopes-and-launch-context.html)."""

    level: str
    resource_type: str
    letters: frozenset[str]
    constraint: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Raises InvalidInput on anything but `level/Type.cruds?parameter=value` (or the v1 words read, write, *)."""
        name, mark, query = text.partition("?")
        head, _, tail = name.rpartition(".")
        normal = f"{head}.{_V1[tail]}" if tail in _V1 and not mark else name
        found = _SCOPE.fullmatch(normal + mark + query)
        if not found or not found.group(3):
            raise InvalidInput(f"not a SMART scope: {text!r}; expected e.g. system/Observation.rs")
        try:
            constraint = tuple(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if mark else ()
        except ValueError:
            raise InvalidInput(f"not a SMART scope: {text!r}; its constraint is not `parameter=value`") from None
        if any(not key or not value for key, value in constraint):
            raise InvalidInput(f"not a SMART scope: {text!r}; its constraint lacks a parameter or a value")
        return cls(found.group(1), found.group(2), frozenset(found.group(3)), constraint)

    def __str__(self) -> str:
        letters = "".join(letter for letter in "cruds" if letter in self.letters)
        query = f"?{urlencode(self.constraint, safe='|/:,')}" if self.constraint else ""
        return f"{self.level}/{self.resource_type}.{letters}{query}"

    def opens(self, letter: str, resource_type: str) -> bool:
        return letter in self.letters and self.resource_type in ("*", resource_type)


@dataclass(frozen=True, slots=True)
class Reader:
    """A principal and what it may do. `roles` opens the doors that are not FHIR: staff pages, governance, DICOM."""

    principal: str
    scopes: tuple[Scope, ...] = ()
    roles: frozenset[str] = field(default_factory=frozenset)
    patient_id: str | None = None
    """The FHIR id of the one patient whose compartment `patient/` scopes open; None where there is none."""
    token_id: str | None = None
    client_id: str | None = None
    """The client that the token was given to, where the principal is a person."""
    grant_id: str | None = None
    """What a person has given to the client, and the token falls with."""

    def opening(self, letter: str, resource_type: str) -> tuple[Scope, ...]:
        """The scopes that allow interaction `letter` (one of c r u d s) on some part of the type."""
        return tuple(
            s for s in self.scopes if s.opens(letter, resource_type) and (s.level != "patient" or self.patient_id)
        )

    def may(self, letter: str, resource_type: str) -> bool:
        """Whether any scope allows the interaction on every resource of the type: no one patient's, no constraint."""
        return any(s.level != "patient" and not s.constraint for s in self.opening(letter, resource_type))

    def require(self, letter: str, resource_type: str) -> None:
        """Raises Forbidden where `may` says no."""
        if not self.may(letter, resource_type):
            raise Forbidden(f"the token's scopes do not allow {letter!r} on {resource_type}")

    def may_some(self, letter: str, resource_type: str) -> bool:
        """Whether the interaction is allowed on some part of the type. For those only who then limit their own SQL to
        that part (`record.compartment.visible`)."""
        return bool(self.opening(letter, resource_type))

    def require_some(self, letter: str, resource_type: str) -> None:
        """Raises Forbidden where `may_some` says no."""
        if not self.may_some(letter, resource_type):
            raise Forbidden(f"the token's scopes do not allow {letter!r} on {resource_type}")


SYSTEM = Reader("system", (Scope("system", "*", frozenset("cruds")),), frozenset({"system"}))
"""Wetread itself, at work on what it has accepted."""
