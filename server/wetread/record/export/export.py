"""The work of an export, in slices (Bulk Data Access 2.0).

A slice reads batches until it has written about one file's worth of bytes, flushes what it wrote, and commits the rows
of its files, the job's place and the next slice together. A slice that dies is done again from the same place and
writes the same lines; one that another has overtaken finds the place moved on and throws its files away. So nothing is
missing and nothing stands twice, and no transaction is held longer than a batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid5

from wetread.errors import WetreadError
from wetread.record.export import files as export_files
from wetread.record.export import jobs as export_jobs
from wetread.record.export.batch import SEPARATOR, Batch, deletions, texts
from wetread.record.export.files import LineFile
from wetread.record.export.jobs import EXPORT, PRIORITY, SETTLE, Job
from wetread.record.export.selection import Selection, present, settle_members
from wetread.store.database import Connection, Database
from wetread.work.jobs import Payload, Work

logger = logging.getLogger(__name__)

_MOST_ROWS = 20_000
_DELETIONS = 1000
_STILL_WRITING = """
    SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL
        AND xact_start <= %s)
"""


@dataclass(slots=True)
class _Made:
    """A file that this slice writes."""

    section: str
    resource_type: str
    file: LineFile
    resources: int = 0


@dataclass(slots=True)
class _Slice:
    """Where a slice is, and what it has made so far."""

    job: Job
    selection: Selection
    part: int
    after_key: int
    row_bytes: int
    made: list[_Made] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(made.file.bytes for made in self.made)

    @property
    def resources(self) -> int:
        return sum(made.resources for made in self.made if made.section == "output")


class Exporter:
    """Does the steps EXPORT and SWEEP. `root` is the folder of all exports' files, one that every host sees."""

    def __init__(
        self,
        database: Database,
        work: Work,
        root: Path,
        base_url: str,
        *,
        retention: timedelta,
        file_bytes: int,
        batch_bytes: int,
    ) -> None:
        self._database = database
        self._work = work
        self._root = root
        self._base_url = base_url
        self._retention = retention
        self._file_bytes = file_bytes
        self._batch_bytes = batch_bytes

    async def __call__(self, payload: Payload) -> datetime | None:
        """One slice; before the first, the moment to ask again while writers of the transaction time are at it."""
        job = await self._job(payload)
        if job is None or job.slice != payload["slice"] or job.state not in ("waiting", "running"):
            return None
        if job.state == "waiting":
            return None if await self._settled(job) else datetime.now(UTC) + SETTLE
        one = _Slice(job, self._selection(job), job.part, job.after_key, job.row_bytes)
        try:
            await self._work_through(one)
            committed = await self._commit(one)
        except BaseException:
            await asyncio.to_thread(_discard, one.made)
            raise
        if not committed:
            await asyncio.to_thread(_discard, one.made)
        return None

    async def give_up(self, payload: Payload, error: BaseException) -> None:
        """Ends a job whose step is given up: its client is told, and what it made goes."""
        text = (
            error.message if isinstance(error, WetreadError) else "an unexpected fault; the operator's log tells more"
        )
        now = datetime.now(UTC)
        async with self._database.transaction() as conn:
            await conn.execute(
                "UPDATE export_job SET state = 'failed', failure = %s, expires_at = %s"
                " WHERE id = %s AND state IN ('waiting', 'running')",
                (text, now + self._retention, payload["job"]),
            )
            await export_jobs.sweep_at(conn, self._work, UUID(payload["job"]), now + self._retention)

    async def sweep(self, payload: Payload) -> datetime | None:
        """Removes the rows and the files of a job that has expired or was cancelled."""
        job_id = UUID(payload["job"])
        async with self._database.transaction() as conn:
            await conn.execute("DELETE FROM export_job WHERE id = %s", (job_id,))
        await asyncio.to_thread(export_files.remove, self._root, job_id)
        return None

    async def _job(self, payload: Payload) -> Job | None:
        async with self._database.transaction() as conn:
            return await export_jobs.find(conn, UUID(payload["job"]))

    def _selection(self, job: Job) -> Selection:
        return Selection(job.id, job.reader, job.asked, job.transaction_time, self._base_url)

    async def _settled(self, job: Job) -> bool:
        """Begins the job once nobody writes any more who may have taken a moment up to its transaction time."""
        async with self._database.transaction() as conn:
            row = await (await conn.execute(_STILL_WRITING, (job.created_at + SETTLE,))).fetchone()
            if row is None or row[0]:
                return False
            await settle_members(conn, self._selection(job))
            types = await present(conn, job.types)
            moved = await conn.execute(
                "UPDATE export_job SET state = 'running', slice = 0, types = %s WHERE id = %s AND state = 'waiting'",
                (types, job.id),
            )
            if moved.rowcount:
                await self._next(conn, job, 0)
        return True

    async def _next(self, conn: Connection, job: Job, number: int) -> None:
        """A step of its own for each slice: how often one was begun counts for it alone."""
        await self._work.enqueue(conn, EXPORT, {"job": str(job.id), "slice": number}, priority=PRIORITY)

    async def _work_through(self, one: _Slice) -> None:
        """Parts, one after another, until the slice has its bytes or the job is done."""
        if one.job.slice == 0:
            warnings = (export_files.error_line("warning", "not-supported", w) for w in one.job.asked.warnings)
            one.errors.extend(warnings)
        parts = one.job.parts
        while one.part < len(parts) and one.bytes < self._file_bytes:
            section, resource_type = parts[one.part]
            made: _Made | None = None
            last: int | None = one.after_key
            while last is not None and one.bytes < self._file_bytes:
                batch = await self._batch(one, section, resource_type)
                if batch.resources:
                    if made is None:
                        made = _Made(section, resource_type, LineFile(self._root, one.job.id))
                        one.made.append(made)
                    await asyncio.to_thread(self._write, one, made, batch)
                last = batch.last_key
                one.after_key = last if last is not None else 0
            if last is None:
                one.part += 1
        if one.errors:
            lines = b"".join(one.errors)
            errors = _Made("error", "OperationOutcome", LineFile(self._root, one.job.id), len(one.errors))
            one.made.append(errors)
            await asyncio.to_thread(errors.file.write, lines)
        await asyncio.to_thread(_close, one.made)

    async def _batch(self, one: _Slice, section: str, resource_type: str) -> Batch:
        async with self._database.transaction() as conn:
            if section == "deleted":
                return await deletions(conn, one.selection, resource_type, one.after_key, rows=_DELETIONS)
            rows = max(1, min(_MOST_ROWS, self._batch_bytes // one.row_bytes + 1))
            batch = await texts(
                conn, one.selection, resource_type, one.after_key, rows=rows, most_bytes=self._batch_bytes
            )
            if batch.resources:
                one.row_bytes = max(1, len(batch.block) // batch.resources)
            return batch

    def _write(self, one: _Slice, made: _Made, batch: Batch) -> None:
        if made.section == "deleted":
            bundle_id = uuid5(one.job.id, f"{made.resource_type}/{one.after_key}")
            ids = batch.block.decode().split(SEPARATOR.decode())
            made.file.write(export_files.deletion_line(str(bundle_id), made.resource_type, ids))
            made.resources += 1
            return
        block, failed = batch.block, 0
        if elements := one.job.asked.elements_of(made.resource_type):
            block, failed = export_files.shaped(block, elements)
        if failed:
            text = f"{failed} resources of type {made.resource_type} could not be cut to the elements asked for"
            one.errors.append(export_files.error_line("error", "processing", text))
        made.file.write(export_files.lines(block, self._base_url))
        made.resources += batch.resources - failed

    async def _commit(self, one: _Slice) -> bool:
        """The slice's files, place and successor, together; false where the job has moved on, or is no more."""
        done = one.part == len(one.job.parts)
        expires_at = datetime.now(UTC) + self._retention if done else None
        async with self._database.transaction() as conn:
            moved = await conn.execute(
                "UPDATE export_job SET slice = slice + 1, part = %s, after_key = %s, row_bytes = %s,"
                " resources = resources + %s, state = %s, expires_at = %s WHERE id = %s AND slice = %s"
                " AND state = 'running'",
                (
                    one.part,
                    one.after_key,
                    one.row_bytes,
                    one.resources,
                    "complete" if done else "running",
                    expires_at,
                    one.job.id,
                    one.job.slice,
                ),
            )
            if moved.rowcount == 0:
                return False
            await _add_files(conn, one.job.id, one.made)
            if expires_at is not None:
                await export_jobs.sweep_at(conn, self._work, one.job.id, expires_at)
            else:
                await self._next(conn, one.job, one.job.slice + 1)
        return True


async def _add_files(conn: Connection, job_id: UUID, made: Sequence[_Made]) -> None:
    rows = [(each.section, each.resource_type, each.file.key, each.resources, each.file.bytes) for each in made]
    await conn.execute(
        "INSERT INTO export_file (job_id, number, section, resource_type, blob_key, resources, bytes)"
        " SELECT %s, (SELECT count(*) FROM export_file WHERE job_id = %s) + place, section, resource_type, blob_key,"
        " resources, bytes FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])"
        " WITH ORDINALITY AS made(section, resource_type, blob_key, resources, bytes, place)",
        (job_id, job_id, *([list(column) for column in zip(*rows, strict=True)] if rows else [[]] * 5)),
    )


def _close(made: Sequence[_Made]) -> None:
    for each in made:
        each.file.close()


def _discard(made: Sequence[_Made]) -> None:
    for each in made:
        each.file.discard()
