"""What a run said, and who may see it: a silent run's nobody, a held one's who may resolve it, and one that the site
shows on request who has asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import replace

from wetread.domain.reader import Reader
from wetread.domain.study import MatchState
from wetread.errors import Forbidden, NotFound
from wetread.governance import display
from wetread.reading import runs, studies
from wetread.reading.joining import DECIDING_ROLES
from wetread.reading.runs import Run
from wetread.reading.studies import Study
from wetread.record.audit import audit
from wetread.store.database import Connection

ON_REQUEST = "shown on request"
"""What stands in the place of words that would tell a concealed finding."""


def may_see_results(reader: Reader) -> bool:
    """Whether the reader may see results at all: what stands on the FHIR face is no more open elsewhere."""
    return reader.may("r", "Observation") and reader.may("r", "DiagnosticReport")


def has_visible_answer(run: Run, study: Study, reader: Reader) -> bool:
    """Whether this reader may see what the run said: never of a silent run, and of one whose match to an order is in
    doubt only who may resolve it."""
    if not may_see_results(reader):
        return False
    if run.reading is None or not run.phase.is_released or run.state not in ("done", "held", "reported"):
        return False
    return not is_held(run, study) or bool(reader.roles & DECIDING_ROLES)


def is_held(run: Run, study: Study) -> bool:
    return run.state == "held" or (run.state == "done" and study.match_state is MatchState.HELD)


async def concealed(conn: Connection, reader: Reader, found: Iterable[Run]) -> frozenset[str]:
    """The ids of the runs whose findings are kept out of this reader's view until asked for."""
    models = await display.on_request(conn)
    kept = [run.id for run in found if run.model_name in models]
    return frozenset(kept) - await display.asked_for(conn, reader, kept) if kept else frozenset()


async def without_concealed(conn: Connection, reader: Reader, found: Sequence[Study]) -> list[Study]:
    """The studies, each without the words for what made it critical where a finding of it is concealed, or no result
    is for this reader."""
    critical = [study.study_instance_uid for study in found if study.critical]
    answered = await runs.answered_of_studies(conn, critical) if critical and may_see_results(reader) else []
    return worded(reader, found, answered, await concealed(conn, reader, answered))


def worded(reader: Reader, found: Sequence[Study], answered: Sequence[Run], kept: Set[str]) -> list[Study]:
    """As `without_concealed`, where the runs that have answered, and which of them are concealed, are known."""
    if not may_see_results(reader):
        return [replace(study, critical_reason="") for study in found]
    of = {run.study_instance_uid for run in answered if run.id in kept}
    return [replace(s, critical_reason=ON_REQUEST) if s.study_instance_uid in of else s for s in found]


async def reveal(conn: Connection, reader: Reader, run_id: str) -> Study:
    """Shows a run's findings to this reader from now on, and records it; gives the study of the run.

    Raises NotFound where there is nothing that this reader could be shown, Forbidden, also for an app: a person asks
    for themselves.
    """
    if reader.client_id not in (None, reader.principal):
        raise Forbidden(
            "an app cannot ask for findings in a person's name; they are asked for on the page of the study"
        )
    reader.require("r", "ImagingStudy")
    run = await runs.by_id(conn, run_id)
    if run is None:
        raise NotFound("no run with an answer has this id")
    study = await studies.by_uid(conn, reader, run.study_instance_uid)
    if not has_visible_answer(run, study, reader):
        raise NotFound("no run with an answer has this id")
    if await display.ask_for(conn, reader, run_id):
        about = audit.Entity(f"ImagingStudy/{study.id}", identifier=f"urn:oid:{study.study_instance_uid}")
        entry = audit.AuditEntry(
            kind="finding-revealed",
            action="R",
            outcome="0",
            principal=reader.principal,
            patient_id=study.patient_id,
            entities=(about,),
            detail={"model": run.model_name, "run": run_id},
        )
        await audit.write(conn, entry)
    return study
