"""The installed models, and what runs them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from wetread.errors import Misconfigured
from wetread.reading.infer import Infer
from wetread.reading.models import ModelPackage, load_packages, with_spacing
from wetread.reading.runtime import Runtime
from wetread.settings import Settings, share_dir
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database
from wetread.work.jobs import Work


def model_packages(settings: Settings) -> dict[str, ModelPackage]:
    """Every installed model, on the grid that the site chose. Raises Misconfigured."""
    folders = ([share_dir() / "models"] if settings.models.shipped else []) + list(settings.models.folders)
    packages = load_packages(*folders)
    for name, spacing_mm in settings.models.spacing_mm.items():
        if name not in packages:
            known = ", ".join(sorted(packages))
            raise Misconfigured(f"models.spacing_mm.{name}: no model has this name; known: {known}")
        packages[name] = with_spacing(packages[name], spacing_mm)
    return packages


def infer(
    settings: Settings, database: Database, work: Work, blobs: LocalBlobs, packages: Mapping[str, ModelPackage]
) -> Infer:
    threads = settings.models.threads or os.cpu_count() or 1
    return Infer(database, work, blobs, packages, Runtime(settings.models.device, threads), settings.demo)
