"""A view run over the store: what one reader may see of one type, as it stood at one moment, in bounded batches."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, NotFound, Unsupported
from wetread.record import lossless
from wetread.record.compartment import visible
from wetread.record.condition import TRUE, Condition, all_of
from wetread.record.export import batch as export_batch
from wetread.record.export.request import ExportRequest, membership_parameters
from wetread.record.export.selection import Selection
from wetread.record.search.parameters import resource_types
from wetread.record.views import output
from wetread.record.views.definition import Row, View
from wetread.store.database import Connection, Database

BATCH_ROWS, BATCH_BYTES = 500, 2 << 20
MOST_PATIENTS = 10_000
_NO_JOB = UUID(int=0)
_OWN = """EXISTS (
    SELECT FROM index_reference i WHERE i.resource_key = r.key AND i.param = ANY (%s)
        AND i.target_type = 'Patient' AND i.target_id = ANY (%s) AND i.url = '')"""
_OTHERS = """EXISTS (
    SELECT FROM index_reference i WHERE i.resource_key = r.key AND i.param = ANY (%s)
        AND i.target_type = 'Patient' AND i.target_id <> '' AND i.target_id <> ALL (%s) AND i.url = '')"""


@dataclass(frozen=True, slots=True)
class Asked:
    """`patients` None: no matter whose; `since` is exclusive; `most_rows` None: all. `deadline` is by
    `time.monotonic()`: a thread that makes rows ends only by itself."""

    view: View
    since: datetime | None = None
    patients: frozenset[str] | None = None
    most_rows: int | None = None
    deadline: float = math.inf


@dataclass(frozen=True, slots=True)
class Written:
    resources: int
    rows: int


@dataclass(frozen=True, slots=True)
class _Chosen(Selection):
    condition: Condition = TRUE

    async def of(self, conn: Connection, resource_type: str, *, singly: bool = False) -> Condition:
        return all_of([visible(self.reader, resource_type, "s"), self.condition])


async def written(
    database: Database, reader: Reader, asked: Asked, form: str, target: BinaryIO, *, header: bool = True
) -> Written:
    """Writes the table of a view. Raises Forbidden, InvalidInput, Unsupported, TooCostly."""
    require_run(reader, asked.view)
    table = output.writer(form, asked.view.columns, target, header=header)
    read = rows = 0
    async for count, made in _batches(database, reader, asked):
        if asked.most_rows is not None:
            made = made[: asked.most_rows - rows]
        read += count
        rows += len(made)
        await asyncio.to_thread(table.write, made)
        if rows == asked.most_rows:
            break
    await asyncio.to_thread(table.close)
    return Written(read, rows)


def written_of(
    given: Sequence[Mapping[str, Any]], asked: Asked, form: str, target: BinaryIO, *, header: bool
) -> Written:
    """`written` for resources that the caller gives, instead of those of the store."""
    table = output.writer(form, asked.view.columns, target, header=header)
    rows = [row for resource in given for row in asked.view.rows(resource, asked.deadline)][: asked.most_rows]
    table.write(rows)
    table.close()
    return Written(len(given), len(rows))


def require_run(reader: Reader, view: View) -> None:
    """A view reads all of a type: it takes what a search takes. Raises Forbidden, Unsupported."""
    if view.resource_type not in resource_types() or view.resource_type == "AuditEvent":
        raise Unsupported("views run over stored types, the audit apart", location="ViewDefinition.resource")
    for letter in "rs":
        reader.require(letter, view.resource_type)


def shipped(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The views that come with Wetread, by id."""
    read = [lossless.parse(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return {str(content["id"]): content for content in read}


def named(views: Mapping[str, Mapping[str, Any]], reference: str) -> Mapping[str, Any]:
    """A shipped view by its id, its canonical or `ViewDefinition/id`. Raises NotFound."""
    wanted = reference.partition("|")[0]
    for id_, content in views.items():
        if wanted in (id_, f"ViewDefinition/{id_}", content.get("url")):
            return content
    raise NotFound(f"no such view here; there are {', '.join(views)}", location="viewReference")


async def _batches(database: Database, reader: Reader, asked: Asked) -> AsyncIterator[tuple[int, list[Row]]]:
    resource_type = asked.view.resource_type
    request = ExportRequest("system", (resource_type,), since=asked.since)
    selection = _Chosen(_NO_JOB, reader, request, datetime.now(UTC), "", _whose(asked))
    after: int | None = 0
    while after is not None:
        async with database.transaction() as conn:
            batch = await export_batch.texts(
                conn, selection, resource_type, after, rows=BATCH_ROWS, most_bytes=BATCH_BYTES
            )
        yield batch.resources, await asyncio.to_thread(_rows, asked, batch.block)
        after = batch.last_key


def _rows(asked: Asked, block: bytes) -> list[Row]:
    texts = block.decode().split(export_batch.SEPARATOR.decode()) if block else []
    return [row for text in texts for row in asked.view.rows(lossless.parse(text), asked.deadline)]


def _whose(asked: Asked) -> Condition:
    """What is of these patients, and of nobody else."""
    if asked.patients is None:
        return TRUE
    if len(asked.patients) > MOST_PATIENTS:
        raise InvalidInput(f"a view runs for at most {MOST_PATIENTS} listed patients", location="group")
    patients, resource_type = sorted(asked.patients), asked.view.resource_type
    if resource_type == "Patient":
        return Condition("r.id = ANY (%s)", (patients,))
    names = list(membership_parameters(resource_type))
    if not names:
        message = f"{resource_type} belongs to no patient: leave patient and group out"
        raise InvalidInput(message, location="patient")
    return Condition(_OWN + " AND NOT " + _OTHERS, (names, patients, names, patients))
