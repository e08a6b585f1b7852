"""`wetread audit verify-archive`: what was removed by policy is still what it was."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from wetread import app as composition
from wetread.commands.tree import cli
from wetread.errors import InvalidInput
from wetread.record.audit import audit, chain, removal
from wetread.record.audit.audit import AuditEntry
from wetread.record.audit.checkpoints import sign_due
from wetread.settings import load
from wetread.store.database import Database


@pytest.fixture
async def folder(database: Database, tmp_path: Path) -> Path:
    """Two archives, of links 1 to 3 and 4 to 7, and the settings and keys of the server that wrote them."""
    (tmp_path / "wetread.toml").write_text(f'database_url = "{database.url}"\n', encoding="utf-8")
    (tmp_path / "data").mkdir()
    keys = composition.audit_keys(load(None, {"data_dir": tmp_path / "data"}))
    for count in (3, 3):
        async with database.transaction() as conn:
            await audit.write_many(conn, [AuditEntry("read", "R", "0", f"r{n}") for n in range(count)])
        async with database.transaction() as conn:
            await chain.extend(conn)
            await sign_due(conn, keys, records=1, after=timedelta(0))
        async with database.transaction() as conn:
            await removal.remove_due(conn, keys, 0, tmp_path / "archive")
    return tmp_path


async def verify(folder: Path, *files: Path) -> Result:
    where = ["--config", str(folder / "wetread.toml"), "--data-dir", str(folder / "data")]
    return await asyncio.to_thread(CliRunner().invoke, cli, ["audit", "verify-archive", *map(str, files), *where])


def archives(folder: Path) -> list[Path]:
    return sorted((folder / "archive").iterdir())


async def test_archives_are_whole_together_and_each_by_itself(folder: Path) -> None:
    first, second = archives(folder)
    both = await verify(folder, first, second)
    assert both.exit_code == 0, both.output
    assert both.stdout == f"{first.name}: 3 records, whole, as removed\n{second.name}: 4 records, whole, as removed\n"
    assert (await verify(folder, second)).exit_code == 0


async def test_an_altered_record_is_named_by_its_link(folder: Path) -> None:
    _, second = archives(folder)
    second.write_bytes(second.read_bytes().replace(b'\\"r1\\"', b'\\"rX\\"', 1))
    found = await verify(folder, second)
    assert found.exit_code == 1
    assert "BROKEN: the record at link 6 was altered, replaced or moved" in found.stdout


async def test_an_archive_computed_anew_is_not_the_one_that_was_signed(folder: Path) -> None:
    """Whoever alters a record can compute the hashes behind it, but not the signature."""
    first, _ = archives(folder)
    digest, lines = bytes(32), []
    for line in first.read_text().splitlines():
        said = json.loads(line)
        record = said["record"].replace("r2", "rX")
        digest = hashlib.sha256(digest + record.encode()).digest()
        lines.append(json.dumps({"seq": said["seq"], "hash": digest.hex(), "record": record}))
    first.write_text("".join(line + "\n" for line in lines))
    found = await verify(folder, first)
    assert "BROKEN: link 3 is not the one that was removed" in found.stdout


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (lambda lines: lines[:-1], "the archive ends at link 2; links to 3 were removed"),
        (lambda lines: [lines[0], lines[2]], "link 2 of the chain is missing"),
        (lambda lines: lines[1:], "no removal that begins at link 2 is on record here"),
        (lambda lines: [line.replace(b'"seq": ', b'"seq":  ') for line in lines], "its SHA-256 differs"),
    ],
)
async def test_what_is_lost_or_written_anew_is_told(folder: Path, lines: object, fault: str) -> None:
    first, _ = archives(folder)
    assert callable(lines)
    first.write_bytes(b"".join(lines(first.read_bytes().splitlines(keepends=True))))
    found = await verify(folder, first)
    assert found.exit_code == 1
    assert fault in found.stdout


async def test_another_server_has_no_proof_of_it(folder: Path, database: Database) -> None:
    (folder / "data" / "audit.key").unlink()
    found = await verify(folder, archives(folder)[0])
    assert "the removal of links 1 to 3 is not signed by our key" in found.stdout


async def test_what_is_no_archive_is_refused(folder: Path) -> None:
    assert isinstance((await verify(folder, folder / "wetread.toml")).exception, InvalidInput)
    assert isinstance((await verify(folder, folder / "none")).exception, InvalidInput)


async def test_the_look_is_on_record(folder: Path, database: Database) -> None:
    await verify(folder, *archives(folder))
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT body LIKE '%%verified-archives%%' FROM audit_event WHERE kind = 'audit-read'")
        assert await rows.fetchall() == [(True,)]
