"""Damaged content is mapped or refused with its place; it never breaks the mapping."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fhir.resources.R4B import get_fhir_model_class
from tests.soak import times

from wetread.errors import Refused
from wetread.mapping.merge import apply_order
from wetread.mapping.model import Maps
from wetread.mapping.orders import identify, map_message
from wetread.mapping.site import Site
from wetread.wire import hl7

SAMPLES = Path(__file__).parents[2] / "data" / "hl7v2"
NAMES = ("orm-o01-ris-new", "orm-o01-bom-26", "omi-o23-fr-teleradiology", "adt-a08-28-full", "orm-o01-oracle-23")
PIECES = ("", '""', "^", "&", "~", "^^^&&", "0", "99999999999999", "2026-01-01", "\\X0A\\", "é" * 300, "a b", "|", " ")


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_message_gives_valid_fhir_or_is_refused(name: str, maps: Maps, site: Site) -> None:
    chance = random.Random(name)
    text = (SAMPLES / f"{name}.hl7").read_bytes().decode("utf-8-sig", errors="replace")
    header, *rest = text.split("\r")
    mapped = 0
    refusals: list[Refused] = []
    for _ in range(times(60)):
        lines = [damaged(line, chance) for line in rest if chance.random() > 0.03]
        message = hl7.parse("\r".join((header, *lines)).encode(), default_charset="utf-8")
        try:
            identify(message, site)
            result = map_message(message, maps, site)
        except Refused as refused:
            refusals.append(refused)
            continue
        mapped += 1
        states = [apply_order(None, None, order) for order in result.orders]
        made = [result.patient, *([result.encounter] if result.encounter else []), *result.practitioners]
        for resource in [*made, *(r for state in states for r in state)]:
            get_fhir_model_class(resource["resourceType"]).model_validate(resource)
    assert mapped > 10
    assert all(refused.location for refused in refusals)


def damaged(line: str, chance: random.Random) -> str:
    parts = line.split("|")
    for _ in range(chance.randrange(3)):
        parts[chance.randrange(1, len(parts)) if len(parts) > 1 else 0] = chance.choice(PIECES)
    return "|".join(parts)
