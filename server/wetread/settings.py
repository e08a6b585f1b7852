"""One typed tree of settings, read once at start: a TOML file, then `WETREAD_*` environment variables over it.

Every key stands in `wetread.example.toml` with its meaning; a test holds the two together. A nested key is
`WETREAD_MLLP__PORT` in the environment, a list or table there is JSON, and an empty variable counts as not set. Only
`app`, `__main__` and `commands` see this tree; rooms get values.
"""

from __future__ import annotations

import codecs
import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from wetread.domain.endpoint import AllowedEndpoints
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

    @field_validator("certificate", "key", "client_ca")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value


class Http(_Section):
    host: str = "127.0.0.1"
    port: Port = 8080
    base_url: str = ""
    """The address that clients see, without a closing slash; empty means http://host:port."""


class Fhir(_Section):
    update_create: bool = True
    """Whether a PUT may create a resource under an id that the client chose."""


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

    @field_validator("default_charset")
    @classmethod
    def _known_charset(cls, value: str) -> str:
        if value:
            try:
                codecs.lookup(value)
            except LookupError as error:
                raise ValueError("not a character set that Python knows, e.g. iso8859-1") from error
        return value


class Dicom(_Section):
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
    ae_title: str = Field(default="", max_length=16)
    url: str = ""
    application: str = ""
    facility: str = ""
    sends: tuple[Literal["sr", "seg", "pr", "alert"], ...] = Field(min_length=1)
    timeout_s: float = Field(default=30, gt=0)

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


class Outbound(_Section):
    allow: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Hosts and networks that notifications may be posted to."""
    destinations: tuple[Destination, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> Outbound:
        names = [destination.name for destination in self.destinations]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two destinations are named {name!r}; deliveries are kept in order by that name")
        return self


class Export(_Section):
    """Bulk exports of the FHIR store."""

    folder: Path | None = None
    """Where their files lie; data_dir/exports where none is given. Every host with the roles http and work sees it."""
    retention_hours: float = Field(default=24, gt=0)
    most_jobs: int = Field(default=4, ge=1)
    file_mb: int = Field(default=64, ge=1, le=1024)
    batch_kb: int = Field(default=4096, ge=64, le=65536)


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
        env_ignore_empty=True,
    )

    profile: Literal["production", "demo"] = "production"
    data_dir: Path = Path("wetread-data")
    database_url: SecretStr | None = None
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
    export: Export = Export()
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
                _require_network(f"{name}.allow", network)
            if not is_loopback(listener.host) and not listener.allow and not (listener.tls and listener.tls.client_ca):
                raise ValueError(
                    f"{name}.host: {listener.host} is beyond loopback; give {name}.allow (networks) "
                    f"or {name}.tls with client_ca (mutual TLS)"
                )
        endpoints = AllowedEndpoints.parse(self.outbound.allow)
        if self.demo:
            self._require_loopback(endpoints)
        return self

    def _require_loopback(self, endpoints: AllowedEndpoints) -> None:
        hosts = [("http.host", self.http.host), ("mllp.host", self.mllp.host), ("dicom.host", self.dicom.host)]
        hosts += [(f"outbound.destinations.{d.name}", d.url or d.host) for d in self.outbound.destinations]
        hosts += [("outbound.allow", host) for host in sorted(endpoints.hosts)]
        outside = [(key, host) for key, host in hosts if not is_loopback(host)]
        outside += [("outbound.allow", str(network)) for network in endpoints.networks if not network.is_loopback]
        for key, host in outside:
            raise ValueError(f"{key}: the demo profile stays on loopback; {host} is refused")


def is_loopback(host: str) -> bool:
    """Whether a host name, address or URL stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = _host_of(host)
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_of(text: str) -> str:
    try:
        return urlsplit(text if "//" in text else f"//{text}").hostname or ""
    except ValueError:
        return ""


def _require_network(key: str, text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{key}: {text!r} is not a network; expected e.g. 10.1.0.0/16 or 10.1.2.3/32") from error


def load(file: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Reads the tree: the command line wins over the environment, the environment over the file.

    Relative paths in the file start at the file's folder, all others at the working directory. Raises Misconfigured
    naming every key that is wrong and what was expected of it.
    """
    given = dict(overrides or {})
    values = {} if file is None else read(file)
    _require_known_variables()
    profile = given.get("profile") or os.environ.get("WETREAD_PROFILE") or values.get("profile")
    if profile == "demo":
        values = _laid_over(_DEMO, values)

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return InitSettingsSource(settings_cls, given), env_settings, InitSettingsSource(settings_cls, values)

    try:
        return Loaded()
    except ValidationError as error:
        raise Misconfigured("; ".join(map(_explained, error.errors()))) from error
    except SettingsError as error:
        raise Misconfigured(f"the environment: {error}; lists and tables are JSON there") from error


def read(file: Path) -> dict[str, Any]:
    """The values of a file as they stand, relative paths made absolute. Raises Misconfigured where it is no TOML."""
    return _anchored(Settings, _parsed(file), file.resolve().parent)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{file}: not TOML: {error}") from error


def _anchored(model: type[BaseModel], values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The values of a file with its relative paths made absolute. What is not as expected is left to validation."""
    done = dict(values)
    for key, value in values.items():
        field = model.model_fields.get(key)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        section = _section(field.annotation) if field else None
        if section is not None and isinstance(value, dict):
            done[key] = _anchored(section, value, folder)
        elif Path in kinds and isinstance(value, str):
            done[key] = folder / value
        elif Path in kinds and isinstance(value, list):
            done[key] = [folder / item if isinstance(item, str) else item for item in value]
    return done


_NOT_SETTINGS = ("WETREAD_TEST_", "WETREAD_SOAK")
"""Variables that steer the test suite."""


def _require_known_variables() -> None:
    """pydantic-settings passes over variables that name no key; a misspelt one would be without effect, unnoticed."""
    for name in os.environ:
        if name.startswith("WETREAD_") and not name.startswith(_NOT_SETTINGS):
            key = name.removeprefix("WETREAD_").split("__")[0].lower()
            if key not in Settings.model_fields:
                raise Misconfigured(f"{name}: no such setting; known: {', '.join(Settings.model_fields)}")


def _explained(error: ErrorDetails) -> str:
    """Key and expectation; never the value, which may be a secret."""
    key = ".".join(str(part) for part in error["loc"])
    expected = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        expected = f"no such setting; known: {', '.join(_fields_at(error['loc'][:-1]))}"
    return f"{key}: {expected}" if key else expected


def _fields_at(place: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in place:
        if isinstance(part, str):
            model = _section(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model in `Tls | None`, `tuple[Destination, ...]` or `Http`."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


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
