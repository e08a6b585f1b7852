"""What a report lets out, asked once more in the moment of reporting."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.read_studies import BLEED, PHANTOM, ReadStudies, package

from wetread.domain.destination import Destination
from wetread.domain.phase import Phase
from wetread.domain.reader import SYSTEM, Reader
from wetread.domain.study import CompletenessRule, StudyState
from wetread.governance import silent
from wetread.governance.phases import change_phase
from wetread.mapping.site import Site
from wetread.reading import outbox, studies
from wetread.reading.conclusion import NOT_READ
from wetread.reading.joining import Joining
from wetread.reading.report import Report, Sender
from wetread.reading.settle import Settle
from wetread.record import resources
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database, SyncDatabase
from wetread.work.jobs import Payload, Work

MODEL = "cxr-pneumonia-peds"
GOVERNOR = Reader("governor", roles=frozenset({"governance"}))
STAFF = Reader("staff", SYSTEM.scopes, frozenset({"administrator", "radiologist"}))


async def _nobody(step: str, payload: Payload, error: BaseException) -> None:
    raise AssertionError(f"{step} died of {error}")


ALERTS = Destination("alerts", "mllp", frozenset({"alert"}))


class DiesOverDocumentsError(Exception):
    """In place of a process that dies between its two transactions."""


class DyingReport(Report):
    def _documents(self, material: Any) -> Any:
        raise DiesOverDocumentsError


async def _report(database: Database, blobs: LocalBlobs, kind: type[Report] = Report) -> Report:
    work = Work(database, _nobody)
    await work.open()
    site = Site(b"k" * 32, {}, "urn:test", ZoneInfo("UTC"))
    sender = Sender("WETREAD", "TEST", "T", "Test")
    return kind(database, work, blobs, site, sender, (ALERTS,), "http://127.0.0.1:8080")


async def _alerted(database: Database) -> tuple[bool, str, list[str]]:
    """Whether the study is marked critical, why, and the states of its alerts."""
    async with database.transaction() as conn:
        [study] = await studies.sickest(conn, STAFF, 10)
        alerts = await outbox.entries(conn, STAFF, [], 10)
    return study.critical, study.critical_reason, [alert.state for alert in alerts]


@pytest.mark.parametrize(
    ("today", "marked", "states"),
    [(Phase.ACTIVE, True, ["pending"]), (Phase.CONCURRENT, False, ["dead"]), (Phase.SILENT, False, ["dead"])],
)
async def test_what_is_critical_goes_ahead_once_and_is_taken_back_with_its_model(
    database: Database, sync_database: SyncDatabase, blobs: LocalBlobs, today: Phase, marked: bool, states: list[str]
) -> None:
    put = ReadStudies(database, sync_database, blobs)
    study = await put.study(PHANTOM, state=StudyState.COMPLETE)
    run_id = await put.run(study, PHANTOM, BLEED, Phase.ACTIVE, "done")
    dying = await _report(database, blobs, DyingReport)
    for _ in range(2):
        with pytest.raises(DiesOverDocumentsError):
            await dying({"run_id": run_id})
        critical, reason, pending = await _alerted(database)
        assert (critical, BLEED in reason, pending) == (True, True, ["pending"])
    async with database.transaction() as conn:
        await change_phase(conn, GOVERNOR, BLEED, package(BLEED).identity.digest, today, "a complaint")
    await (await _report(database, blobs))({"run_id": run_id})
    critical, reason, left = await _alerted(database)
    assert (critical, bool(reason), left) == (marked, marked, states)


async def test_what_is_made_of_a_run_is_known_to_be_of_it(
    database: Database, sync_database: SyncDatabase, blobs: LocalBlobs
) -> None:
    put = ReadStudies(database, sync_database, blobs)
    run_id = await put.run(await put.study(PHANTOM), PHANTOM, BLEED, state="done")
    await (await _report(database, blobs))({"run_id": run_id})
    async with database.transaction() as conn:
        rows = await conn.execute(
            "SELECT facts ->> 'modality', run_id FROM instance WHERE origin = 'produced' ORDER BY 1"
        )
        assert await rows.fetchall() == [("SEG", run_id), ("SR", run_id)]
        received = await conn.execute("SELECT FROM instance WHERE origin = 'received' AND run_id IS NOT NULL")
        assert received.rowcount == 0


async def test_a_mark_goes_with_its_revision_where_no_model_reads_the_next(
    database: Database, sync_database: SyncDatabase, blobs: LocalBlobs
) -> None:
    put = ReadStudies(database, sync_database, blobs)
    study = await put.study(PHANTOM, state=StudyState.COMPLETE)
    await (await _report(database, blobs))({"run_id": await put.run(study, PHANTOM, BLEED, Phase.ACTIVE, "done")})
    assert (await _alerted(database))[0]
    async with database.transaction() as conn:
        [marked] = await studies.sickest(conn, STAFF, 10)
        await studies.update(conn, replace(marked, state=StudyState.RECEIVING, revision=marked.revision + 1))
        await conn.execute("UPDATE instance SET noticed = true")
    work = Work(database, _nobody)
    await work.open()
    site = Site(b"k" * 32, {}, "urn:test", ZoneInfo("UTC"))
    joining = Joining(work, timedelta(days=1), match_on_patient=False)
    at_once = CompletenessRule(timedelta(0), timedelta(0))
    settle = Settle(database, work, site, [], {}, joining, at_once, Phase.ACTIVE)
    assert await settle({"study_id": marked.id, "revision": marked.revision + 1}) is None
    critical, reason, _ = await _alerted(database)
    assert (critical, reason) == (False, "")
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT body FROM audit_event WHERE kind = 'study-completed'")
        assert [NOT_READ in row[0] for row in await rows.fetchall()] == [True]


async def _reported_after_a_change(
    database: Database, sync_database: SyncDatabase, blobs: LocalBlobs, queued_as: Phase, today: Phase
) -> tuple[int, int]:
    """How many Observations and how many silent results stand after the report."""
    put = ReadStudies(database, sync_database, blobs)
    study = await put.study("chest-film", state=StudyState.COMPLETE)
    run_id = await put.run(study, "chest-film", MODEL, queued_as, "done")
    async with database.transaction() as conn:
        await change_phase(conn, GOVERNOR, MODEL, package(MODEL).identity.digest, today, "a complaint")
    await (await _report(database, blobs))({"run_id": run_id})
    async with database.transaction() as conn:
        observations = await resources.find(conn, SYSTEM, "Observation", [])
        kept = await silent.results(conn, GOVERNOR, MODEL, 10)
    return len(observations), len(kept)


@pytest.mark.parametrize(
    ("queued_as", "today", "observations", "kept"),
    [
        (Phase.ACTIVE, Phase.SILENT, 0, 1),
        (Phase.ACTIVE, Phase.CONCURRENT, 1, 0),
        (Phase.SILENT, Phase.ACTIVE, 0, 1),
    ],
)
async def test_a_model_restricted_after_its_run_was_queued_lets_out_no_more_than_it_may_now_and_never_more_than_then(
    database: Database,
    sync_database: SyncDatabase,
    blobs: LocalBlobs,
    queued_as: Phase,
    today: Phase,
    observations: int,
    kept: int,
) -> None:
    found = await _reported_after_a_change(database, sync_database, blobs, queued_as, today)
    assert found == (observations, kept)
