"""The phase of a model at this site, and what each phase lets out."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """SILENT: read, compared, shown nowhere. CONCURRENT: shown, but moves nobody. ACTIVE: may alert and reorder."""

    SILENT = "silent"
    CONCURRENT = "concurrent"
    ACTIVE = "active"

    def or_stricter(self, other: Phase) -> Phase:
        """The one of the two that lets out less."""
        return min(self, other, key=list(Phase).index)

    @property
    def is_released(self) -> bool:
        """FHIR versions, DICOM objects, events and notifications may be written."""
        return self is not Phase.SILENT

    @property
    def may_alert(self) -> bool:
        """Critical flags, ORU alerts and worklist order may follow from the result."""
        return self is Phase.ACTIVE
