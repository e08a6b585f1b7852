"""A modality as the tests play it: a performed procedure step by MPPS (pynetdicom; dcmtk has no MPPS sender)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.association import Association

from wetread.outbound.dicom import leave_answers

SOP_CLASS = "1.2.840.10008.3.1.2.3.3"


@contextmanager
def association(port: int) -> Iterator[Association]:
    entity = AE("MODALITY")
    entity.add_requested_context(SOP_CLASS)
    opened = entity.associate("127.0.0.1", port, ae_title="WETREAD")
    assert opened.is_established
    leave_answers(opened)
    try:
        yield opened
    finally:
        opened.release()


def begun(study_instance_uid: str) -> Dataset:
    """The attributes of a step that begins."""
    told, scheduled = Dataset(), Dataset()
    scheduled.StudyInstanceUID = study_instance_uid
    told.ScheduledStepAttributesSequence = [scheduled]
    told.PerformedProcedureStepID = "1"
    told.PerformedProcedureStepStatus = "IN PROGRESS"
    told.Modality = "CR"
    return told


def ended(series_instance_uid: str, sop_instance_uids: Sequence[str], status: str = "COMPLETED") -> Dataset:
    """The attributes of a step that ends, with what it made."""
    told, series = Dataset(), Dataset()
    series.SeriesInstanceUID = series_instance_uid
    series.ReferencedImageSequence = [_reference(uid) for uid in sop_instance_uids]
    told.PerformedSeriesSequence = [series]
    told.PerformedProcedureStepStatus = status
    return told


def _reference(sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def perform(port: int, study_instance_uid: str, series_instance_uid: str, sop_instance_uids: Sequence[str]) -> None:
    """A whole step: begun, and completed with these images."""
    with association(port) as modality:
        uid = generate_uid()
        status, _ = modality.send_n_create(begun(study_instance_uid), SOP_CLASS, uid)
        assert status.Status == 0x0000
        status, _ = modality.send_n_set(ended(series_instance_uid, sop_instance_uids), SOP_CLASS, uid)
        assert status.Status == 0x0000
