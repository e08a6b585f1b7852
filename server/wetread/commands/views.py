"""views list, views run: flat tables of the record, beside its running."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from wetread.commands.options import Config, DataDir, database_url, opened, operator, settings_of
from wetread.errors import NotFound
from wetread.record import lossless
from wetread.record.audit import audit
from wetread.record.views import run
from wetread.record.views.definition import compiled
from wetread.record.views.output import MEDIA_TYPES
from wetread.record.views.run import Asked, Written
from wetread.settings import share_dir

views = typer.Typer(help="Flat tables of the record: ViewDefinitions of SQL on FHIR.", no_args_is_help=True)


@views.command("list")
def list_views() -> None:
    """The views that come with Wetread."""
    for id_, content in _shipped().items():
        typer.echo(f"{id_:24}{content['title']}")


@views.command("run")
def run_view(
    view: Annotated[str, typer.Argument(help="A file with a ViewDefinition, or the id of a shipped one.")],
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(MEDIA_TYPES)}.")] = "csv",
    output: Annotated[
        Path | None, typer.Option(help="The file to write, whole or not at all; standard output where left out.")
    ] = None,
    patient: Annotated[list[str] | None, typer.Option(help="Only this patient's, by id; may be given again.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only what was changed after this moment, in UTC.")] = None,
    limit: Annotated[int | None, typer.Option(help="How many rows at the most.", min=1)] = None,
    header: Annotated[bool, typer.Option(help="Whether CSV begins with the names of the columns.")] = True,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Write the table of a view over the whole store. It holds patient data; the run is audited."""
    settings = settings_of(config, data_dir)
    moment = since.replace(tzinfo=UTC) if since is not None and since.tzinfo is None else since
    asked = Asked(compiled(_content(view)), moment, frozenset(patient) if patient else None, limit)

    async def work(url: str, target: BinaryIO) -> Written:
        reader = operator()
        async with opened(settings, url) as database:
            made = await run.written(database, reader, asked, form, target, header=header)
            detail = {"view": asked.view.name, "type": asked.view.resource_type, "format": form, "source": "store"}
            detail |= {"resources": str(made.resources), "rows": str(made.rows)}
            entry = audit.AuditEntry(
                kind="view-run", action="E", outcome="0", principal=reader.principal, detail=detail
            )
            async with database.transaction() as conn:
                await audit.write(conn, entry)
        return made

    with database_url(settings) as url, _target(output) as target:
        made = asyncio.run(work(url, target))
    typer.echo(f"{made.rows} rows of {made.resources} resources of type {asked.view.resource_type}", err=True)


def _shipped() -> Mapping[str, Mapping[str, Any]]:
    return run.shipped(share_dir() / "conformance" / "views")


def _content(view: str) -> Mapping[str, Any]:
    if Path(view).is_file():
        return lossless.parse(Path(view).read_text(encoding="utf-8"))
    try:
        return run.named(_shipped(), view)
    except NotFound as error:
        raise NotFound(f"{error.message}, and no file has this name") from error


@contextlib.contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """The file appears under its name when the table is whole."""
    if output is None:
        yield sys.stdout.buffer
        return
    part = output.with_name(output.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
