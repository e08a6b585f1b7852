"""`wetread audit`, on a record beside a running server."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from wetread import app as composition
from wetread.commands.tree import cli
from wetread.errors import InvalidInput
from wetread.record.audit import audit, chain
from wetread.record.audit.audit import AuditEntry
from wetread.record.audit.checkpoints import sign_due
from wetread.settings import load
from wetread.store.database import Database


@pytest.fixture
async def folder(database: Database, tmp_path: Path) -> Path:
    """Settings and keys of a server with three chained records and a checkpoint."""
    (tmp_path / "wetread.toml").write_text(f'database_url = "{database.url}"\n', encoding="utf-8")
    (tmp_path / "data").mkdir()
    keys = composition.audit_keys(load(None, {"data_dir": tmp_path / "data"}))
    async with database.transaction() as conn:
        await audit.write_many(conn, [AuditEntry("read", "R", "0", f"r{n}") for n in range(3)])
    async with database.transaction() as conn:
        await chain.extend(conn)
        await sign_due(conn, keys, records=1, after=timedelta(0))
    return tmp_path


async def wetread(folder: Path, *arguments: str) -> Result:
    where = ["--config", str(folder / "wetread.toml"), "--data-dir", str(folder / "data")]
    return await asyncio.to_thread(CliRunner().invoke, cli, ["audit", *arguments, *where])


async def test_a_whole_record_verifies_also_against_checkpoints_kept_elsewhere(folder: Path) -> None:
    kept = folder / "checkpoints.ndjson"
    assert (await wetread(folder, "checkpoints", "--output", str(kept))).exit_code == 0
    assert [json.loads(line)["seq"] for line in kept.read_text().splitlines()] == [3]
    found = await wetread(folder, "verify", "--against", str(kept))
    assert found.exit_code == 0, found.output
    assert "3 records chained, 1 not chained yet, 0 removed by policy, 1 checkpoints" in found.output
    assert f"the chain is whole and agrees with 1 checkpoints of {kept}" in found.output
    assert (folder / "data" / "audit.key").stat().st_mode & 0o777 == 0o600


async def test_a_cut_off_end_is_named_and_the_status_is_one(folder: Path, database: Database) -> None:
    kept = folder / "checkpoints.ndjson"
    await wetread(folder, "checkpoints", "--output", str(kept))
    async with database.transaction() as conn:
        for table in ("audit_chain", "audit_event", "audit_checkpoint"):
            await conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        await conn.execute("DELETE FROM audit_event WHERE id = (SELECT audit_id FROM audit_chain WHERE seq = 3)")
        await conn.execute("DELETE FROM audit_chain WHERE seq = 3")
        await conn.execute("DELETE FROM audit_checkpoint")
    assert (await wetread(folder, "verify")).exit_code == 0
    found = await wetread(folder, "verify", "--against", str(kept))
    assert found.exit_code == 1
    assert "BROKEN: the chain was cut off after link 2: a checkpoint was signed at link 3" in found.output


async def test_the_record_is_exported_one_event_each_line_and_that_is_on_record_first(folder: Path) -> None:
    target = folder / "audit.ndjson"
    assert (await wetread(folder, "export", "--output", str(target))).exit_code == 0
    events = [json.loads(line) for line in target.read_text().splitlines()]
    assert [event["subtype"][0]["code"] for event in events] == ["read", "read", "read", "audit-read"]


async def test_what_is_no_file_of_checkpoints_is_refused(folder: Path) -> None:
    (folder / "other").write_text("no checkpoint\n")
    for file in ("other", "missing"):
        found = await wetread(folder, "verify", "--against", str(folder / file))
        assert isinstance(found.exception, InvalidInput)
