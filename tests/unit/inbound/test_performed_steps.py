"""MPPS: what a modality may say of its steps, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydicom.uid import generate_uid
from tests import modality

from wetread.archive import performed
from wetread.inbound.dicom import DicomListener
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database, SyncDatabase

STUDY, SERIES = "1.2.3", "1.2.3.4"


@pytest.fixture
def port(sync_database: SyncDatabase, blobs: LocalBlobs) -> Iterator[int]:
    listener = DicomListener("WETREAD", "127.0.0.1", 0, sync_database, blobs)
    listener.start()
    yield listener.port
    listener.stop(grace_s=0.5)


async def _announced(database: Database) -> int | None:
    async with database.transaction() as conn:
        return await performed.announced(conn, STUDY)


async def test_the_steps_of_a_study_announce_its_instances_once_all_have_ended(port: int, database: Database) -> None:
    assert await _announced(database) is None
    with modality.association(port) as speaking:
        first, second = generate_uid(), generate_uid()
        for uid in (first, second):
            status, _ = speaking.send_n_create(modality.begun(STUDY), modality.SOP_CLASS, uid)
            assert status.Status == 0x0000
        speaking.send_n_set(modality.ended(SERIES, ["1.1", "1.2"]), modality.SOP_CLASS, first)
        assert await _announced(database) is None
        speaking.send_n_set(modality.ended(SERIES, ["1.3"], "DISCONTINUED"), modality.SOP_CLASS, second)
    assert await _announced(database) == 3


async def test_a_step_is_refused_by_the_status_of_its_fault(port: int, database: Database) -> None:
    with modality.association(port) as speaking:
        uid = generate_uid()
        without_study = modality.begun(STUDY)
        del without_study.ScheduledStepAttributesSequence
        already_over = modality.begun(STUDY)
        already_over.PerformedProcedureStepStatus = "COMPLETED"
        for told, expected in ((without_study, 0x0120), (already_over, 0x0106), (modality.begun(STUDY), 0x0000)):
            status, _ = speaking.send_n_create(told, modality.SOP_CLASS, uid)
            assert status.Status == expected
        status, _ = speaking.send_n_create(modality.begun(STUDY), modality.SOP_CLASS, uid)
        assert status.Status == 0x0111
        status, _ = speaking.send_n_set(modality.ended(SERIES, ["1.1"]), modality.SOP_CLASS, generate_uid())
        assert status.Status == 0x0112
        for expected in (0x0000, 0x0110):
            status, _ = speaking.send_n_set(modality.ended(SERIES, ["1.1"]), modality.SOP_CLASS, uid)
            assert status.Status == expected
        assert status.ErrorID == 0xA506
    assert await _announced(database) == 1
