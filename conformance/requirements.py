"""The requirement ledgers: what each guide asks of a server, and the test that holds it or the reason why it has none.

Run as a module it prints how many rows each ledger has, how many of them a test holds, and how many have a reason.
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEDGERS = Path(__file__).parent / "ledger"


@dataclass(frozen=True)
class Requirement:
    id: str
    conformance: str
    requirement: str
    test: str
    """As pytest names it, without parameters; empty where there is a reason."""
    reason: str


def ledgers() -> Mapping[str, Sequence[Requirement]]:
    """The rows of every ledger, by the name of its file."""
    return {file.name: _rows(file) for file in sorted(LEDGERS.glob("*.csv"))}


def is_a_test(name: str) -> bool:
    """Whether the file of this repository has a test of this name."""
    file, _, test = name.partition("::")
    return (ROOT / file).is_file() and test in _tests_of(file)


def _rows(file: Path) -> list[Requirement]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [Requirement(**row) for row in csv.DictReader(lines)]


@cache
def _tests_of(file: str) -> frozenset[str]:
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        within = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and inner.name.startswith("test_"):
                found.add(f"{within}{inner.name}")
    return frozenset(found)


def main() -> None:
    for name, rows in ledgers().items():
        held = sum(bool(row.test) for row in rows)
        print(f"{name}: {len(rows)} requirements, {held} held by tests, {len(rows) - held} with a reason")


if __name__ == "__main__":
    main()
