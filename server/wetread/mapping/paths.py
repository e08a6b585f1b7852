"""Where a map reads: `PID-3`, `IPC-1.1`, `OBX-5 where OBX-3.1 is MODALITE_IMAGERIE`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from wetread.wire.hl7 import Segment

_POINT = r"([A-Z][A-Z0-9]{2})-([1-9]\d?)(?:\.([1-9]\d?))?(?:\.([1-9]\d?))?"
_PATH = re.compile(rf"{_POINT}(?: where \1-([1-9]\d?)(?:\.([1-9]\d?))? is (\S.*))?")

_NULL = '""'
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""What a FHIR string may not hold (R4 datatypes.html 2.24.0.1)."""


@dataclass(frozen=True, slots=True)
class Datum:
    """One repetition of a field, or one component of it, seen as the data type that stands there.

    `part(n)` is its n-th component, or its n-th subcomponent where the path already names a component.
    """

    segment: Segment
    occurrence: int
    field: int
    repetition: int = 1
    component: int | None = None
    subcomponent: int | None = None

    def part(self, number: int, sub: int = 1) -> str:
        """The unescaped text without outer blanks; empty where absent or explicitly null (`""`)."""
        if self.subcomponent is not None:
            component, subcomponent = (self.component or 1), self.subcomponent if number == sub == 1 else 0
        elif self.component is not None:
            component, subcomponent = self.component, number if sub == 1 else 0
        else:
            component, subcomponent = number, sub
        if subcomponent == 0:
            return ""
        text = self.segment.value(self.field, component, subcomponent, self.repetition)
        text = (text if text.isprintable() else _CONTROL.sub("", text)).strip()
        return "" if text == _NULL else text

    @property
    def text(self) -> str:
        return self.part(1)

    @property
    def location(self) -> str:
        """As HL7 ERR-2 counts: segment, its occurrence, field (HL7 v2.5.1 2.A.28)."""
        return f"{self.segment.name}^{self.occurrence}^{self.field}"


@dataclass(frozen=True, slots=True)
class Context:
    """The segments a map sees: first `own` (those of one order), then, for names not found there, `shared`."""

    own: tuple[Segment, ...]
    shared: tuple[Segment, ...] = ()

    def all(self, name: str) -> tuple[Segment, ...]:
        found = tuple(s for s in self.own if s.name == name)
        return found or tuple(s for s in self.shared if s.name == name)


@dataclass(frozen=True, slots=True)
class Path:
    """A parsed path. `where_*` keep only the segments whose own field has that text."""

    text: str
    segment: str
    field: int
    component: int | None = None
    subcomponent: int | None = None
    where_field: int | None = None
    where_component: int = 1
    where_text: str = ""

    @classmethod
    def parse(cls, text: str) -> Path:
        """Raises ValueError, with what was expected, on anything that is not a path."""
        found = _PATH.fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} is not a path; expected e.g. PID-3, OBR-4.1, OBX-5 where OBX-3.1 is CODE")
        segment, field, component, sub, where_field, where_component, where_text = found.groups()
        return cls(
            text,
            segment,
            int(field),
            int(component) if component else None,
            int(sub) if sub else None,
            int(where_field) if where_field else None,
            int(where_component or 1),
            where_text or "",
        )

    def read(self, context: Context) -> Iterator[Datum]:
        """Every valued repetition, in message order; an explicit null is not a value."""
        for occurrence, segment in self._segments(context):
            for repetition in range(1, segment.repetitions(self.field) + 1):
                if segment.raw(self.field, repetition) not in ("", _NULL):
                    yield Datum(segment, occurrence, self.field, repetition, self.component, self.subcomponent)

    def is_null(self, context: Context) -> bool:
        """Whether the sender asked to delete: the field is `""` (HL7 v2.5.1 2.5.3.3)."""
        return any(segment.is_null(self.field) for _, segment in self._segments(context))

    def _segments(self, context: Context) -> Iterator[tuple[int, Segment]]:
        for occurrence, segment in enumerate(context.all(self.segment), start=1):
            if self.where_field is None or segment.value(self.where_field, self.where_component) == self.where_text:
                yield occurrence, segment
