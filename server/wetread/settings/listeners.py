"""Where Wetread listens, and to whom: HTTP, MLLP, DICOM, their TLS."""

from __future__ import annotations

import codecs
from pathlib import Path

from pydantic import Field, field_validator

from wetread.settings.section import AeTitle, Port, Section


class Tls(Section):
    """Certificate files in PEM. With `client_ca`, only clients with a certificate of that authority are let in."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @field_validator("certificate", "key", "client_ca")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value


class Http(Section):
    host: str = "127.0.0.1"
    port: Port = 8080
    base_url: str = ""
    """The address that clients see, without a closing slash; empty means http://host:port."""


class Mllp(Section):
    host: str = "127.0.0.1"
    port: Port = 2575
    allow: tuple[str, ...] = ()
    """Networks (CIDR) that may connect; empty means loopback only."""
    tls: Tls | None = None
    limit_mb: int = Field(default=50, ge=1)
    default_charset: str = ""
    idle_timeout_s: float = Field(default=3600, gt=0)
    max_connections: int = Field(default=200, ge=1)
    oversize_quota_mb: int = Field(default=64, ge=0)
    """How much of refused oversize messages is kept per sender and day."""

    @field_validator("default_charset")
    @classmethod
    def _known_charset(cls, value: str) -> str:
        if value:
            try:
                codecs.lookup(value)
            except LookupError as error:
                raise ValueError("not a character set that Python knows, e.g. iso8859-1") from error
        return value


class Dicom(Section):
    host: str = "127.0.0.1"
    port: Port = 11112
    ae_title: AeTitle = "WETREAD"
    allow: tuple[str, ...] = ()
    allow_ae_titles: tuple[str, ...] = ()
    tls: Tls | None = None
    max_associations: int = Field(default=64, ge=1)
    """Of each process."""
    processes: int = Field(default=0, ge=0, le=16)
    """How many processes share the port; 0 takes one for each core, at most four."""
