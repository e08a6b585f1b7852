"""Files of an export: lines of NDJSON, written once and durable before their rows are committed.

Each try writes under names of its own, so a try that dies, or that another has overtaken, leaves at most files without
a row; they go with the folder of their job. Sync, for threads.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from wetread.errors import OutOfSpace, StoreUnavailable, WetreadError
from wetread.record import lossless, shape
from wetread.record.export.batch import SEPARATOR

_LINES = bytes.maketrans(b"\n\r" + SEPARATOR, b"  \n")
"""A raw line break can only stand between two tokens of a JSON text, where a space says the same."""
_BINARY = re.compile(rb'("url"[ \t\r\n]*:[ \t\r\n]*")(?=Binary/[A-Za-z0-9.\-]{1,64}")')
"""An Attachment.url that is relative. The quotes are JSON's own: within a string they would be escaped."""


def lines(block: bytes, base_url: str) -> bytes:
    """A block of texts as NDJSON; attachments that lie here get absolute urls, as clients elsewhere need them."""
    if b'"Binary/' in block:
        block = _BINARY.sub(rb"\1" + base_url.encode() + b"/", block)
    return block.translate(_LINES) + b"\n" if block else b""


def shaped(block: bytes, elements: list[str]) -> tuple[bytes, int]:
    """The block with only these elements of each text, and how many texts could not be cut to them and are left out."""
    done, failed = [], 0
    for text in block.split(SEPARATOR) if block else ():
        try:
            done.append(shape.shaped(text.decode(), "", elements).encode())
        except WetreadError:
            failed += 1
    return SEPARATOR.join(done), failed


class LineFile:
    """One file being written. `key` names it under the folder of all exports."""

    def __init__(self, root: Path, job_id: UUID) -> None:
        self.key = f"{job_id}/{secrets.token_hex(12)}.ndjson"
        self.bytes = 0
        self._path = root / self.key
        with _own_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self._path.open("xb", buffering=0)

    def write(self, data: bytes) -> None:
        with _own_errors():
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        self.bytes += len(data)

    def close(self) -> None:
        """Flushes to disk."""
        with _own_errors():
            os.fsync(self._file.fileno())
            self._file.close()
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def remove(root: Path, job_id: UUID) -> None:
    """Removes all that a job has left. Who is downloading one of its files reads it to its end."""
    shutil.rmtree(root / str(job_id), ignore_errors=True)


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace("the folder of exports has no space left; free space, the export goes on") from error
        raise StoreUnavailable("the folder of exports cannot be written; see its rights and health") from error


def error_line(severity: str, code: str, text: str) -> bytes:
    """An OperationOutcome as a line of an error file."""
    issue = {"severity": severity, "code": code, "diagnostics": text}
    return lossless.dump({"resourceType": "OperationOutcome", "issue": [issue]}).encode() + b"\n"


def deletion_line(bundle_id: str, resource_type: str, ids: list[str]) -> bytes:
    """A transaction Bundle of DELETEs as a line of a file of deletions (Bulk Data 2.0, `deleted`)."""
    entries = [{"request": {"method": "DELETE", "url": f"{resource_type}/{each}"}} for each in ids]
    bundle = {"resourceType": "Bundle", "id": bundle_id, "type": "transaction", "entry": entries}
    return lossless.dump(bundle).encode() + b"\n"
