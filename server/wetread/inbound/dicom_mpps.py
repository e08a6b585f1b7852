"""The Modality Performed Procedure Step SCP: N-CREATE and N-SET (PS3.4 F.7). It tells when a study is complete."""

from __future__ import annotations

import logging
from typing import Any

from pydicom.dataset import Dataset

from wetread.archive import performed
from wetread.errors import InvalidInput, WetreadError
from wetread.store.database import SyncDatabase

logger = logging.getLogger(__name__)

_SUCCESS = 0x0000
_PROCESSING_FAILURE = 0x0110
_MAY_NO_LONGER_BE_UPDATED = 0xA506


class _InvalidValue(InvalidInput):
    dimse_status = 0x0106


class _MissingAttribute(InvalidInput):
    dimse_status = 0x0120


class PerformedSteps:
    """The handlers of the two services; each answers after its transaction has committed."""

    def __init__(self, database: SyncDatabase) -> None:
        self._database = database

    def on_create(self, event: Any) -> tuple[int | Dataset, Dataset | None]:
        """A step begins: its status is IN PROGRESS and it names its study (PS3.4 table F.7.2-1)."""

        def begin() -> Dataset:
            told: Dataset = event.attribute_list
            if told.get("PerformedProcedureStepStatus") != performed.IN_PROGRESS:
                raise _InvalidValue("a new step is IN PROGRESS", location="PerformedProcedureStepStatus")
            scheduled = told.get("ScheduledStepAttributesSequence")
            uid = str(scheduled[0].get("StudyInstanceUID", "")) if scheduled else ""
            if not uid:
                raise _MissingAttribute("the step names no study", location="StudyInstanceUID")
            source = str(event.assoc.requestor.ae_title).strip()
            with self._database.transaction() as conn:
                performed.begin(conn, str(event.request.AffectedSOPInstanceUID or ""), uid, source=source)
            return told

        return _answered(begin)

    def on_set(self, event: Any) -> tuple[int | Dataset, Dataset | None]:
        """A step goes on or ends; its end says which instances were made (PS3.4 F.7.2.2)."""

        def end() -> Dataset:
            told: Dataset = event.modification_list
            status = str(told.get("PerformedProcedureStepStatus", performed.IN_PROGRESS))
            if status not in (performed.IN_PROGRESS, *performed.ENDED):
                raise _InvalidValue("not a status of a step", location="PerformedProcedureStepStatus")
            with self._database.transaction() as conn:
                performed.end(conn, str(event.request.RequestedSOPInstanceUID), status, _instances(told))
            return told

        return _answered(end)


def _instances(told: Dataset) -> int:
    """How many instances the Performed Series Sequence lists, images and others (PS3.3 C.4.15)."""
    kinds = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
    return sum(len(series.get(kind) or ()) for series in told.get("PerformedSeriesSequence") or () for kind in kinds)


def _answered(do: Any) -> tuple[int | Dataset, Dataset | None]:
    try:
        return _SUCCESS, do()
    except WetreadError as error:
        answer = Dataset()
        answer.Status = error.dimse_status
        answer.ErrorComment = error.message[:64]
        if isinstance(error, performed.Ended):
            answer.ErrorID = _MAY_NO_LONGER_BE_UPDATED
        return answer, None
    except Exception as error:
        logger.error("DICOM: a performed procedure step failed with %s", type(error).__name__)
        return _PROCESSING_FAILURE, None
