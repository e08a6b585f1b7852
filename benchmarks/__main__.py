"""Runs the benchmarks that are named, or all but the long ones, and writes their tables to docs/benchmarks/."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import audit, end_to_end, ingest, orders, subscriptions
from benchmarks.fhir import compare

_ALL = {
    "ingest": ingest.run,
    "orders": orders.run,
    "end-to-end": end_to_end.run,
    "fhir": compare.run,
    "audit": audit.run,
}
_LONG = {"fhir-export": compare.run_export, "subscriptions": subscriptions.run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*_ALL, *_LONG, []], help="all but the long ones if none")
    parser.add_argument("--quick", action="store_true", help="small counts, to see that everything runs")
    arguments = parser.parse_args()
    results = Path(__file__).parents[1] / "docs" / "benchmarks"
    for name in arguments.names or _ALL:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="wetread-bench-") as folder:
            table = {**_ALL, **_LONG}[name](Path(folder), quick=arguments.quick)
        print(table, flush=True)
        if not arguments.quick:
            (results / f"{name}-latest.md").write_text(table)


main()
