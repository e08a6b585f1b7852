"""The authorization server, on a database for each file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.smart_apps import Site, smart_site

from wetread.store.database import Database


@pytest.fixture(scope="session")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys are made once: an RSA key takes its time."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
async def site(module_database: Database, key_folder: Path) -> AsyncIterator[Site]:
    async with smart_site(module_database, key_folder) as built:
        yield built


@pytest.fixture
def database(module_database: Database) -> Database:
    return module_database
