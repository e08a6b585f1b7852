"""What the page of one study shows, limited to what its reader may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wetread.domain.finding import Reading
from wetread.domain.priority import Priority
from wetread.domain.reader import Reader
from wetread.reading import orders, pictures, runs, studies, worklist
from wetread.reading.orders import Order
from wetread.reading.runs import Run
from wetread.reading.studies import Study
from wetread.results import identity, narrative
from wetread.store.database import Connection


@dataclass(frozen=True, slots=True)
class RunView:
    """`reading` is None where there is nothing this reader may see; `report_id` where no DiagnosticReport exists."""

    run: Run
    is_held: bool
    reading: Reading | None
    caveats: tuple[str, ...]
    report_id: str | None


@dataclass(frozen=True, slots=True)
class StudyView:
    study: Study
    priority: str
    reason: str
    order: Order | None
    candidates: Sequence[Order]
    runs: Sequence[RunView]


async def study_view(conn: Connection, reader: Reader, study_id: str, *, demo: bool) -> StudyView:
    """The study with its order, the orders it may belong to, and its released runs, newest revision first.

    Orders are shown to who may read ServiceRequest. Raises NotFound, Forbidden.
    """
    study = await studies.by_id(conn, reader, study_id)
    released = [r for r in await runs.of_study(conn, study.study_instance_uid) if r.phase.is_released]
    wanted = [study.service_request_id] if study.service_request_id else list(study.candidates)
    found = [await orders.by_id(conn, one) for one in wanted] if reader.may("r", "ServiceRequest") else []
    known = [order for order in found if order is not None]
    return StudyView(
        study=study,
        priority=Priority(study.priority).code,
        reason=worklist.reason(study),
        order=known[0] if known and study.service_request_id else None,
        candidates=[] if study.service_request_id else known,
        runs=[_run_view(run, study, reader, demo) for run in sorted(released, key=_place)],
    )


def _place(run: Run) -> tuple[int, int]:
    """Newest revision first, and in it the gravest answer."""
    findings = run.reading.findings if run.reading else ()
    return -run.revision, -max((worklist.gravity(finding) for finding in findings), default=0)


def _run_view(run: Run, study: Study, reader: Reader, demo: bool) -> RunView:
    reading = run.reading if pictures.has_visible_answer(run, study, reader) else None
    return RunView(
        run=run,
        is_held=pictures.is_held(run, study),
        reading=reading,
        caveats=narrative.caveats(reading, demo=demo) if reading else (),
        report_id=identity.report_id(reading) if reading and run.state == "reported" else None,
    )
