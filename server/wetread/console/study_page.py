"""What the page of one study shows, limited to what its reader may see."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from wetread.domain.finding import Reading
from wetread.domain.priority import Priority
from wetread.domain.reader import Reader
from wetread.reading import answers, orders, runs, studies, worklist
from wetread.reading.orders import Order
from wetread.reading.runs import Run
from wetread.reading.studies import Study
from wetread.results import identity, narrative
from wetread.store.database import Connection


@dataclass(frozen=True, slots=True)
class RunView:
    """`reading` is None where there is nothing this reader may see, or nothing yet (`is_on_request`); `report_id` where
    no DiagnosticReport exists."""

    run: Run
    is_held: bool
    is_on_request: bool
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
    (study,) = await answers.without_concealed(conn, reader, [await studies.by_id(conn, reader, study_id)])
    released = [r for r in await runs.of_study(conn, study.study_instance_uid) if r.phase.is_released]
    concealed = await answers.concealed(conn, reader, [r for r in released if r.reading])
    wanted = [study.service_request_id] if study.service_request_id else list(study.candidates)
    found = [await orders.by_id(conn, one) for one in wanted] if reader.may("r", "ServiceRequest") else []
    known = [order for order in found if order is not None]
    return StudyView(
        study=study,
        priority=Priority(study.priority).code,
        reason=worklist.reason(study),
        order=known[0] if known and study.service_request_id else None,
        candidates=[] if study.service_request_id else known,
        runs=[_run_view(run, study, reader, run.id in concealed, demo) for run in _in_order(released, concealed)],
    )


def _in_order(released: Sequence[Run], concealed: Set[str]) -> list[Run]:
    """Newest revision first, and in it the gravest answer; the place tells nothing of what is concealed."""

    def place(run: Run) -> tuple[int, int]:
        findings = run.reading.findings if run.reading and run.id not in concealed else ()
        return -run.revision, -max((worklist.gravity(finding) for finding in findings), default=0)

    return sorted(released, key=place)


def _run_view(run: Run, study: Study, reader: Reader, is_concealed: bool, demo: bool) -> RunView:
    may_see = answers.has_visible_answer(run, study, reader)
    reading = run.reading if may_see and not is_concealed else None
    return RunView(
        run=run,
        is_held=answers.is_held(run, study),
        is_on_request=may_see and is_concealed,
        reading=reading,
        caveats=narrative.caveats(reading, demo=demo) if reading else (),
        report_id=identity.report_id(reading) if reading and run.state == "reported" else None,
    )
