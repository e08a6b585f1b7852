"""The public FHIRPath test suite for R4 (r4/fhirpath/tests-fhir-r4.xml of github.com/FHIR/fhir-test-cases, Apache-2.0).

    python -m conformance.r4.fhirpath_suite CASES EXAMPLES

CASES: a checkout of that repository; EXAMPLES: R4's official examples as JSON files. Prints each test that fails, and
counts; a test whose input is no official example is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from wetread.record import fhirpath, lossless
from wetread.record.fhirpath import navigation


def tests(cases: Path, examples: Path) -> Iterator[tuple[ElementTree.Element, dict[str, Any]]]:
    found = {f.stem: f for f in examples.rglob("*.json")}
    for test in ElementTree.parse(cases / "r4/fhirpath/tests-fhir-r4.xml").iter("test"):
        name = test.get("inputfile")
        file = found.get(Path(name).stem) if name else None
        if file or not name:
            yield test, lossless.parse(file.read_text("utf-8-sig")) if file else {"resourceType": "Basic"}


def result(test: ElementTree.Element, resource: dict[str, Any]) -> list[str]:
    """The items that the expression gives, as text. Raises what evaluation raises."""
    found = fhirpath.compiled(test.findtext("expression", ""))(fhirpath.root(resource))
    if test.get("predicate") == "true" and not (len(found) == 1 and isinstance(fhirpath.plain(found[0]), bool)):
        found = [bool(found)]
    return [navigation.string_of(item) or "" for item in found]


def passes(test: ElementTree.Element, resource: dict[str, Any]) -> bool:
    wrong = bool(test.find("expression").get("invalid"))  # type: ignore[union-attr]
    try:
        found = result(test, resource)
    except (fhirpath.NotFhirPath, fhirpath.Undecided, TypeError, ValueError, ArithmeticError, AttributeError):
        return wrong
    wanted = [(o.text or "").strip().removeprefix("@").removeprefix("T") for o in test.findall("output")]
    return not wrong and len(found) == len(wanted) and all(map(_same, found, wanted))


def _same(found: str, wanted: str) -> bool:
    try:
        return Decimal(found) == Decimal(wanted)
    except InvalidOperation:
        return found.strip().replace("Z", "+00:00") == wanted.replace("Z", "+00:00")


def main(cases: Path, examples: Path) -> None:
    passed = total = 0
    for test, resource in tests(cases, examples):
        total += 1
        if passes(test, resource):
            passed += 1
        else:
            print("fails:", test.get("name"), test.findtext("expression"))
    print(f"{passed} of {total}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
