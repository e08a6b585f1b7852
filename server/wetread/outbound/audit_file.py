"""The audit record as files: one for each day (UTC), appended to and flushed to disk, a FHIR AuditEvent in each line.

A crash may leave a line half written, or lines that the cursor does not know of: at the next start the first is cut
off and the second are found by the last line's id, so that no record is lost and none stands there twice.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from wetread.record.audit.stream import Chained

_CHUNK = 64 * 1024


class FileSink:
    name = "file"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def last(self) -> str | None:
        """The id of the last whole line; what follows it is cut off. Raises OSError."""
        return await asyncio.to_thread(self._mended)

    async def take(self, records: Sequence[Chained]) -> None:
        """Raises OSError."""
        if records:
            await asyncio.to_thread(self._append, "".join(record.body + "\n" for record in records).encode())

    async def close(self) -> None:
        """Nothing stays open between batches, so that a file may be moved away at any time."""

    def _append(self, content: bytes) -> None:
        file = self._folder / f"audit-{datetime.now(UTC):%Y-%m-%d}.ndjson"
        is_new = not file.exists()
        with file.open("ab") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        if is_new:
            file.chmod(0o640)
            folder = os.open(self._folder, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def _mended(self) -> str | None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        for file in sorted(self._folder.glob("audit-????-??-??.ndjson"), reverse=True):
            with file.open("r+b") as content:
                end = _last_newline(content.fileno(), os.fstat(content.fileno()).st_size)
                content.truncate(end)
                os.fsync(content.fileno())
                if end:
                    start = _last_newline(content.fileno(), end - 1)
                    return str(json.loads(os.pread(content.fileno(), end - start, start))["id"])
        return None


def _last_newline(descriptor: int, size: int) -> int:
    """The position after the last newline within the first `size` bytes; 0 where there is none."""
    end = size
    while end > 0:
        start = max(0, end - _CHUNK)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
