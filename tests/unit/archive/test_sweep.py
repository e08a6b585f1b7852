"""A blob that no row names is removed once it is old; nothing else is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from wetread.archive import quarantine
from wetread.archive.instances import store
from wetread.archive.sweep import sweep
from wetread.errors import InvalidInput
from wetread.store.blobs import LocalBlobs
from wetread.store.database import SyncDatabase
from wetread.wire.dicom import facts

MakeInstance = Callable[..., bytes]


def age(blobs: LocalBlobs, hours: float) -> None:
    then = time.time() - hours * 3600
    for path in blobs.root.rglob("*"):
        os.utime(path, (then, then))


def count(blobs: LocalBlobs) -> int:
    return sum(path.is_file() for path in blobs.root.rglob("*"))


def test_an_abandoned_blob_goes_and_stored_and_refused_ones_stay(
    sync_database: SyncDatabase, blobs: LocalBlobs, instance: MakeInstance
) -> None:
    data = instance()
    with sync_database.transaction() as conn:
        store(conn, blobs, facts(data), data, source="MODALITY")
        quarantine.refuse(conn, blobs, b"junk", InvalidInput("junk"), source="MODALITY")

    def die_between_blob_and_commit(lost: bytes) -> None:
        with sync_database.transaction() as conn:
            store(conn, blobs, facts(lost), lost, source="MODALITY")
            raise InvalidInput("dead")

    with pytest.raises(InvalidInput, match="dead"):
        die_between_blob_and_commit(instance(2))
    (blobs.root / "dicom" / "torn.part").write_bytes(b"half")
    assert count(blobs) == 4

    with sync_database.transaction() as conn:
        assert sweep(conn, blobs) == 0
    age(blobs, hours=2)
    with sync_database.transaction() as conn:
        assert sweep(conn, blobs) == 2
        assert sweep(conn, blobs, older_than=timedelta()) == 0
    assert count(blobs) == 2


def test_a_refusal_beyond_the_quota_of_its_source_lets_its_bytes_go(
    sync_database: SyncDatabase, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "KEPT_PER_SOURCE", 1)
    for number in range(3):
        with sync_database.transaction() as conn:
            quarantine.refuse(conn, blobs, bytes([number]), InvalidInput("junk"), source="MODALITY")
    age(blobs, hours=2)
    with sync_database.transaction() as conn:
        assert sweep(conn, blobs) == 2
