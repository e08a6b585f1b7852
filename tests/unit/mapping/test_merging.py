"""HL7 silence keeps, a null deletes, orders never overwrite demographics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wetread.mapping.merge import merge
from wetread.mapping.model import Maps
from wetread.mapping.orders import Mapped, map_message
from wetread.mapping.site import Site
from wetread.wire import hl7

Update = Callable[..., dict[str, Any]]

FULL = (
    "PID|1||7^^^HOSP^MR||Doe^Jane||19790328|F|||1 Elm St^^Oslo^^0150^NO^H"
    "||^PRN^PH^^47^22^5550100|^WPN^PH^^47^22^5550199"
)


@pytest.fixture
def stored(write: Callable[..., hl7.Message], maps: Maps, site: Site) -> dict[str, Any]:
    made = map_message(write("ADT^A04", FULL), maps, site).patient
    photo = {"contentType": "image/png", "url": "https://example.org/photo"}
    return made | {"meta": {"versionId": "4"}, "photo": [photo], "active": True}


@pytest.fixture
def update(write: Callable[..., hl7.Message], maps: Maps, site: Site, stored: dict[str, Any]) -> Update:
    def run(*segments: str, kind: str = "ADT^A08") -> dict[str, Any]:
        message = write(kind, *segments)
        mapped = map_message(message, maps, site, patient_id=stored["id"])
        return merge(stored, mapped.patient, mode=mapped.patient_mode, message=message, maps=maps)

    return run


def test_empty_fields_change_nothing(update: Update, stored: dict[str, Any]) -> None:
    assert update("PID|1||7^^^HOSP^MR") == stored


def test_valued_fields_are_changed_and_unmapped_elements_stay(update: Update, stored: dict[str, Any]) -> None:
    updated = update("PID|1||7^^^HOSP^MR||Roe^Jane||1979|F")
    assert updated["name"] == [{"family": "Roe", "given": ["Jane"]}]
    assert updated["birthDate"] == "1979"
    assert updated["address"] == stored["address"]
    assert (updated["photo"], updated["active"], updated["meta"]) == (
        stored["photo"],
        stored["active"],
        stored["meta"],
    )


def test_a_null_deletes_the_element(update: Update) -> None:
    updated = update('PID|1||7^^^HOSP^MR||Doe^Jane||""||||""')
    assert "birthDate" not in updated
    assert "address" not in updated
    assert updated["gender"] == "female"


def test_a_null_phone_deletes_only_that_kind_of_phone(update: Update) -> None:
    updated = update('PID|1||7^^^HOSP^MR||||||||||""')
    assert updated["telecom"] == [{"use": "work", "system": "phone", "value": "+47 22 5550199"}]


def test_a_new_home_phone_keeps_the_one_at_work(update: Update) -> None:
    updated = update("PID|1||7^^^HOSP^MR||||||||||^PRN^PH^^47^22^5550111")
    assert [(t["use"], t["value"]) for t in updated["telecom"]] == [
        ("home", "+47 22 5550111"),
        ("work", "+47 22 5550199"),
    ]


def test_identifiers_of_other_authorities_stay(update: Update) -> None:
    updated = update("PID|1||E5^^^EMPI^PI~7^^^HOSP^MR")
    assert {i["value"] for i in updated["identifier"]} == {"7", "E5"}
    assert len(update("PID|1||7^^^HOSP^MR")["identifier"]) == 1


def test_an_order_never_overwrites_demographics(update: Update, stored: dict[str, Any]) -> None:
    assert update('PID|1||7^^^HOSP^MR||Old^Name||1900|M|||""', "ORC|NW|A1", "OBR|1|A1||CT", kind="ORM^O01") == stored


def test_an_order_creates_a_patient_that_is_absent(
    sample: Callable[[str], hl7.Message], mapped: Callable[[str], Mapped], maps: Maps
) -> None:
    result = mapped("orm-o01-ris-new")
    created = merge(None, result.patient, mode="create-if-absent", message=sample("orm-o01-ris-new"), maps=maps)
    assert created == result.patient


def test_the_memory_of_an_unknown_code_goes_with_the_code(
    write: Callable[..., hl7.Message], maps: Maps, site: Site
) -> None:
    odd = write("ADT^A08", "PID|1||7^^^HOSP^MR||Doe^Jane||1979|2")
    first = map_message(odd, maps, site).patient
    assert "_gender" in first
    plain = write("ADT^A08", "PID|1||7^^^HOSP^MR||Doe^Jane||1979|F")
    updated = merge(first, map_message(plain, maps, site).patient, mode="upsert", message=plain, maps=maps)
    assert updated["gender"] == "female"
    assert "_gender" not in updated


def test_a_moment_of_death_replaces_a_bare_yes(write: Callable[..., hl7.Message], maps: Maps, site: Site) -> None:
    pid = "PID|1||7^^^HOSP^MR||Doe^Jane" + "|" * 24
    bare = map_message(write("ADT^A08", pid + "|Y"), maps, site).patient
    dated = write("ADT^A08", pid + "20260101|Y")
    updated = merge(bare, map_message(dated, maps, site).patient, mode="upsert", message=dated, maps=maps)
    assert updated["deceasedDateTime"] == "2026-01-01"
    assert "deceasedBoolean" not in updated


def test_an_update_of_the_visit_keeps_its_status_and_a_discharge_ends_it(
    write: Callable[..., hl7.Message], maps: Maps, site: Site
) -> None:
    def visit(event: str, rest: str = "") -> tuple[hl7.Message, dict[str, Any]]:
        message = write(f"ADT^{event}", "PID|1||7^^^HOSP^MR", "PV1|1|I|W^1" + "|" * 16 + "V9^^^HOSP" + rest)
        encounter = map_message(message, maps, site).encounter
        assert encounter is not None
        return message, encounter

    _, stored = visit("A01", "|" * 25 + "20260401080000")
    message, updated = visit("A08")
    stored = merge(stored, updated, mode="upsert", message=message, maps=maps)
    assert stored["status"] == "in-progress"
    message, updated = visit("A03", "|" * 26 + "20260405100000")
    stored = merge(stored, updated, mode="upsert", message=message, maps=maps)
    assert stored["status"] == "finished"
    assert stored["period"] == {"start": "2026-04-01T08:00:00+02:00", "end": "2026-04-05T10:00:00+02:00"}
