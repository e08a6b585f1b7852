"""The FHIR package: what is derived is current, every reference within it leads somewhere, and its bytes are stable."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance import derived, generate, package
from wetread import __version__
from wetread.domain.codes import PROFILES
from wetread.mapping import maps
from wetread.mapping.orders import OrderAction
from wetread.record.validation import validate

ROOT = Path(__file__).parents[2]
OURS = "https://wetread.org/fhir/"


@pytest.fixture(scope="module")
def unpacked() -> dict[str, Any]:
    with tarfile.open(fileobj=io.BytesIO(package.archive())) as archive:
        members = {m.name: archive.extractfile(m) for m in archive}
        return {name: json.loads(member.read()) for name, member in members.items() if member}


def strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for item in value.values():
                yield from strings(item)
        case list():
            for item in value:
                yield from strings(item)


def test_what_is_derived_is_what_is_committed() -> None:
    every = derived.every()
    stale = [name for name, made in every.items() if generate.file_of(made).read_text() != generate.text_of(made)]
    assert not stale, "python -m conformance.generate --derived"


def test_every_code_table_is_a_concept_map_code_for_code() -> None:
    tables = maps.load(ROOT / "mappings", None).codes
    for concept_map in derived.concept_maps():
        table = tables[concept_map["id"].removeprefix("hl7v2-")]
        told = [(e["code"], t.get("code")) for g in concept_map["group"] for e in g["element"] for t in e["target"]]
        assert len(told) == len(table.codes) + len(table.prefixes)
        for code, target in told:
            mapped = table.get(re.sub("<integer>", "5", code))
            match mapped:
                case {"coding": [coding]}:
                    mapped = coding["code"]
                case {"code": inner}:
                    mapped = inner
            assert mapped == target, (concept_map["id"], code)
    assert {m["id"] for m in derived.concept_maps()} == {f"hl7v2-{name}" for name in tables}


def test_the_actions_of_orders_are_a_code_system() -> None:
    system = json.loads((ROOT / "conformance" / "codesystem-order-action.json").read_text())
    assert [c["code"] for c in system["concept"]] == [action.value for action in OrderAction]


def test_everything_carries_the_version_of_the_software(unpacked: dict[str, Any]) -> None:
    assert unpacked["package/package.json"]["version"] == __version__
    config = (ROOT / "conformance" / "fsh" / "sushi-config.yaml").read_text()
    assert f"\nversion: {__version__}\n" in config
    ours = [r for r in package.definitions() if r["url"].startswith(OURS)]
    assert {r["version"] for r in ours} == {__version__}


def test_each_file_is_named_by_its_type_and_id(unpacked: dict[str, Any]) -> None:
    for name, content in unpacked.items():
        if name.endswith(("package.json", ".index.json")):
            continue
        assert name.rpartition("/")[2] == f"{content['resourceType']}-{content['id']}.json"


def test_the_index_and_the_guide_list_every_file(unpacked: dict[str, Any]) -> None:
    for folder in ("package", "package/example", "package/other"):
        names = {n.rpartition("/")[2] for n in unpacked if n.rpartition("/")[0] == folder} - {".index.json"}
        listed = {f["filename"] for f in unpacked[f"{folder}/.index.json"]["files"]}
        assert listed == names - {"package.json"}
    guide = unpacked[f"package/ImplementationGuide-{package.NAME}.json"]
    listed = {entry["reference"]["reference"] for entry in guide["definition"]["resource"]}
    assert listed == {f"{r['resourceType']}/{r['id']}" for r in [*package.definitions(), *package.examples()]}


def test_each_canonical_of_ours_is_defined_in_the_package(unpacked: dict[str, Any]) -> None:
    defined = {content["url"] for content in unpacked.values() if "url" in content}
    for name, content in unpacked.items():
        for text in strings(content):
            url = text.partition("|")[0]
            if re.fullmatch(re.escape(OURS) + r"[A-Z]\w+/[\w.\-]+", url):
                assert url in defined, f"{name} names {url}"


def test_every_profile_has_its_snapshot_and_an_example(unpacked: dict[str, Any]) -> None:
    profiles = [c for n, c in unpacked.items() if n.startswith("package/StructureDefinition-")]
    assert all(len(p["snapshot"]["element"]) > len(p["differential"]["element"]) for p in profiles)
    shown = {u for e in package.examples() for u in e.get("meta", {}).get("profile", ())}
    assert shown == {p["url"] for p in profiles if p["url"].startswith(PROFILES) and p["type"] != "Extension"}


def test_our_own_server_takes_every_file() -> None:
    for resource in (package.implementation_guide(), *package.definitions(), *package.examples()):
        validate.check(resource)


def test_the_same_definitions_give_the_same_bytes() -> None:
    assert package.archive() == package.archive()
