"""An instance is stored once, durably, under its UID; the same again is a success, another one a conflict."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from wetread.archive import instances, quarantine
from wetread.archive.instances import Stored, store
from wetread.domain.reader import SYSTEM, Reader
from wetread.errors import Conflict, Forbidden, InvalidInput, NotFound, OutOfSpace
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database, SyncDatabase
from wetread.wire.dicom import data_set_start, facts, part10_header

NOBODY = Reader("nobody")

MakeInstance = Callable[..., bytes]


def keep(database: SyncDatabase, blobs: LocalBlobs, data: bytes, source: str = "MODALITY") -> Stored:
    with database.transaction() as conn:
        return store(conn, blobs, facts(data), data, source=source)


def files(blobs: LocalBlobs) -> list[str]:
    return sorted(str(path.relative_to(blobs.root)) for path in blobs.root.rglob("*") if path.is_file())


async def test_what_is_stored_comes_back_byte_for_byte(
    database: Database, sync_database: SyncDatabase, blobs: LocalBlobs, instance: MakeInstance
) -> None:
    data = instance()
    assert keep(sync_database, blobs, data) is Stored.STORED
    async with database.transaction() as conn:
        assert await instances.data(conn, SYSTEM, blobs, "1.2.1.1.1") == data
        assert await instances.of_study(conn, SYSTEM, "1.2.1") == (facts(data),)
        ((uid, key),) = await instances.keys_of_series(conn, SYSTEM, "1.2.1.1")
    assert uid == "1.2.1.1.1"
    assert blobs.get(key) == data


def test_no_file_name_holds_patient_data(
    sync_database: SyncDatabase, blobs: LocalBlobs, instance: MakeInstance
) -> None:
    keep(sync_database, blobs, instance(PatientID="MRN4711", PatientName="Doe^Jane"))
    (name,) = files(blobs)
    assert "MRN4711" not in name
    assert "Doe" not in name


def test_the_same_again_is_a_success_and_writes_nothing(
    sync_database: SyncDatabase, blobs: LocalBlobs, instance: MakeInstance
) -> None:
    data = instance()
    keep(sync_database, blobs, data)
    before = files(blobs)
    assert keep(sync_database, blobs, data) is Stored.SAME
    assert files(blobs) == before


def test_the_same_from_another_sender_with_another_file_meta_is_the_same(
    sync_database: SyncDatabase, blobs: LocalBlobs, instance: MakeInstance
) -> None:
    data = instance()
    keep(sync_database, blobs, data)
    found = facts(data)
    header = part10_header(
        sop_class_uid=found.sop_class_uid,
        sop_instance_uid=found.sop_instance_uid,
        transfer_syntax_uid=found.transfer_syntax_uid,
        source_ae="ROUTER",
    )
    assert keep(sync_database, blobs, header + data[data_set_start(data) :], "ROUTER") is Stored.SAME


def test_other_bytes_under_the_same_uid_are_a_conflict_and_leave_the_first(
    sync_database: SyncDatabase, blobs: LocalBlobs, instance: MakeInstance
) -> None:
    keep(sync_database, blobs, instance())
    before = files(blobs)
    with pytest.raises(Conflict) as refused:
        keep(sync_database, blobs, instance(PatientID="OTHER"))
    assert refused.value.location == "SOPInstanceUID"
    assert files(blobs) == before


def test_two_senders_of_one_instance_at_once_leave_one_instance(
    sync_database: SyncDatabase, blobs: LocalBlobs, instance: MakeInstance
) -> None:
    data, outcomes, barrier = instance(), [], threading.Barrier(4)

    def send() -> None:
        barrier.wait()
        outcomes.append(keep(sync_database, blobs, data))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["same", "same", "same", "stored"]
    assert len(files(blobs)) == 1


def test_a_blob_that_cannot_be_written_leaves_no_row(
    sync_database: SyncDatabase, blobs: LocalBlobs, instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(key: str, data: bytes) -> None:
        raise OutOfSpace("full")

    data = instance()
    with monkeypatch.context() as patched:
        patched.setattr(blobs, "put", full)
        with pytest.raises(OutOfSpace):
            keep(sync_database, blobs, data)
    assert keep(sync_database, blobs, data) is Stored.STORED


async def test_arrivals_are_taken_once_and_a_late_instance_arrives_again(
    database: Database, sync_database: SyncDatabase, blobs: LocalBlobs, instance: MakeInstance
) -> None:
    for number in (1, 2):
        keep(sync_database, blobs, instance(number))
    keep(sync_database, blobs, instance(1, study="1.2.2", series="1.2.2.1"))
    async with database.transaction() as conn:
        assert await instances.arrivals(conn, 10) == ("1.2.1", "1.2.2")
        assert await instances.arrivals(conn, 1) == ("1.2.1",)
        taken = await instances.take(conn, "1.2.1")
        assert taken is not None
        assert [one.sop_instance_uid for one in taken.instances] == ["1.2.1.1.1", "1.2.1.1.2"]
    async with database.transaction() as conn:
        assert await instances.take(conn, "1.2.1") is None
        assert await instances.arrivals(conn, 10) == ("1.2.2",)
    keep(sync_database, blobs, instance(3))
    async with database.transaction() as conn:
        assert await instances.arrivals(conn, 10, gather_for=timedelta(hours=1)) == ("1.2.2",)
        assert await instances.are_waiting(conn, "1.2.1")
        late = await instances.take(conn, "1.2.1")
        assert late is not None
        assert [one.instance_number for one in late.instances] == [3]


async def test_a_taking_that_is_rolled_back_has_taken_nothing(
    database: Database, sync_database: SyncDatabase, blobs: LocalBlobs, instance: MakeInstance
) -> None:
    keep(sync_database, blobs, instance())

    async def take_and_fail() -> None:
        async with database.transaction() as conn:
            assert await instances.take(conn, "1.2.1") is not None
            raise InvalidInput("undone")

    with pytest.raises(InvalidInput, match="undone"):
        await take_and_fail()
    async with database.transaction() as conn:
        assert await instances.take(conn, "1.2.1") is not None


async def test_what_wetread_made_is_there_and_is_no_arrival(
    database: Database, blobs: LocalBlobs, instance: MakeInstance
) -> None:
    async def produce(data: bytes) -> None:
        async with database.transaction() as conn:
            await instances.store_produced(conn, blobs, facts(data), data, "run-1")

    data = instance()
    await produce(data)
    await produce(data)
    async with database.transaction() as conn:
        assert await instances.arrivals(conn, 10) == ()
        assert await instances.data(conn, SYSTEM, blobs, "1.2.1.1.1") == data
    with pytest.raises(Conflict):
        await produce(instance(PatientID="OTHER"))


async def test_every_fact_survives_the_index(
    database: Database, sync_database: SyncDatabase, blobs: LocalBlobs, instance: MakeInstance
) -> None:
    data = instance(
        PatientName="Wałęsa^Łukasz", SpecificCharacterSet="ISO_IR 192", ImagesInAcquisition=3, NumberOfFrames=1
    )
    full = replace(facts(data), number_of_frames=7, laterality="L", contrast_agent="iodine")
    with sync_database.transaction() as conn:
        store(conn, blobs, full, data, source="MODALITY")
    async with database.transaction() as conn:
        assert await instances.of_study(conn, SYSTEM, "1.2.1") == (full,)


async def test_without_the_scope_nothing_is_given(database: Database, blobs: LocalBlobs) -> None:
    async with database.transaction() as conn:
        with pytest.raises(Forbidden):
            await instances.of_study(conn, NOBODY, "1.2.1")
        with pytest.raises(Forbidden):
            await instances.data(conn, NOBODY, blobs, "1.2.1.1.1")
        with pytest.raises(Forbidden):
            await quarantine.refused(conn, NOBODY, 10)
        with pytest.raises(NotFound):
            await instances.data(conn, SYSTEM, blobs, "1.2.1.1.1")


async def test_what_was_refused_is_kept_with_its_reason_and_first_bytes(
    database: Database, sync_database: SyncDatabase, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "KEPT_PER_SOURCE", 2)
    for number in range(4):
        data = bytes([number]) * (quarantine.KEPT_BYTES + 1)
        with sync_database.transaction() as conn:
            quarantine.refuse(conn, blobs, data, InvalidInput("not DICOM"), source="MODALITY", sop_instance_uid="1.2")
    async with database.transaction() as conn:
        refusals = await quarantine.refused(conn, SYSTEM, 10)
    assert [(one.reason, one.message, one.source) for one in refusals] == [("invalid", "not DICOM", "MODALITY")] * 4
    assert {one.size_bytes for one in refusals} == {quarantine.KEPT_BYTES + 1}
    kept = [one.blob_key for one in refusals if one.blob_key]
    assert [blobs.get(key) for key in kept] == [bytes([n]) * quarantine.KEPT_BYTES for n in (3, 2)]
