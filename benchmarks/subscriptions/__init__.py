"""Subscriptions under load: what matching costs, how fast and how soon notifications arrive, and HAPI beside it."""

from __future__ import annotations

from pathlib import Path


def run(folder: Path, *, quick: bool) -> str:
    """The page of all figures: a quarter of an hour."""
    from benchmarks.subscriptions import compare, idle_sockets, matching, report

    plan = compare.QUICK if quick else compare.WHOLE
    matched = matching.run(folder, quick=quick)
    rows = compare.run(folder, plan)
    backlog = compare.run_backlog(folder, plan)
    return report.page(matched, rows, backlog, idle_sockets.run(folder / "sockets", quick=quick), plan)
