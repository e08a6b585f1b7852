"""What leaves: destinations, notifications, exports."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from wetread.settings.section import MinimumVersion, Port, Section, is_loopback, require_file

_LEAST_KEY_BYTES = 24
"""Standard Webhooks 1.0: 24 to 64 bytes."""


class PeerTls(Section):
    """TLS towards one peer; certificate files in PEM."""

    authority: Path | None = None
    """Who vouches for the peer; the system's authorities where none is given."""
    certificate: Path | None = None
    key: Path | None = None
    minimum_version: MinimumVersion = "1.3"

    @field_validator("authority", "certificate", "key")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        return require_file(value)

    @model_validator(mode="after")
    def _pair(self) -> PeerTls:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class Destination(Section):
    """Where results go. `kind` says how: C-STORE, STOW-RS, or HL7v2 over MLLP."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9-]*$")
    kind: Literal["dicom", "stow", "mllp"]
    host: str = ""
    port: Port = 0
    ae_title: str = Field(default="", max_length=16)
    url: str = ""
    application: str = ""
    facility: str = ""
    sends: tuple[Literal["sr", "seg", "pr", "alert"], ...] = Field(min_length=1)
    timeout_s: float = Field(default=30, gt=0)
    tls: PeerTls | None = None
    """Without it MLLP and DICOM go in the clear; an https URL is TLS in any case."""

    @model_validator(mode="after")
    def _whole(self) -> Destination:
        needed = {"dicom": ("host", "port", "ae_title"), "stow": ("url",), "mllp": ("host", "port")}[self.kind]
        for key in needed:
            if not getattr(self, key):
                raise ValueError(f"a destination of kind {self.kind!r} needs {key!r}")
        takes = {"alert"} if self.kind == "mllp" else {"sr", "seg", "pr"}
        if not takes.issuperset(self.sends):
            raise ValueError(f"a destination of kind {self.kind!r} sends {', '.join(sorted(takes))} only")
        return self


class Endpoint(Section):
    """What holds for notifications to addresses that begin so."""

    url: str
    hmac_secret: SecretStr | None = None
    """Signs each body (Standard Webhooks); `whsec_` and base64, or text."""
    hmac_secret_file: Path | None = None
    tls: PeerTls | None = None

    @field_validator("url")
    @classmethod
    def _is_prefix(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("https", "http", "mllps") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{value!r}: expected e.g. https://ehr.example/hooks or mllps://engine.example:2575")
        return value

    @model_validator(mode="after")
    def _is_of_use(self) -> Endpoint:
        secret = self.hmac_secret.get_secret_value() if self.hmac_secret is not None else ""
        if secret and self.url.startswith("mllps:"):
            raise ValueError("hmac_secret: HL7v2 messages are not signed; use tls")
        if secret and len(_key(secret)) < _LEAST_KEY_BYTES:
            raise ValueError(f"hmac_secret: a key has at least {_LEAST_KEY_BYTES} bytes")
        if self.tls is not None and self.url.startswith("http:"):
            raise ValueError("tls: the url must begin with https: or mllps:")
        return self

    @property
    def key(self) -> bytes:
        """Of the signature; empty where nothing is signed."""
        return _key(self.hmac_secret.get_secret_value()) if self.hmac_secret is not None else b""


def _key(secret: str) -> bytes:
    """Standard Webhooks 1.0 writes a key as `whsec_` and base64. Raises ValueError."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ValueError("hmac_secret: what follows whsec_ is not base64") from error


class Mail(Section):
    """The relay that notifications by mail are handed to."""

    host: str = Field(min_length=1)
    port: Port = 587
    sender: str = Field(pattern=r"^[^@\s<>]+@[^@\s<>]+$")
    """The address that mail comes from."""
    recipients: tuple[str, ...] = Field(min_length=1)
    """Domains and addresses that mail may go to."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    authority: Path | None = None
    username: str = ""
    password: SecretStr = SecretStr("")
    password_file: Path | None = None

    @field_validator("authority")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        return require_file(value)

    @model_validator(mode="after")
    def _is_kept(self) -> Mail:
        if self.username and self.security == "none" and not is_loopback(self.host):
            raise ValueError("username: a password does not go over the network without TLS; set security")
        return self


class Nats(Section):
    """The JetStream broker that notifications are published to."""

    servers: tuple[str, ...] = Field(min_length=1)
    subjects: tuple[str, ...] = Field(min_length=1)
    """What may be published to; `*` stands for a token, `>` at the end for all that follow."""
    credentials: Path | None = None
    """The account's file (JWT and NKey)."""
    tls: PeerTls | None = None

    @field_validator("credentials")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        return require_file(value)

    @model_validator(mode="after")
    def _can_be_meant(self) -> Nats:
        for server in self.servers:
            parts = urlsplit(server)
            if parts.scheme not in ("nats", "tls") or not parts.hostname or parts.username is not None:
                raise ValueError(f"servers: {parts.hostname or server!r}: expected nats://host:4222 or tls://host:4222")
            if parts.scheme == "nats" and self.tls is None and not is_loopback(parts.hostname):
                raise ValueError(f"servers: {parts.hostname} is beyond loopback; write tls://")
        return self


class Outbound(Section):
    allow: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Hosts and networks that notifications may be posted to."""
    endpoints: tuple[Endpoint, ...] = ()
    plain: bool = True
    """Whether notifications may go to them without TLS (http, mllp) beyond this machine."""
    authority: Path | None = None
    """Who else vouches for hosts that are called by https, beside the public authorities."""
    minimum_version: MinimumVersion = "1.3"
    """Of TLS to hosts that are called by https."""
    destinations: tuple[Destination, ...] = ()
    mail: Mail | None = None
    nats: Nats | None = None

    @model_validator(mode="after")
    def _unique(self) -> Outbound:
        urls = [endpoint.url for endpoint in self.endpoints]
        for url in urls:
            if urls.count(url) > 1:
                raise ValueError(f"endpoints: {url} stands there twice")
        names = [destination.name for destination in self.destinations]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two destinations are named {name!r}; deliveries are kept in order by that name")
        return self


class Subscriptions(Section):
    """How long notifications are tried, and how many endpoints are served at once."""

    retry_for_hours: float = Field(default=24, gt=0, le=24 * 30)
    """So long an endpoint that does not answer is tried; then its subscription is in error."""
    refused_for_minutes: float = Field(default=10, gt=0, le=60 * 24)
    """So long one that refuses, as with 401 or 404, is tried."""
    keep_days: float = Field(default=30, gt=0)
    """So long the events of a subscription can be delivered, and be asked for by $events."""
    concurrency: int = Field(default=32, ge=1, le=1000)
    most_sockets: int = Field(default=10_000, ge=1)
    """Websockets that each process holds."""
    sockets_per_client: int = Field(default=1000, ge=1)


class Export(Section):
    """Bulk exports of the FHIR store."""

    folder: Path | None = None
    """Where their files lie; data_dir/exports where none is given. Every host with the roles http and work sees it."""
    retention_hours: float = Field(default=24, gt=0)
    most_jobs: int = Field(default=4, ge=1)
    file_mb: int = Field(default=64, ge=1, le=1024)
    batch_kb: int = Field(default=4096, ge=64, le=65536)
