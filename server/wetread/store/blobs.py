"""Blob files: bytes under a key, durable before `put` returns."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from wetread.errors import NotFound, OutOfSpace, StoreUnavailable


class LocalBlobs:
    """Blobs in a local directory. Sync on purpose: callers stand in threads, or hop to one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, key: str) -> Path:
        """Where a key's bytes lie. Keys are our own: relative, made of safe characters."""
        return self.root / key

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Writes and flushes to disk; the same key written again is replaced whole. Raises OutOfSpace."""
        target = self.path(key)
        part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
        try:
            if not target.parent.exists():
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                _flush_folder(target.parent.parent)
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            _flush_folder(target.parent)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace("the blob store has no space left; free space and send again") from error
            raise StoreUnavailable("the blob store cannot be written; see its directory's rights and health") from error

    def get(self, key: str) -> bytes:
        """Raises NotFound."""
        try:
            return self.path(key).read_bytes()
        except FileNotFoundError as error:
            raise NotFound("no blob under this key") from error

    def delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
