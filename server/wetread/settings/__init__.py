"""One typed tree of settings, read once at start: a TOML file, then `WETREAD_*` environment variables over it.

Every key stands in `wetread.example.toml` with its meaning; a test holds the two together. A nested key is
`WETREAD_MLLP__PORT` in the environment, a list or table there is JSON, and an empty variable counts as not set. Only
`app`, `__main__` and `commands` see this tree; rooms get values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from wetread.settings.access import Access
from wetread.settings.auditing import Audit, AuditFile, Syslog
from wetread.settings.listeners import Dicom, Http, Mllp, Tls
from wetread.settings.loading import load, read
from wetread.settings.reading import Models, Site, Study
from wetread.settings.section import is_loopback
from wetread.settings.sending import Destination, Export, Outbound
from wetread.settings.tree import Fhir, Log, Settings

Role = Literal["http", "mllp", "dicom", "work", "infer", "notify"]
ROLES: tuple[Role, ...] = ("http", "mllp", "dicom", "work", "infer", "notify")

__all__ = [
    "ROLES",
    "Access",
    "Audit",
    "AuditFile",
    "Destination",
    "Dicom",
    "Export",
    "Fhir",
    "Http",
    "Log",
    "Mllp",
    "Models",
    "Outbound",
    "Role",
    "Settings",
    "Site",
    "Study",
    "Syslog",
    "Tls",
    "is_loopback",
    "load",
    "read",
    "share_dir",
]


def share_dir() -> Path:
    """Where `mappings/`, `models/` and `conformance/` lie: in the installed package, or at the root of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "share"
    return installed if installed.exists() else package.parents[1]
