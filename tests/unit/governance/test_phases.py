"""The phase of a model at this site: the newest word holds, and only those who govern say it."""

from __future__ import annotations

import pytest

from wetread.domain.phase import Phase
from wetread.domain.reader import Reader
from wetread.errors import Forbidden, InvalidInput
from wetread.governance import phases, silent
from wetread.store.database import Database

GOVERNOR = Reader("gov", roles=frozenset({"governance"}))
AUDITOR = Reader("aud", roles=frozenset({"auditor"}))
RADIOLOGIST = Reader("rad", roles=frozenset({"radiologist"}))


@pytest.mark.parametrize(
    ("phase", "is_released", "may_alert"),
    [(Phase.SILENT, False, False), (Phase.CONCURRENT, True, False), (Phase.ACTIVE, True, True)],
)
def test_each_phase_lets_out_more(phase: Phase, is_released: bool, may_alert: bool) -> None:
    assert (phase.is_released, phase.may_alert) == (is_released, may_alert)


async def test_the_newest_word_holds_for_exactly_these_weights(database: Database) -> None:
    async with database.transaction() as conn:
        assert await phases.phase_of(conn, "m", "d1", Phase.SILENT) is Phase.SILENT
        await phases.change_phase(conn, GOVERNOR, "m", "d1", Phase.CONCURRENT, "trial")
        await phases.change_phase(conn, GOVERNOR, "m", "d1", Phase.ACTIVE, "board of 20 November")
        assert await phases.phase_of(conn, "m", "d1", Phase.SILENT) is Phase.ACTIVE
        assert await phases.phase_of(conn, "m", "d2", Phase.SILENT) is Phase.SILENT, "new weights begin anew"
        told = await phases.history(conn, AUDITOR)
    assert [(c.phase, c.changed_by, c.reason) for c in told] == [
        (Phase.ACTIVE, "gov", "board of 20 November"),
        (Phase.CONCURRENT, "gov", "trial"),
    ]


async def test_only_who_governs_changes_a_phase_and_only_with_a_reason(database: Database) -> None:
    async with database.transaction() as conn:
        for reader in (AUDITOR, RADIOLOGIST):
            with pytest.raises(Forbidden):
                await phases.change_phase(conn, reader, "m", "d", Phase.ACTIVE, "please")
        with pytest.raises(InvalidInput):
            await phases.change_phase(conn, GOVERNOR, "m", "d", Phase.ACTIVE, "  ")
        with pytest.raises(Forbidden):
            await phases.history(conn, RADIOLOGIST)


async def test_a_silent_result_is_kept_once_and_shown_to_who_governs(database: Database) -> None:
    async with database.transaction() as conn:
        for said in ({"findings": 1}, {"findings": 2}):
            await silent.keep(conn, "run", "1.2", "m", "d", said)
        [kept] = await silent.results(conn, GOVERNOR, "m", 10)
        assert kept.reading == {"findings": 1}
        for reader in (AUDITOR, RADIOLOGIST):
            with pytest.raises(Forbidden):
                await silent.results(conn, reader, "m", 10)
