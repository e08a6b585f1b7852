"""The site, its studies and its models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from wetread.settings.section import Section


class Site(Section):
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


class Study(Section):
    quiet_s: float = Field(default=60, gt=0)
    deadline_s: float = Field(default=3600, gt=0)
    propose_window_days: int = Field(default=3, ge=0)
    match_on_patient: bool = False
    """Lets patient and time window make a match, not only propose one."""


class Models(Section):
    folders: tuple[Path, ...] = ()
    """Folders of model packages beside the shipped ones."""
    shipped: bool = True
    default_phase: Literal["silent", "concurrent", "active"] = "silent"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=0, ge=0)
    """Threads of one inference; 0 takes one per core."""
    spacing_mm: Mapping[str, float] = Field(default_factory=dict)
    """A coarser grid by model name, for models that offer one."""
