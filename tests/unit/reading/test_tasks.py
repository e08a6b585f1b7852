"""The Task moves as its state machine allows (FHIR R4 task.html#statemachine)."""

from __future__ import annotations

from typing import Any

import pytest

from wetread.domain.reader import SYSTEM
from wetread.reading import tasks
from wetread.record import resources
from wetread.store.database import Connection, Database

AT = "2026-11-20T09:00:00+00:00"
ID = "0b5a4c55-7d3e-5d2c-9d5b-2f6c5a0e7a11"


async def stored(conn: Connection, **changed: Any) -> None:
    task = tasks.without_order(ID, "p", "s", "2026-11-20T08:00:00+00:00")
    await resources.put(conn, task | changed)


async def now(conn: Connection) -> dict[str, Any]:
    return (await resources.read(conn, SYSTEM, "Task", ID)).resource()


async def test_a_task_takes_status_reason_inputs_and_outputs_and_keeps_no_old_reason(database: Database) -> None:
    async with database.transaction() as conn:
        await stored(conn)
        await tasks.move(conn, ID, "on-hold", at=AT, reason="two orders", inputs=[("routing-choice", "m reads")])
        held = await now(conn)
        await tasks.move(conn, ID, "completed", at=AT, outputs=["Observation/o"])
        ended = await now(conn)
    assert (held["status"], held["statusReason"]) == ("on-hold", {"text": "two orders"})
    assert tasks.inputs_of(held) == tasks.inputs_of(ended) == [("routing-choice", "m reads")]
    assert "statusReason" not in ended
    assert [o["valueReference"] for o in ended["output"]] == [{"reference": "Observation/o"}]


@pytest.mark.parametrize(
    ("status", "reopen", "becomes"),
    [
        ("completed", False, "completed"),
        ("completed", True, "in-progress"),
        ("rejected", True, "in-progress"),
        ("cancelled", True, "cancelled"),
        ("entered-in-error", True, "entered-in-error"),
    ],
)
async def test_an_ended_task_opens_for_a_new_revision_only_and_a_cancelled_one_never(
    database: Database, status: str, reopen: bool, becomes: str
) -> None:
    async with database.transaction() as conn:
        await stored(conn, status=status)
        await tasks.move(conn, ID, "in-progress", at=AT, reopen=reopen)
        assert (await now(conn))["status"] == becomes


async def test_a_hold_ends_only_for_the_reason_it_was_laid_for(database: Database) -> None:
    async with database.transaction() as conn:
        await stored(conn, status="on-hold", statusReason={"text": "The order is on hold"})
        await tasks.release(conn, ID, "two orders", at=AT)
        assert (await now(conn))["status"] == "on-hold"
        await tasks.release(conn, ID, "The order is on hold", at=AT)
        assert (await now(conn))["status"] == "requested"


async def test_a_move_to_where_the_task_is_writes_no_version(database: Database) -> None:
    async with database.transaction() as conn:
        await stored(conn)
        await tasks.move(conn, ID, "in-progress", at=AT)
        before = (await now(conn))["meta"]["versionId"]
        await tasks.move(conn, ID, "in-progress", at="2026-11-20T09:30:00+00:00")
        assert (await now(conn))["meta"]["versionId"] == before
