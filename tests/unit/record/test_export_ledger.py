"""The ledger of Bulk Data Access: each requirement on a server has a test that exists, or a reason why it has none."""

from __future__ import annotations

import ast
import csv
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LEDGER = ROOT / "conformance" / "ledger" / "bulk-data.csv"


def rows() -> list[dict[str, str]]:
    with LEDGER.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def names_in(file: str) -> frozenset[str]:
    """The tests of a file, as pytest names them."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(f"{node.name}::{inner.name}" if isinstance(node, ast.ClassDef) else inner.name)
    return frozenset(found)


def test_it_has_every_requirement_of_the_guide_once() -> None:
    ids = [row["id"] for row in rows()]
    assert len(ids) == len(set(ids)) == 119


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["id"])
def test_a_requirement_is_held_or_explained(row: dict[str, str]) -> None:
    assert bool(row["test"]) != bool(row["reason"])
    if row["test"]:
        file, _, name = row["test"].partition("::")
        assert name in names_in(file)
