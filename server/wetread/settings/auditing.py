"""The audit record: its checkpoints, how long it is kept, and where copies of it go."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from wetread.settings.section import Port, Section
from wetread.settings.sending import PeerTls


class AuditFile(Section):
    folder: Path
    """Gets one file for each day (UTC), a FHIR AuditEvent in each line."""


class Syslog(Section):
    """One audit record repository, that takes DICOM audit messages by syslog over TLS (RFC 5425)."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9-]*$")
    host: str = Field(min_length=1)
    port: Port = 6514
    tls: PeerTls = PeerTls()


class Audit(Section):
    checkpoint_records: int = Field(default=1000, ge=1)
    checkpoint_minutes: float = Field(default=5, gt=0)
    keep_days: int | None = Field(default=None, ge=1)
    """None keeps for ever."""
    archive: Path | None = None
    """Where records are written before they are removed; None for nowhere."""
    file: AuditFile | None = None
    syslog: tuple[Syslog, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Audit:
        names = [repository.name for repository in self.syslog]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two audit record repositories are named {name!r}; each keeps its place by that name")
        if self.archive is not None and self.keep_days is None:
            raise ValueError("archive is without effect where keep_days keeps for ever")
        return self
