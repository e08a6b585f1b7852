"""Our validation beside the HL7 validator's on the public test cases (github.com/FHIR/fhir-test-cases, Apache-2.0).

    python -m conformance.r4.agreement CASES     CASES: a checkout of that repository

The judgements of the HL7 validator stand in the repository (validator/outcomes/java), so Java is not run. Taken are the
R4 cases in JSON that load no package, no logical model and no certificates, and set no option that makes the validator
overlook something. A case that names a profile is also judged against it, with what it gives as supporting definitions
and R4's own. `fhirkit` (PyPI: fhirkit-rs) is judged beside us where it is installed.

The cases are too large to commit; the table of the last run is docs/benchmarks/fhir-validation.md.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.r4 import tables

from wetread.errors import InvalidInput
from wetread.record import lossless
from wetread.record.validation import validate

_NOT_ALONE = ("packages", "logical", "matchetype", "certificate", "ips", "supporting5")
_OVERLOOKING = ("allow-comments", "advisor", "validateContains")
_KINDS = (
    ("terminology: codes and displays of code systems, value sets not of R4's required bindings", (
        r"Wrong Display|[Uu]nknown code|in the value set|from the value set|is not valid in the system"
        r"|CodeSystem|ECL|filter|concept|displayLanguage|references a value set"
    )),
    ("extensions that no definition is known of, or in a place or of a type not theirs", (
        r"could not be found so is not allowed|[Ee]xtension .*(allows for the types|not allowed to be used)"
    )),
    ("links within a Bundle, its entries and signatures", (
        r"in the bundle|in bundle|fullUrl|must have ids|link relationship|search|OperationOutcome|signature"
    )),
    ("R4's vital signs profiles, which the validator applies by code", r"magic LOINC code"),
    ("rules of the validator's own for definitions (SearchParameter, ValueSet, FHIRPath in expressions)", (
        r"SearchParameter|ValueSet|Canonical URLs|URI values|Snapshot|FHIRPath|refers to a resource|committee|derived"
        r"|expression"
    )),
    ("policy: example URLs, text that looks like HTML", r"Example URLs|HTML"),
    ("an invariant", r"Constraint failed"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    file: Path
    profile: str
    definitions: Mapping[str, Mapping[str, Any]]
    errors: tuple[str, ...]
    """What the HL7 validator says is an error."""


def cases(root: Path) -> Iterator[Case]:
    folder = root / "validator"
    core = {d["url"]: d for d in tables.definitions() if "url" in d}
    for row in json.loads((folder / "manifest.json").read_text("utf-8-sig"))["test-cases"]:
        usable = str(row.get("version", "")).startswith("4.0") and row["file"].endswith(".json")
        if not usable or row.get("use-test") is False or any(row.get(k) for k in (*_NOT_ALONE, *_OVERLOOKING)):
            continue
        given = [*row.get("supporting", ()), *row.get("profiles", ())]
        if not given and (case := _case(folder, row["name"], row, row.get("java"), "", [], {})):
            yield case
        step = row.get("profile")
        if isinstance(step, Mapping) and not step.get("packages"):
            source = step["source"]
            files = [*given, *step.get("supporting", ()), *([] if source.startswith("http") else [source])]
            if case := _case(folder, f"{row['name']} (profile)", row, step.get("java"), source, files, core):
                yield case


def _case(
    folder: Path,
    name: str,
    row: Mapping[str, Any],
    outcome: Any,
    source: str,
    files: list[str],
    core: Mapping[str, Any],
) -> Case | None:
    """None where a file is not in the checkout or is no JSON."""
    said = folder / "outcomes" / str(outcome)
    if not isinstance(outcome, str) or not all(p.is_file() for p in (said, folder / row["file"])):
        return None
    if not all(f.endswith(".json") and (folder / f).is_file() for f in files):
        return None
    definitions = dict(core)
    for file in files:
        content = json.loads((folder / file).read_text("utf-8-sig"))
        parts = [e.get("resource", {}) for e in content.get("entry", ())] or [content]
        definitions |= {part["url"]: part for part in parts if "url" in part}
    url = source
    if source and not source.startswith("http"):
        url = json.loads((folder / source).read_text("utf-8-sig"))["url"]
    issues = json.loads(said.read_text("utf-8-sig")).get("issue", ())
    errors = [i.get("details", {}).get("text", "") for i in issues if i["severity"] in ("error", "fatal")]
    return Case(name, folder / row["file"], url, definitions, tuple(errors))


def ours(case: Case) -> list[str]:
    """What Wetread says is wrong."""
    try:
        content = lossless.parse(case.file.read_text("utf-8-sig"))
    except InvalidInput as error:
        return [error.message]
    if case.profile:
        found = validate.check_profile(content, case.profile, case.definitions)
    else:
        found = validate.issues(content)
    return [f"{i.expression}: {i.text}" for i in found]


def fhirkit(case: Case) -> list[str] | None:
    """What fhirkit says is wrong; None where it is not installed or the case is one of a profile."""
    try:
        module = importlib.import_module("fhirkit")
    except ImportError:
        return None
    if case.profile:
        return None
    try:
        found = module.validate(case.file.read_text("utf-8-sig"))
    except ValueError as error:
        return [str(error)]
    return [
        str(i) for i in found if str(getattr(i, "severity", "error")).lower().rpartition(".")[2] in ("error", "fatal")
    ]


def kind(case: Case) -> str:
    for name, pattern in _KINDS:
        if any(re.search(pattern, text) for text in case.errors):
            return name
    return "other"


def main(root: Path) -> None:
    rows: dict[str, Counter[tuple[bool, bool]]] = {}
    misses: Counter[str] = Counter()
    alarms: list[str] = []
    for case in cases(root):
        for judge, said in (("Wetread", ours(case)), ("fhirkit", fhirkit(case))):
            if said is None:
                continue
            name = f"{judge}, {'profiles' if case.profile else 'R4 alone'}"
            rows.setdefault(name, Counter())[bool(case.errors), bool(said)] += 1
            if judge == "Wetread" and case.errors and not said:
                misses[kind(case)] += 1
            if judge == "Wetread" and said and not case.errors:
                alarms.append(f"{case.name}: {said[0]}")
    print("| judge, cases | both error | both clean | misses | false alarms |\n|---|---|---|---|---|")
    for name, counts in rows.items():
        counted = [counts[k] for k in ((True, True), (False, False), (True, False), (False, True))]
        print(f"| {name} | " + " | ".join(map(str, counted)) + " |")
    print("\n| Wetread's misses, by the first kind that fits | cases |\n|---|---|")
    for name, count in misses.most_common():
        print(f"| {name} | {count} |")
    for alarm in alarms:
        print("false alarm:", alarm)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
