"""Makes the terminology of `wetread.record` from the R4 core package and our own definitions.

    python conformance/r4/terminology.py        writes server/wetread/record/data/terminology-*

The core package's 2,458 definitions go, without their narrative, into one archive with a member for each, so that the
server reads those that it is asked for and no more. Ours, `conformance/*.json`, go into one JSON file.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parent))

import tables

_OWN = Path(__file__).parents[1]
_TARGET = Path(__file__).parents[2] / "server/wetread/record/data"
_TYPES = ("CodeSystem", "ConceptMap", "ValueSet")
_LEFT_OUT = {
    *("text", "meta", "extension", "contained", "identifier", "contact", "publisher", "jurisdiction", "useContext"),
    *("description", "purpose", "copyright", "date", "experimental", "expansion"),
}
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def core() -> dict[str, str]:
    """Name in the archive, such as `ValueSet/` with the escaped canonical, to JSON."""
    kept = [_lean(r) for r in tables.definitions() if _is_kept(r)]
    return {f"{r['resourceType']}/{quote(r['url'], safe='')}": _json(r) for r in kept}


def own() -> str:
    """One definition a line."""
    found = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(_OWN.glob("*.json"))]
    rows = [_json(_lean(r)) for r in found if _is_kept(r)]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def _is_kept(resource: dict[str, Any]) -> bool:
    return resource.get("resourceType") in _TYPES


def _lean(resource: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_extensions(value) for key, value in resource.items() if key not in _LEFT_OUT}


def _without_extensions(value: Any) -> Any:
    match value:
        case dict():
            return {k: _without_extensions(v) for k, v in value.items() if k != "extension" and not k.startswith("_")}
        case list():
            return [_without_extensions(v) for v in value]
        case _:
            return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_own() -> None:
    """Ours alone: to be done again when a definition of `conformance/` changes."""
    (_TARGET / "terminology-own.json").write_text(own(), encoding="utf-8")


def write_core() -> None:
    with zipfile.ZipFile(_TARGET / "terminology-r4.zip", "w") as archive:
        for name, text in sorted(core().items()):
            member = zipfile.ZipInfo(name, _NO_DATE)
            archive.writestr(member, text, zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    write_core()
    write_own()
