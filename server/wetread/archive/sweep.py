"""Removes blobs that no row names: what a crash between blob and commit, or a rolled back transaction, has left."""

from __future__ import annotations

import time
from datetime import timedelta

from wetread.store.blobs import LocalBlobs
from wetread.store.database import SyncConnection

_BATCH = 1000
_FOLDERS = ("dicom", "quarantine")


def sweep(conn: SyncConnection, blobs: LocalBlobs, *, older_than: timedelta = timedelta(hours=1)) -> int:
    """Deletes blobs without a row and unfinished `.part` files older than `older_than`; gives how many.

    Safe beside receivers: a key is never used twice, and no transaction lives as long as an hour.
    """
    before = time.time() - older_than.total_seconds()
    paths = [*(path for folder in _FOLDERS for path in (blobs.root / folder).rglob("*")), *blobs.root.rglob("*.part")]
    old = sorted({str(p.relative_to(blobs.root)) for p in paths if p.is_file() and p.stat().st_mtime < before})
    removed = 0
    for start in range(0, len(old), _BATCH):
        keys = old[start : start + _BATCH]
        rows = conn.execute(
            """SELECT key FROM unnest(%s::text[]) AS key
               WHERE NOT EXISTS (SELECT FROM instance WHERE blob_key = key)
                 AND NOT EXISTS (SELECT FROM quarantine WHERE blob_key = key)""",
            (keys,),
        ).fetchall()
        for (key,) in rows:
            blobs.delete(key)
        removed += len(rows)
    return removed
