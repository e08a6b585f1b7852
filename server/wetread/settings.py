"""One typed tree of settings, read once at start: a TOML file, then `WETREAD_*` environment variables over it.

Every key stands in `wetread.example.toml` with its meaning; a test holds the two together. A nested key is
`WETREAD_MLLP__PORT` in the environment. Only `app` and `__main__` see this tree; rooms get values.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from wetread.errors import Misconfigured

Role = Literal["http", "mllp", "dicom", "work", "infer", "notify"]
ROLES: tuple[Role, ...] = ("http", "mllp", "dicom", "work", "infer", "notify")
Port = Annotated[int, Field(ge=0, le=65535)]
AeTitle = Annotated[str, Field(min_length=1, max_length=16)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Section):
    """Certificate files in PEM. With `client_ca`, only clients with a certificate of that authority are let in."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Http(_Section):
    host: str = "127.0.0.1"
    port: Port = 8080
    base_url: str = ""
    """The address that clients see, without a closing slash; empty means http://host:port."""


class Mllp(_Section):
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


class Dicom(_Section):
    host: str = "127.0.0.1"
    port: Port = 11112
    ae_title: AeTitle = "WETREAD"
    allow: tuple[str, ...] = ()
    allow_ae_titles: tuple[str, ...] = ()
    tls: Tls | None = None
    max_associations: int = Field(default=64, ge=1)


class Site(_Section):
    name: str = "Wetread site"
    application: str = "WETREAD"
    facility: str = "WETREAD"
    """MSH-3 and MSH-4 of what we send."""
    time_zone: str = "UTC"
    default_authority: str = ""
    """Identifier system (URI) of patient identifiers that come without an assigning authority; empty refuses them."""
    authorities: Mapping[str, str] = Field(default_factory=dict)
    processing_id: Literal["P", "T", "D"] = "P"

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError) as error:
            raise ValueError("not a time zone of the IANA database, e.g. Europe/Berlin") from error
        return value


class Study(_Section):
    quiet_s: float = Field(default=60, gt=0)
    deadline_s: float = Field(default=3600, gt=0)
    propose_window_days: int = Field(default=3, ge=0)
    match_on_patient: bool = False
    """Lets patient and time window make a match, not only propose one."""


class Models(_Section):
    folders: tuple[Path, ...] = ()
    """Folders of model packages beside the shipped ones."""
    shipped: bool = True
    default_phase: Literal["silent", "concurrent", "active"] = "silent"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=0, ge=0)
    """Threads of one inference; 0 takes one per core."""
    spacing_mm: Mapping[str, float] = Field(default_factory=dict)
    """A coarser grid by model name, for models that offer one."""


class Destination(_Section):
    """Where results go. `kind` says how: C-STORE, STOW-RS, or HL7v2 over MLLP."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9-]*$")
    kind: Literal["dicom", "stow", "mllp"]
    host: str = ""
    port: Port = 0
    ae_title: str = ""
    url: str = ""
    application: str = ""
    facility: str = ""
    sends: tuple[Literal["sr", "seg", "pr", "alert"], ...]
    timeout_s: float = Field(default=30, gt=0)

    @model_validator(mode="after")
    def _whole(self) -> Destination:
        needed = {"dicom": ("host", "port", "ae_title"), "stow": ("url",), "mllp": ("host", "port")}[self.kind]
        for key in needed:
            if not getattr(self, key):
                raise ValueError(f"a destination of kind {self.kind!r} needs {key!r}")
        return self


class Outbound(_Section):
    allow: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Hosts and networks that notifications may be posted to."""
    destinations: tuple[Destination, ...] = ()


class Log(_Section):
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
    )

    profile: Literal["production", "demo"] = "production"
    data_dir: Path = Path("wetread-data")
    database_url: SecretStr | None = None
    overlay_dir: Path | None = None
    """The site's own `mappings/` files, laid over the shipped ones."""
    http: Http = Http()
    mllp: Mllp = Mllp()
    dicom: Dicom = Dicom()
    site: Site = Site()
    study: Study = Study()
    models: Models = Models()
    outbound: Outbound = Outbound()
    log: Log = Log()

    @property
    def base_url(self) -> str:
        return self.http.base_url or f"http://{self.http.host}:{self.http.port}"

    @property
    def fhir_base(self) -> str:
        return f"{self.base_url}/fhir"

    @property
    def demo(self) -> bool:
        return self.profile == "demo"

    @model_validator(mode="after")
    def _safe(self) -> Settings:
        for name, listener in (("mllp", self.mllp), ("dicom", self.dicom)):
            if not is_loopback(listener.host) and not listener.allow and not (listener.tls and listener.tls.client_ca):
                raise ValueError(
                    f"{name}.host: {listener.host} is beyond loopback; give {name}.allow (networks) "
                    f"or {name}.tls with client_ca (mutual TLS)"
                )
            for network in listener.allow:
                ipaddress.ip_network(network)
        if self.demo:
            hosts = {"http.host": self.http.host, "mllp.host": self.mllp.host, "dicom.host": self.dicom.host}
            hosts |= {f"outbound.destinations.{d.name}": d.host or d.url for d in self.outbound.destinations}
            for key, host in hosts.items():
                if not is_loopback(host):
                    raise ValueError(f"{key}: the demo profile stays on loopback; {host} is refused")
        return self


def is_loopback(host: str) -> bool:
    """Whether a host name, address or URL stays on this machine."""
    name = host.split("//", 1)[-1].split("/", 1)[0]
    name = (
        name[1 : name.index("]")] if name.startswith("[") else name.rsplit(":", 1)[0] if name.count(":") == 1 else name
    )
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def load(file: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Reads the tree. Raises Misconfigured naming the key and what was expected."""
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text())
        except OSError as error:
            raise Misconfigured(f"{file}: cannot be read: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise Misconfigured(f"{file}: not TOML: {error}") from error
    profile = {**values, **(overrides or {})}.get("profile")
    if profile == "demo":
        values = _laid_over(_DEMO, values)

    class Loaded(Settings):
        """The command line wins over the environment, and the environment over the file."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return InitSettingsSource(settings_cls, dict(overrides or {})), env_settings, init_settings

    try:
        return Loaded(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        expected = first["msg"].removeprefix("Value error, ")
        raise Misconfigured(f"{key}: {expected}" if key else expected) from error


_DEMO: Mapping[str, Any] = {
    "study": {"quiet_s": 2.0},
    "models": {"default_phase": "active", "spacing_mm": {"brain-extract-mindgrab": 1.5}},
    "site": {"name": "Demo Hospital", "facility": "DEMO", "processing_id": "T"},
}


def _laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = _laid_over(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def share_dir() -> Path:
    """Where `mappings/`, `models/` and `conformance/` lie: in the installed package, or at the root of a checkout."""
    package = Path(__file__).parent
    installed = package / "share"
    return installed if installed.exists() else package.parents[1]
