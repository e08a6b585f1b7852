"""The whole tree, and what its sections must be together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import Unsupported
from wetread.settings.access import Access
from wetread.settings.auditing import Audit
from wetread.settings.listeners import Dicom, Http, Mllp
from wetread.settings.reading import Models, Site, Study
from wetread.settings.section import Section, is_loopback, require_network, with_secret_files
from wetread.settings.sending import Export, Outbound, Subscriptions


class Fhir(Section):
    update_create: bool = True
    """Whether a PUT may create a resource under an id that the client chose."""


class Log(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"


class Settings(BaseSettings):
    """The whole tree. `load` is the way in."""

    model_config = SettingsConfigDict(
        env_prefix="WETREAD_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
        env_ignore_empty=True,
    )

    profile: Literal["production", "demo"] = "production"
    data_dir: Path = Path("wetread-data")
    database_url: SecretStr | None = None
    database_url_file: Path | None = None
    """A file that holds database_url and nothing else, for secrets that are mounted as files."""
    overlay_dir: Path | None = None
    """The site's own `mappings/` files, laid over the shipped ones."""
    http: Http = Http()
    fhir: Fhir = Fhir()
    mllp: Mllp = Mllp()
    dicom: Dicom = Dicom()
    site: Site = Site()
    study: Study = Study()
    models: Models = Models()
    outbound: Outbound = Outbound()
    subscriptions: Subscriptions = Subscriptions()
    export: Export = Export()
    access: Access = Access()
    audit: Audit = Audit()
    log: Log = Log()

    @property
    def base_url(self) -> str:
        host = f"[{self.http.host}]" if ":" in self.http.host else self.http.host
        return self.http.base_url or f"{'https' if self.http.tls else 'http'}://{host}:{self.http.port}"

    @property
    def fhir_base(self) -> str:
        return f"{self.base_url}/fhir"

    @property
    def fhir_bases(self) -> tuple[str, ...]:
        """All that the record was ever reached by; the first is what it is called now."""
        return (self.fhir_base, *(f"{url.rstrip('/')}/fhir" for url in self.http.former_base_urls))

    @property
    def demo(self) -> bool:
        return self.profile == "demo"

    @model_validator(mode="before")
    @classmethod
    def _secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        return with_secret_files(cls, values)

    @field_validator("overlay_dir")
    @classmethod
    def _is_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError(f"there is no folder {value}")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("expected postgresql://user:password@host:port/name")
        return value

    @model_validator(mode="after")
    def _safe(self) -> Settings:
        for name, listener in (("mllp", self.mllp), ("dicom", self.dicom)):
            for network in listener.allow:
                require_network(f"{name}.allow", network)
            if not is_loopback(listener.host) and not listener.allow and not (listener.tls and listener.tls.is_mutual):
                raise ValueError(
                    f"{name}.host: {listener.host} is beyond loopback; give {name}.allow (networks) "
                    f"or {name}.tls with client_ca (mutual TLS)"
                )
        for key, networks in (("allow", self.http.allow), ("trusted_proxies", self.http.trusted_proxies)):
            for network in networks:
                require_network(f"http.{key}", network)
        endpoints = AllowedEndpoints.parse(self.outbound.allow)
        for provider in self.access.providers:
            try:
                endpoints.check(provider.issuer)
            except Unsupported as error:
                raise ValueError(f"access.providers.{provider.name}.issuer: {error.message}") from error
        if self.demo:
            self._require_loopback(endpoints)
        http = self.http
        if not (is_loopback(http.host) or http.tls or http.trusted_proxies or http.allow):
            raise ValueError(
                f"http.host: {http.host} is beyond loopback, where plain HTTP shows tokens and patients to whoever "
                "listens; give http.tls, or http.trusted_proxies (the proxy that speaks TLS), or http.allow (networks)"
            )
        return self

    def _require_loopback(self, endpoints: AllowedEndpoints) -> None:
        hosts = [("http.host", self.http.host), ("mllp.host", self.mllp.host), ("dicom.host", self.dicom.host)]
        hosts += [(f"outbound.destinations.{d.name}", d.url or d.host) for d in self.outbound.destinations]
        hosts += [("outbound.allow", host) for host in sorted(endpoints.hosts)]
        hosts += [("outbound.mail.host", mail.host)] if (mail := self.outbound.mail) else []
        hosts += [("outbound.nats.servers", url) for url in nats.servers] if (nats := self.outbound.nats) else []
        outside = [(key, host) for key, host in hosts if not is_loopback(host)]
        outside += [("outbound.allow", str(network)) for network in endpoints.networks if not network.is_loopback]
        for key, host in outside:
            raise ValueError(f"{key}: the demo profile stays on loopback; {host} is refused")
