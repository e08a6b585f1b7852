"""Whom a message is about, and which messages must stay in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wetread.domain.identity import PatientIdentifier, PatientIdentity
from wetread.errors import InvalidInput
from wetread.mapping.merge import apply_order, merge
from wetread.mapping.model import Maps
from wetread.mapping.orders import find_keys, identify, map_message
from wetread.mapping.site import Site
from wetread.wire import hl7


def test_the_identity_of_the_patient(sample: Callable[[str], hl7.Message], site: Site) -> None:
    assert identify(sample("orm-o01-ris-new"), site).patient == PatientIdentity(
        (
            PatientIdentifier("SYN100234", "urn:wetread:authority:SYNTH_HOSP"),
            PatientIdentifier("E77120", "urn:wetread:authority:SYNTH_EMPI"),
        ),
        "NÚÑEZ",
        "JOSÉ",
        "1968-04-12",
        "M",
    )


@pytest.mark.parametrize(
    ("pid_3", "chief"),
    [
        ("1^^^OTHER^PI~2^^^OTHER^MR~3^^^OWN", "3"),
        ("1^^^OTHER^PI~2^^^OTHER^MR", "2"),
        ("1^^^OTHER^PI~2^^^THIRD^PI", "1"),
        ("1^^^OTHER^MR~2", "2"),
    ],
)
def test_the_chief_identifier_is_the_sites_own_else_the_medical_record_number_else_the_first(
    pid_3: str, chief: str, write: Callable[..., hl7.Message], site: Site
) -> None:
    own = Site(site.key, {"OWN": site.default_authority}, site.default_authority, site.time_zone)
    assert identify(write("ADT^A08", f"PID|1||{pid_3}"), own).patient.identifiers[0].value == chief


def test_messages_of_one_patient_share_a_lane_and_those_of_two_do_not(
    write: Callable[..., hl7.Message], site: Site
) -> None:
    order = identify(write("ORM^O01", "PID|1||7^^^HOSP^MR", "ORC|NW|A1^HIS", "OBR|1|A1^HIS"), site)
    update = identify(write("ADT^A08", "PID|1||7^^^HOSP^MR~9^^^EMPI^PI"), site)
    stranger = identify(write("ADT^A08", "PID|1||7^^^ELSEWHERE^MR"), site)
    assert set(order.lanes) & set(update.lanes)
    assert not set(order.lanes) & set(stranger.lanes)


def test_messages_of_one_order_share_a_lane_even_without_a_pid(write: Callable[..., hl7.Message], site: Site) -> None:
    order = identify(write("ORM^O01", "PID|1||7^^^HOSP^MR", "ORC|NW|A1^HIS|F1^RIS", "OBR|1|A1^HIS"), site)
    cancel = identify(write("ORM^O01", "ORC|CA||F1^RIS"), site)
    assert len(set(order.lanes) & set(cancel.lanes)) == 1
    assert cancel.patient.identifiers == ()


def test_lanes_show_no_identifier_and_depend_on_the_site_key(sample: Callable[[str], hl7.Message], site: Site) -> None:
    lanes = identify(sample("orm-o01-ris-new"), site).lanes
    other = Site(b"another key of 32 bytes, for test", site.authorities, site.default_authority, site.time_zone)
    assert len(lanes) == 4
    assert all("SYN100234" not in lane and "ORD1001" not in lane for lane in lanes)
    assert not set(lanes) & set(identify(sample("orm-o01-ris-new"), other).lanes)


@pytest.mark.parametrize(
    ("segments", "location"),
    [
        (("ORC|NW|A1",), "PID"),
        (("PV1|1|I",), "PID"),
        (("PID|1||^^^HOSP||Doe^Jane", "ORC|NW|A1"), "PID^1^3"),
    ],
)
def test_a_message_without_usable_pid_is_refused(
    segments: tuple[str, ...], location: str, write: Callable[..., hl7.Message], site: Site
) -> None:
    with pytest.raises(InvalidInput) as refused:
        identify(write("ORM^O01", *segments), site)
    assert refused.value.location == location


def test_a_cancel_of_orc_alone_finds_its_order_by_number(
    sample: Callable[[str], hl7.Message], write: Callable[..., hl7.Message], maps: Maps, site: Site
) -> None:
    stored = map_message(sample("orm-o01-ris-new"), maps, site, patient_id="p-1")
    request, task = apply_order(None, None, stored.orders[0])

    cancel = write("ORM^O01", "ORC|CA|ORD1001^SYNTH_HIS" + "|" * 14 + "^Ordered twice")
    (keys,) = find_keys(cancel, site)
    assert keys.control == "CA"
    assert (keys.numbers[0].system, keys.numbers[0].value) in [(i["system"], i["value"]) for i in request["identifier"]]
    subject = request["subject"]["reference"].removeprefix("Patient/")
    mapped = map_message(cancel, maps, site, patient_id=subject)
    cancelled, stopped = apply_order(request, task, mapped.orders[0])
    assert (cancelled["id"], cancelled["status"]) == (request["id"], "revoked")
    assert (stopped["id"], stopped["status"]) == (task["id"], "cancelled")
    assert stopped["statusReason"] == {"text": "Ordered twice"}
    assert cancelled["code"] == request["code"]
    kept = merge(stored.patient, mapped.patient, mode=mapped.patient_mode, message=cancel, maps=maps)
    assert kept == stored.patient


def test_a_cancel_of_orc_alone_without_a_known_order_is_refused(
    write: Callable[..., hl7.Message], maps: Maps, site: Site
) -> None:
    with pytest.raises(InvalidInput) as refused:
        map_message(write("ORM^O01", "ORC|CA|A1"), maps, site)
    assert refused.value.location == "PID"
