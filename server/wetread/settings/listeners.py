"""Where Wetread listens, and to whom: HTTP, MLLP, DICOM, their TLS."""

from __future__ import annotations

import codecs
from pathlib import Path

from pydantic import Field, field_validator

from wetread.settings.section import AeTitle, MinimumVersion, Port, Section, require_file


class Tls(Section):
    """Certificate files in PEM. With `client_ca`, only clients with a certificate of that authority are let in, unless
    `require_client_certificate` is off."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    require_client_certificate: bool = True
    minimum_version: MinimumVersion = "1.3"

    @property
    def is_mutual(self) -> bool:
        return self.client_ca is not None and self.require_client_certificate

    @field_validator("certificate", "key", "client_ca")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        return require_file(value)


class Limits(Section):
    """How much one client or one address may ask of each process; 0 sets no limit."""

    client_per_minute: int = Field(default=120_000, ge=0)
    anonymous_per_minute: int = Field(default=600, ge=0)
    refused_per_minute: int = Field(default=60, ge=0)
    guesses_per_minute: int = Field(default=30, ge=0)
    guesses_per_name: int = Field(default=10, ge=0)


class Http(Section):
    host: str = "127.0.0.1"
    port: Port = 8080
    base_url: str = ""
    """The address that clients see, without a closing slash; empty means http://host:port, or https with tls."""
    former_base_urls: tuple[str, ...] = ()
    """What `base_url` was before: references that begin so still lead here. After a change: `wetread db reindex`."""
    allow: tuple[str, ...] = ()
    """Networks (CIDR) that may ask; empty means any."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose word counts for whom they ask (X-Forwarded-For, Forwarded)."""
    tls: Tls | None = None
    max_connections: int = Field(default=1000, ge=1)
    limits: Limits = Limits()


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
