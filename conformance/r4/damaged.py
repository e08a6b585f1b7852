"""Our validation beside the HL7 validator's on damaged copies of R4's official examples.

    python -m conformance.r4.damaged FOLDER [COUNT]     FOLDER: the examples as JSON files, at any depth

In each copy one member is removed, renamed, doubled or undoubled, or gets an odd value or what stands in another place.
Errors that R4's own examples have, or that cannot be judged without a terminology server or HL7's extension packages,
are left aside.
"""

from __future__ import annotations

import copy
import json
import random
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance import supply, validator
from wetread.errors import InvalidInput
from wetread.record import lossless
from wetread.record.validation import validate

_LARGEST_BYTES = 9_000
_PER_RUN = 700
_DEFINITIONS = {
    *("Bundle", "CapabilityStatement", "CodeSystem", "ConceptMap", "GraphDefinition", "ImplementationGuide"),
    *("NamingSystem", "OperationDefinition", "SearchParameter", "StructureDefinition", "StructureMap", "TestScript"),
    "ValueSet",
}
"""For which the validator has rules of its own."""
_ASIDE = re.compile(
    r"Wrong Display|[Uu]nknown code|could not be found so|does not resolve|must be absolute URLs|Example URLs"
    r"|currencies|rng-2: .*ClassCastException"
)
_ODD: tuple[Any, ...] = (
    *("", "x y", " ", "2020-13-01", "2020-02-30", "2020", "2020-01-01T10:00", "2020-01-01T10:00:00Z", "10:00"),
    *("http://x", "#p", "Patient/1", "Practitioner/9", "urn:oid:1.2", "urn:uuid:123", "zzz", "<b>x</b>", "active"),
    "final",
    *(True, False, 0, -1, 1.5, 10**12, [], {}, ["x"], {"a": 1}),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def damage(content: dict[str, Any], chance: random.Random) -> None:
    paths = [p for p in places(content) if p[0] not in ("resourceType", "text")]
    path = chance.choice(paths)
    parent, key = at(content, path[:-1]), path[-1]
    match chance.randrange(6):
        case 0:
            del parent[key]
        case 1 | 2:
            parent[key] = copy.deepcopy(chance.choice(_ODD))
        case 3 if isinstance(parent, dict):
            parent[f"{key}X"] = parent.pop(key)
        case 4:
            parent[key] = parent[key][0] if isinstance(parent[key], list) and parent[key] else [parent[key]]
        case _:
            parent[key] = copy.deepcopy(at(content, chance.choice(paths)))


def copies(folder: Path, count: int) -> Iterator[str]:
    chance = random.Random(count)
    files = [f for f in sorted(folder.rglob("*.json")) if f.stat().st_size < _LARGEST_BYTES]
    while count:
        content = json.loads(chance.choice(files).read_text("utf-8-sig"))
        if content["resourceType"] in _DEFINITIONS or validate.issues(content):
            continue
        content.pop("text", None)
        damage(content, chance)
        text = json.dumps(content)
        if isinstance(content.get("resourceType"), str) and "null" not in text:  # the validator stumbles over null
            count -= 1
            yield text


def ours(text: str) -> list[str]:
    try:
        return [f"{i.expression}: {i.text}" for i in validate.issues(lossless.parse(text))]
    except InvalidInput as error:
        return [error.message]


def main(folder: Path, count: int) -> None:
    supply.BUILD.mkdir(parents=True, exist_ok=True)
    counts: Counter[tuple[bool, bool]] = Counter()
    texts = list(copies(folder, count))
    for start in range(0, count, _PER_RUN):
        with tempfile.TemporaryDirectory(dir=supply.BUILD) as work:
            files = {Path(work) / f"{n}.json": t for n, t in enumerate(texts[start : start + _PER_RUN])}
            for file, text in files.items():
                file.write_text(text, encoding="utf-8")
            theirs: dict[str, list[str]] = defaultdict(list)
            for issue in validator.validate(list(files)):
                if issue.is_error and not _ASIDE.search(issue.text):
                    theirs[issue.file].append(str(issue))
            for file, text in files.items():
                said = ours(text)
                judged = bool(theirs[str(file)]), bool(said)
                counts[judged] += 1
                if judged[0] is not judged[1]:
                    print("miss:" if judged[0] else "false alarm:", (theirs[str(file)] or said)[0])
    print("\n| both error | both clean | misses | false alarms |\n|---|---|---|---|")
    counted = [counts[k] for k in ((True, True), (False, False), (True, False), (False, True))]
    print("| " + " | ".join(map(str, counted)) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1400)
