"""The Reader: what a credential became. Every read of record, archive and outbound takes one and limits its own SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from wetread.errors import Forbidden, InvalidInput

_SCOPE = re.compile(r"(patient|user|system)/(\*|[A-Z][A-Za-z]+)\.(c?r?u?d?s?)$")
_V1 = {"read": "rs", "write": "cud", "*": "cruds"}


@dataclass(frozen=True, slots=True)
class Scope:
    """One SMART App Launch 2.2 scope: level, resource type (`*` for all) and the letters of cruds."""

    level: str
    resource_type: str
    letters: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Raises InvalidInput on anything but `level/Type.cruds` (or the v1 words read, write, *)."""
        head, _, tail = text.rpartition(".")
        normal = f"{head}.{_V1[tail]}" if tail in _V1 else text
        found = _SCOPE.match(normal)
        if not found or not found.group(3):
            raise InvalidInput(f"not a SMART scope: {text!r}; expected e.g. system/Observation.rs")
        return cls(found.group(1), found.group(2), frozenset(found.group(3)))


@dataclass(frozen=True, slots=True)
class Reader:
    """A principal and what it may do. `roles` opens the doors that are not FHIR: staff pages, governance, DICOM."""

    principal: str
    scopes: tuple[Scope, ...] = ()
    roles: frozenset[str] = field(default_factory=frozenset)
    patient_id: str | None = None
    """The FHIR id of the one patient whose compartment `patient/` scopes open; None where there is none."""
    token_id: str | None = None

    def may(self, letter: str, resource_type: str) -> bool:
        """Whether any scope allows interaction `letter` (one of c r u d s) on the type, patient scopes apart."""
        return any(
            letter in s.letters and s.resource_type in ("*", resource_type) and s.level in ("system", "user")
            for s in self.scopes
        )

    def require(self, letter: str, resource_type: str) -> None:
        """Raises Forbidden where `may` says no."""
        if not self.may(letter, resource_type):
            raise Forbidden(f"the token's scopes do not allow {letter!r} on {resource_type}")


SYSTEM = Reader("system", (Scope("system", "*", frozenset("cruds")),), frozenset({"system"}))
"""Wetread itself, at work on what it has accepted."""
