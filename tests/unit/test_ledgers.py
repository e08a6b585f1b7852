"""The requirement ledgers: each requirement on a server has a test that exists, or a reason why it has none."""

from __future__ import annotations

import pytest
from conformance.requirements import LEDGERS, is_a_test, ledgers

ROWS = {"bulk-data.csv": 119, "smart-app-launch.csv": 172, "balp.csv": 390, "subscriptions.csv": 70}


def test_each_guide_has_its_ledger_and_the_page_of_ledgers_names_it() -> None:
    assert set(ledgers()) == set(ROWS)
    page = (LEDGERS / "README.md").read_text(encoding="utf-8")
    assert [name for name in ROWS if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", ROWS)
def test_a_ledger_has_every_requirement_of_its_guide_once(name: str) -> None:
    ids = [row.id for row in ledgers()[name]]
    assert len(ids) == len(set(ids)) == ROWS[name]


@pytest.mark.parametrize("name", ROWS)
def test_a_requirement_is_held_by_a_test_that_exists_or_explained(name: str) -> None:
    rows = ledgers()[name]
    assert [row.id for row in rows if bool(row.test) == bool(row.reason)] == []
    assert [f"{row.id}: {row.test}" for row in rows if row.test and not is_a_test(row.test)] == []
    assert all(row.conformance in ("SHALL", "SHALL NOT") and row.requirement for row in rows)


def test_a_test_that_is_not_there_is_found() -> None:
    here = "tests/unit/test_ledgers.py"
    assert is_a_test(f"{here}::test_a_test_that_is_not_there_is_found")
    assert not is_a_test(f"{here}::test_nobody_wrote")
    assert not is_a_test("tests/unit/test_nowhere.py::test_a_test_that_is_not_there_is_found")
