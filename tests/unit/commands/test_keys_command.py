"""`wetread keys rotate`, beside a running server."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.read_studies import audited
from typer.testing import CliRunner

from wetread.access.oauth.signing_keys import FILE_NAME, SigningKeys
from wetread.commands.tree import cli
from wetread.store.database import Database


async def test_the_new_key_signs_at_once_and_its_making_is_audited(database: Database, tmp_path: Path) -> None:
    config, data = tmp_path / "wetread.toml", tmp_path / "data"
    data.mkdir()
    config.write_text(f'database_url = "{database.url}"\n', encoding="utf-8")
    serving = SigningKeys(data / FILE_NAME)
    before = serving.current().kid
    command = ["keys", "rotate", "--config", str(config), "--data-dir", str(data)]
    result = await asyncio.to_thread(CliRunner().invoke, cli, command)
    assert result.exit_code == 0, result.output
    assert [key["kid"] for key in serving.jwks()["keys"]] == [result.stdout.strip(), before]
    assert ("configuration-changed", "0") in [row[:2] for row in await audited(database)]
