"""How urgent an order is, and how sick a study is."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """FHIR R4 request-priority, ordered: a higher value goes first."""

    ROUTINE = 0
    URGENT = 1
    ASAP = 2
    STAT = 3

    @property
    def code(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, code: str) -> Priority:
        """The priority of a FHIR code; an unknown or missing one is routine."""
        return cls[code.upper()] if code.upper() in cls.__members__ else cls.ROUTINE
