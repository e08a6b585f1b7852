"""Validation of one resource: Wetread beside `fhir.resources` (R4B models) and `fhirkit` (PyPI: fhirkit-rs, Rust).

    python -m benchmarks.fhir.validation [--quick]     prints the table

Each judge starts from the text and parses it in its own way. Turns are interleaved; told is processor time, so that
other work on the machine counts little. `fhirkit` is left out where it is not installed. The three do not judge alike:
docs/benchmarks/fhir-validation.md tells what each finds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from fhir.resources.R4B import get_fhir_model_class

from wetread.record import lossless
from wetread.record.validation import validate

EXAMPLES = Path(__file__).parents[2] / "tests/data/fhir/examples"
_GROUPS = ("observation", "diagnosticreport", "imagingstudy", "patient", "servicerequest")
Judge = Callable[[str], object]


def _wetread(text: str) -> object:
    return validate.check(lossless.parse(text))


def _models(text: str) -> object:
    content = json.loads(text)
    return get_fhir_model_class(content["resourceType"]).model_validate(content)


def judges() -> dict[str, Judge]:
    found: dict[str, Judge] = {"Wetread": _wetread, "fhir.resources 8 (R4B)": _models}
    with contextlib.suppress(ImportError):
        found["fhirkit-rs"] = importlib.import_module("fhirkit").validate
    return found


def measured(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Group of examples, then judge, to milliseconds of each check."""
    times: dict[str, dict[str, list[float]]] = {}
    for group in _GROUPS:
        texts = [f.read_text("utf-8-sig") for f in sorted(EXAMPLES.glob(f"{group}-*.json"))]
        for turn in range(rounds + 1):
            for text in texts:
                for name, judge in judges().items():
                    start = time.process_time()
                    judge(text)
                    took = (time.process_time() - start) * 1000
                    if turn:  # the first turn compiles types and models
                        times.setdefault(f"{group} ({len(texts)})", {}).setdefault(name, []).append(took)
    return times


def table(rounds: int) -> str:
    rows = ["| examples | judge | median ms (CPU) | p95 ms (CPU) |", "|---|---|---|---|"]
    for group, by_judge in measured(rounds).items():
        for name, took in by_judge.items():
            p95 = statistics.quantiles(took, n=20)[-1]
            rows.append(f"| {group} | {name} | {statistics.median(took):.2f} | {p95:.2f} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(table(5 if parser.parse_args().quick else 100))


if __name__ == "__main__":
    main()
