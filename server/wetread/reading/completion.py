"""A study is complete because somebody who knows says so: a technologist, MPPS, or the order's own status."""

from __future__ import annotations

from dataclasses import replace

from wetread.domain.reader import Reader
from wetread.domain.study import StudyState
from wetread.errors import Conflict, NotFound
from wetread.reading import studies
from wetread.reading.steps import SETTLE
from wetread.store.database import Connection
from wetread.work.jobs import Work


async def declare_complete(conn: Connection, reader: Reader, work: Work, study_id: str) -> None:
    """Ends the wait for further instances now. Raises NotFound, Forbidden, Conflict where the study is not growing."""
    reader.require("u", "ImagingStudy")
    study = await studies.lock(conn, (await studies.by_id(conn, reader, study_id)).study_instance_uid)
    if study is None:
        raise NotFound("no study has this id")
    if study.state is not StudyState.RECEIVING:
        raise Conflict("the study is complete already")
    await studies.update(conn, replace(study, declared_complete=True))
    await work.enqueue(conn, SETTLE, {"study_id": study.id, "revision": study.revision}, priority=study.priority)
