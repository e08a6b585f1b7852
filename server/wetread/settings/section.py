"""What every section of the settings is made of."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

Port = Annotated[int, Field(ge=0, le=65535)]
MinimumVersion = Literal["1.3", "1.2"]
"""Of TLS."""
AeTitle = Annotated[str, Field(min_length=1, max_length=16)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _secrets(cls, values: Any) -> Any:
        return with_secret_files(cls, values) if isinstance(values, dict) else values


def with_secret_files(model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """A key `x_file` beside a key `x` names a file with the value of `x`, less the newline at its end. `x` itself wins.

    Raises ValueError where the file cannot be read; the text never holds what is in it.
    """
    found = dict(values)
    for name in model.model_fields:
        file = values.get(f"{name}_file") if f"{name}_file" in model.model_fields else None
        if not file or values.get(name):
            continue
        try:
            found[name] = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{name}_file: {file} cannot be read") from error
        if not found[name]:
            raise ValueError(f"{name}_file: {file} is empty")
    return found


def is_loopback(host: str) -> bool:
    """Whether a host name, address or URL stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host_of(host)
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_of(text: str) -> str:
    try:
        return urlsplit(text if "//" in text else f"//{text}").hostname or ""
    except ValueError:
        return ""


def require_network(key: str, text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{key}: {text!r} is not a network; expected e.g. 10.1.0.0/16 or 10.1.2.3/32") from error


def require_file(value: Path | None) -> Path | None:
    if value is not None and not value.is_file():
        raise ValueError(f"there is no file {value}")
    return value
