"""From a TOML file, the environment and the command line to the tree; errors that name the key, never the value."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsError

from wetread.errors import Misconfigured
from wetread.settings.tree import Settings


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
        loaded = Loaded()
    except ValidationError as error:
        raise Misconfigured("; ".join(map(_explained, error.errors()))) from error
    except SettingsError as error:
        raise Misconfigured(f"the environment: {error}; lists and tables are JSON there") from error
    # Of a class that has a name, so that another process can be given it.
    return Settings.model_construct(loaded.model_fields_set, **dict(loaded))


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
        elif section is not None and isinstance(value, list):
            done[key] = [_anchored(section, item, folder) if isinstance(item, dict) else item for item in value]
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
