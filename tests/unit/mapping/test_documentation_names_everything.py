"""docs/mapping.md names every word of the map language, and its examples work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wetread.mapping.datatypes import CONVERTERS
from wetread.mapping.maps import ORDER_FACTS, PREPARED, RULE_KEYS, load
from wetread.mapping.orders import ADT_EVENTS, ORDER_EVENTS, OrderAction

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "mapping.md").read_text(encoding="utf-8")
EVENTS = {event for _, event in ADT_EVENTS} | {f"{code}^{event}" for code, event in ORDER_EVENTS}


@pytest.mark.parametrize(
    "word", sorted({*CONVERTERS, *RULE_KEYS, *PREPARED, *ORDER_FACTS, *EVENTS - {"A01"}, *map(str, OrderAction)})
)
def test_every_word_is_documented(word: str) -> None:
    assert f"`{word}`" in DOCUMENT


def test_the_overlay_examples_load(tmp_path: Path) -> None:
    examples = re.findall(r"\(`((?:hl7v2|codes)/[a-z-]+\.yaml)`\)[^`]*```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(examples) == 3
    for name, text in examples:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    rule = re.search(r"`(identifier\[\]: .*)`", DOCUMENT)
    assert rule is not None
    (tmp_path / "hl7v2" / "patient.yaml").write_text(f"extends: shipped\nelements:\n  {rule[1]}\n", encoding="utf-8")
    maps = load(ROOT / "mappings", tmp_path)
    assert [path.text for path in maps.order_facts["accession"]] == ["OBR-20", "ORC-3"]
    assert maps.codes["order-control"].get("CD:2539") == "create"
    assert maps.authorities["HOSP"] == "urn:oid:2.16.840.1.113883.3.99"
