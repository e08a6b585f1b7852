"""audit: the record as a file, its proof, and the checkpoints to keep elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, TextIO

import typer

from wetread import app as composition
from wetread.commands.options import Config, DataDir, database_url, opened, operator, settings_of, within
from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record.audit import archives, audit, checkpoints, proof
from wetread.settings import Settings
from wetread.store.database import Connection

trail = typer.Typer(help="The audit record.", no_args_is_help=True)

Output = Annotated[Path | None, typer.Option(help="The file to write; standard output where left out.")]


@trail.command("export")
def export_audit(output: Output = None, config: Config = None, data_dir: DataDir = None) -> None:
    """All AuditEvents as newline-delimited JSON, oldest first. The export is itself audited."""
    _write(settings_of(config, data_dir), output, "records", lambda conn: audit.export(conn, operator()))


@trail.command("checkpoints")
def export_checkpoints(
    output: Output = None,
    since: Annotated[int, typer.Option(help="Only those above this link of the chain.", min=0)] = 0,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """The signed checkpoints of the hash chain, one JSON object each line. Keep them on another system: `verify
    --against` compares with them."""
    _write(
        settings_of(config, data_dir), output, "checkpoints", lambda conn: checkpoints.export(conn, operator(), since)
    )


@trail.command("verify")
def verify_audit(
    against: Annotated[
        Path | None, typer.Option(help="A file of checkpoints that was kept elsewhere.", show_default=False)
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Walk the hash chain and check its signatures; name the first altered, missing or reordered record."""
    settings = settings_of(config, data_dir)
    kept = checkpoints.parsed(_lines(against)) if against else []

    async def verify(url: str) -> proof.Verification:
        async with opened(settings, url) as database, database.transaction() as conn:
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            found = await proof.verify(conn, composition.audit_keys(settings), kept)
            detail = {"verified": "whole" if found.ok else "broken", "links": str(found.chained)}
            await audit.write(conn, audit.AuditEntry("audit-read", "R", "0", operator().principal, detail=detail))
            return found

    with database_url(settings) as url:
        verdict = asyncio.run(verify(url))
    typer.echo(
        f"{verdict.chained} records chained, {verdict.unchained} not chained yet, "
        f"{verdict.removed} removed by policy, {verdict.signed} checkpoints"
    )
    if not verdict.ok:
        typer.echo(f"BROKEN: {verdict.first_bad}")
        raise typer.Exit(1)
    typer.echo("the chain is whole" + (f" and agrees with {len(kept)} checkpoints of {against}" if against else ""))


@trail.command("verify-archive")
def verify_archive(
    files: Annotated[list[Path], typer.Argument(help="Files that retention wrote, one or several.")],
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Check archives of removed records: each record, the chain through them, and that it is what was signed when they
    were removed. `verify` goes on from there with what is kept."""
    settings = settings_of(config, data_dir)

    async def verify(conn: Connection, reader: Reader) -> list[archives.Archived]:
        found = await archives.verify(conn, composition.audit_keys(settings), files)
        whole = all(one.fault is None for one in found)
        detail = {"verified-archives": "whole" if whole else "broken", "files": str(len(found))}
        await audit.write(conn, audit.AuditEntry("audit-read", "R", "0", reader.principal, detail=detail))
        return found

    found = within(config, data_dir, verify)
    for one in found:
        typer.echo(
            f"{one.name}: {one.links} records, " + (f"BROKEN: {one.fault}" if one.fault else "whole, as removed")
        )
    if any(one.fault for one in found):
        raise typer.Exit(1)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read") from error


def _write(
    settings: Settings, output: Path | None, what: str, lines_of: Callable[[Connection], AsyncIterator[str]]
) -> None:
    """Writes lines out, after it is on record that they are."""
    detail = {"to": "file" if output else "standard output", "what": what}
    entry = audit.AuditEntry("audit-read", "R", "0", operator().principal, detail=detail)

    async def write(url: str) -> None:
        async with opened(settings, url) as database:
            async with database.transaction() as conn:
                await audit.write(conn, entry)
            async with database.transaction() as conn:
                with _target(output) as target:
                    async for line in lines_of(conn):
                        target.write(line)

    with database_url(settings) as url:
        asyncio.run(write(url))


@contextlib.contextmanager
def _target(output: Path | None) -> Iterator[TextIO]:
    with output.open("w") if output else open(sys.stdout.fileno(), "w", closefd=False) as target:
        yield target
