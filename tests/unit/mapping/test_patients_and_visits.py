"""PID -> Patient, PV1 -> Encounter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wetread.errors import InvalidInput, Unsupported
from wetread.mapping.engine import ORIGINAL_CODE
from wetread.mapping.model import Maps
from wetread.mapping.orders import Mapped, map_message
from wetread.mapping.site import Site
from wetread.wire import hl7


def test_every_identifier_of_pid_3_is_kept_with_its_authority(mapped: Callable[[str], Mapped]) -> None:
    patient = mapped("adt-a04-ris").patient
    assert [(i["system"], i["value"], i["type"]["coding"][0]["code"]) for i in patient["identifier"]] == [
        ("urn:wetread:authority:SYNTH_HOSP", "SYN100234", "MR"),
        ("urn:wetread:authority:SYNTH_EMPI", "E77120", "PI"),
    ]
    assert patient["telecom"] == [
        {"use": "home", "system": "phone", "value": "+1 210 5550100"},
        {"use": "home", "system": "email", "value": "jose.nunez@example.org"},
    ]


def test_names_in_several_scripts_are_all_kept(mapped: Callable[[str], Mapped]) -> None:
    names = mapped("edge-utf8-names").patient["name"]
    assert [(n["family"], n["given"]) for n in names] == [("Zörb", ["Renée"]), ("山田", ["太郎"])]


@pytest.mark.parametrize(
    ("sent", "date", "time"),
    [
        ("1979", "1979", None),
        ("197903", "1979-03", None),
        ("19790328", "1979-03-28", None),
        ("19790300", "1979-03", None),
        ("197907281405", "1979-07-28", "1979-07-28T14:05:00+02:00"),
        ("01/15/2025", None, None),
        ("19791332", None, None),
    ],
)
def test_the_precision_of_the_birth_date_is_kept(
    sent: str, date: str | None, time: str | None, write: Callable[..., hl7.Message], maps: Maps, site: Site
) -> None:
    patient = map_message(write("ADT^A04", f"PID|1||7^^^HOSP^MR||Doe^Jane||{sent}"), maps, site).patient
    assert patient.get("birthDate") == date
    stamped = patient.get("_birthDate", {}).get("extension", [{}])[0].get("valueDateTime")
    assert stamped == time


@pytest.mark.parametrize(
    ("sent", "gender"), [("F", "female"), ("m", "male"), ("A", "other"), ("N", "other"), ("U", "unknown")]
)
def test_administrative_sex(sent: str, gender: str, write: Callable[..., hl7.Message], maps: Maps, site: Site) -> None:
    patient = map_message(write("ADT^A04", f"PID|1||7^^^HOSP^MR||Doe^Jane||1979|{sent}"), maps, site).patient
    assert patient["gender"] == gender
    assert "_gender" not in patient


def test_a_sex_that_no_map_knows_is_unknown_and_remembered(mapped: Callable[[str], Mapped]) -> None:
    result = mapped("adt-a01-simhospital")
    assert result.patient["gender"] == "unknown"
    assert result.patient["_gender"]["extension"][0]["valueString"] == "2"
    assert "PID^1^8: the code is not in the code map gender" in result.warnings


def test_a_language_is_told_in_bcp_47_and_an_unknown_one_is_remembered(mapped: Callable[[str], Mapped]) -> None:
    known, unknown = mapped("adt-a08-28-full").patient, mapped("adt-a01-simhospital").patient
    assert known["communication"] == [{"language": {"coding": [{"system": "urn:ietf:bcp:47", "code": "ar"}]}}]
    language = unknown["communication"][0]["language"]
    assert language["coding"][0]["code"] == "und"
    assert language["extension"][0]["valueString"] == "ENG-UK"


def test_death_is_a_moment_where_one_is_sent_else_yes_or_no(
    write: Callable[..., hl7.Message], maps: Maps, site: Site
) -> None:
    pid = "PID|1||7^^^HOSP^MR||Doe^Jane" + "|" * 24
    dated = map_message(write("ADT^A08", pid + "20260101|Y"), maps, site).patient
    assert dated["deceasedDateTime"] == "2026-01-01"
    assert "deceasedBoolean" not in dated
    undated = map_message(write("ADT^A08", pid + "|Y"), maps, site).patient
    assert undated["deceasedBoolean"] is True


def test_pid_2_is_read_where_pid_3_is_empty(write: Callable[..., hl7.Message], maps: Maps, site: Site) -> None:
    patient = map_message(write("ADT^A04", "PID|1|OLD7^^^HOSP"), maps, site).patient
    assert [i["value"] for i in patient["identifier"]] == ["OLD7"]


def test_an_existing_patient_found_by_identifier_wins_over_the_derived_id(
    sample: Callable[[str], hl7.Message], maps: Maps, site: Site
) -> None:
    result = map_message(sample("orm-o01-ris-new"), maps, site, patient_id="p-1")
    assert result.patient_id == result.patient["id"] == "p-1"
    assert result.orders[0].service_request["subject"] == {"reference": "Patient/p-1"}
    assert result.orders[0].task["for"] == {"reference": "Patient/p-1"}


def test_the_derived_id_depends_on_the_site_key(sample: Callable[[str], hl7.Message], maps: Maps, site: Site) -> None:
    other = Site(b"another key of 32 bytes, for test", site.authorities, site.default_authority, site.time_zone)
    message = sample("adt-a04-ris")
    assert map_message(message, maps, site).patient_id != map_message(message, maps, other).patient_id


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ("A01", "in-progress"),
        ("A03", "finished"),
        ("A04", "planned"),
        ("A05", "planned"),
        ("A08", "unknown"),
        ("A11", "cancelled"),
        ("A13", "in-progress"),
    ],
)
def test_the_event_gives_the_status_of_the_visit(
    event: str, status: str, write: Callable[..., hl7.Message], maps: Maps, site: Site
) -> None:
    message = write(f"ADT^{event}", "PID|1||7^^^HOSP^MR", "PV1|1|E|ED^4" + "|" * 16 + "V9^^^HOSP")
    encounter = map_message(message, maps, site).encounter
    assert encounter is not None
    assert encounter["status"] == status
    assert encounter["class"]["code"] == "EMER"
    assert encounter["identifier"][0]["type"]["coding"][0]["code"] == "VN"


def test_a_visit_that_would_end_before_it_starts_has_no_end(mapped: Callable[[str], Mapped]) -> None:
    encounter = mapped("adt-a01-simhospital").encounter
    assert encounter is not None
    assert encounter["period"] == {"start": "2019-03-09T13:01:56+01:00"}


def test_control_characters_do_not_reach_fhir(write: Callable[..., hl7.Message], maps: Maps, site: Site) -> None:
    patient = map_message(write("ADT^A04", "PID|1||7^^^HOSP^MR||D\\X00\\oe^Ja\\X07\\ne"), maps, site).patient
    assert patient["name"] == [{"family": "Doe", "given": ["Jane"]}]


def test_a_visit_without_number_makes_no_encounter(mapped: Callable[[str], Mapped]) -> None:
    result = mapped("orm-o01-chest")
    assert result.encounter is None
    assert result.orders[0].ordering_location == "RAD"


def test_an_identifier_that_nobody_can_own_is_refused(
    write: Callable[..., hl7.Message], maps: Maps, site: Site
) -> None:
    strict = Site(site.key, site.authorities, "", site.time_zone)
    with pytest.raises(InvalidInput) as refused:
        map_message(write("ADT^A04", "PID|1||7||Doe^Jane"), maps, strict)
    assert refused.value.location == "PID^1^3"


def test_a_message_of_another_kind_is_not_mapped_here(
    sample: Callable[[str], hl7.Message], maps: Maps, site: Site
) -> None:
    with pytest.raises(Unsupported) as refused:
        map_message(sample("adt-a40-ris"), maps, site)
    assert refused.value.location == "MSH^1^9"


def test_the_extension_that_keeps_a_code_is_defined_where_conformance_is_shipped() -> None:
    file = Path(__file__).parents[3] / "conformance" / "structuredefinition-original-code.json"
    definition = json.loads(file.read_text(encoding="utf-8"))
    assert definition["url"] == ORIGINAL_CODE
