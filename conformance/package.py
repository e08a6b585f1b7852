"""The FHIR package `wetread.fhir.r4`: all definitions of this folder and the examples, as other servers load them.

    python -m conformance.package [FOLDER]        writes FOLDER/wetread.fhir.r4-<version>.tgz, here by default

The form is that of HL7's NPM Package Specification: `package/` with the definitions, `package/example/` with the
examples, `package/other/` with what is no R4 resource: the subscription topics. Equal definitions give equal bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.derived import CANONICAL, DATE

from wetread import __version__

FOLDER = Path(__file__).parent
NAME = "wetread.fhir.r4"
_HL7_TERMINOLOGY = "http://terminology.hl7.org/"
_DEPENDENCIES = {"hl7.fhir.r4.core": "4.0.1", "hl7.terminology.r4": "6.2.0"}
_IN_INDEX = ("resourceType", "id", "url", "version", "kind", "type", "supplements", "content", "derivation")

Resource = dict[str, Any]


def definitions() -> list[Resource]:
    """What the package defines. A newer code of HL7 terminology, which has a package of its own, is left out."""
    read = [_read(file) for file in sorted(FOLDER.glob("*.json"))]
    return [r for r in read if not r["url"].startswith(_HL7_TERMINOLOGY)]


def examples() -> list[Resource]:
    """Resources of a demonstration, whose patient is no person."""
    return [_read(file) for file in sorted((FOLDER / "examples").glob("*.json"))]


def topics() -> list[Resource]:
    return [_read(file) for file in sorted((FOLDER / "topics").glob("*.json"))]


def implementation_guide() -> Resource:
    """The package's table of contents."""
    entries = [
        *({"reference": _reference(r), "name": r.get("title", r["name"])} for r in definitions()),
        *(_example_entry(r) for r in examples()),
    ]
    for entry, resource in zip(entries, definitions(), strict=False):
        entry["exampleBoolean"] = False
        entry["description"] = resource["description"]
    return {
        "resourceType": "ImplementationGuide",
        "id": NAME,
        "url": f"{CANONICAL}/ImplementationGuide/{NAME}",
        "version": __version__,
        "name": "Wetread",
        "title": "Wetread: imaging AI in FHIR R4",
        "status": "active",
        "experimental": False,
        "date": DATE,
        "publisher": "Wetread",
        "description": "Orders, imaging studies and AI readings as Wetread writes them, and how they are searched.",
        "packageId": NAME,
        "license": "Apache-2.0",
        "fhirVersion": ["4.0.1"],
        "definition": {"resource": entries},
    }


def _example_entry(resource: Resource) -> Resource:
    entry: Resource = {"reference": _reference(resource), "name": f"Example: {_reference(resource)['reference']}"}
    profiles = resource.get("meta", {}).get("profile", ())
    return entry | ({"exampleCanonical": profiles[0]} if profiles else {"exampleBoolean": True})


def _reference(resource: Resource) -> Resource:
    return {"reference": f"{resource['resourceType']}/{resource['id']}"}


def manifest() -> Resource:
    """package.json."""
    return {
        "name": NAME,
        "version": __version__,
        "type": "IG",
        "date": DATE.replace("-", "") + "000000",
        "license": "Apache-2.0",
        "canonical": CANONICAL,
        "title": "Wetread",
        "description": "Profiles, terminology, search parameters and examples of Wetread, imaging AI in FHIR R4.",
        "fhirVersions": ["4.0.1"],
        "dependencies": _DEPENDENCIES,
        "author": "Wetread",
        "directories": {"lib": "package", "example": "example"},
    }


def files() -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in the package, in their order."""
    for folder, resources in (
        ("package", [implementation_guide(), *definitions()]),
        ("package/example", examples()),
        ("package/other", topics()),
    ):
        named = {f"{r['resourceType']}-{r['id']}.json": r for r in resources}
        yield f"{folder}/.index.json", _json({"index-version": 2, "files": [_indexed(*row) for row in named.items()]})
        for name, resource in named.items():
            yield f"{folder}/{name}", _json(resource)
    yield "package/package.json", _json(manifest())


def _indexed(name: str, resource: Resource) -> Resource:
    return {"filename": name} | {key: resource[key] for key in _IN_INDEX if isinstance(resource.get(key), str)}


def archive() -> bytes:
    """The package as one gzipped tar file."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, content in sorted(files()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def write(folder: Path) -> Path:
    file = folder / f"{NAME}-{__version__}.tgz"
    file.write_bytes(archive())
    return file


def _read(file: Path) -> Resource:
    resource: Resource = json.loads(file.read_text(encoding="utf-8"))
    return resource


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def main(arguments: Sequence[str]) -> int:
    print(write(Path(arguments[0]) if arguments else Path.cwd()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
