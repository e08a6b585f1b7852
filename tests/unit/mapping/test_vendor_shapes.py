"""What each vendor's shape of an order becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wetread.domain.identity import AccessionNumber
from wetread.domain.priority import Priority
from wetread.errors import InvalidInput
from wetread.mapping.model import Maps
from wetread.mapping.orders import Mapped, OrderAction, map_message
from wetread.mapping.site import Site
from wetread.wire import hl7

DEFAULT_AUTHORITY = "urn:oid:1.2.3.4"


def identifiers(resource: dict[str, Any]) -> dict[str, tuple[str | None, str]]:
    return {
        i["type"]["coding"][0]["code"] if "type" in i else i["system"]: (i.get("system"), i["value"])
        for i in resource["identifier"]
    }


def test_philips_accession_in_obr_18_and_study_uid_in_zds(mapped: Callable[[str], Mapped]) -> None:
    order = mapped("orm-o01-philips-zds").orders[0]
    assert order.accession == AccessionNumber("AC-PH-001", DEFAULT_AUTHORITY)
    assert order.study_instance_uid == "1.2.826.0.1.3680043.10.99999.20250326.7"
    assert identifiers(order.service_request) == {
        "PLAC": (DEFAULT_AUTHORITY, "AC-PH-001"),
        "ACSN": (DEFAULT_AUTHORITY, "AC-PH-001"),
        "urn:dicom:uid": ("urn:dicom:uid", "urn:oid:1.2.826.0.1.3680043.10.99999.20250326.7"),
    }
    assert order.service_request["code"] == {"coding": [{"code": "CTHEAD", "display": "CT HEAD"}], "text": "CT HEAD"}


def test_ihe_omi_takes_the_ipc_segment_before_obr_18_and_warns_where_they_differ(
    mapped: Callable[[str], Mapped],
) -> None:
    order = mapped("omi-o23-basic").orders[0]
    assert order.accession == AccessionNumber("ACC001", "urn:oid:1.2.3.5")
    assert order.study_instance_uid == "1.2.840.113619.2.55.3.604"
    assert order.modality == "CR"
    assert order.warnings == ("IPC-1.1 and OBR-18 give different values for the accession number; IPC-1.1 was taken",)


def test_french_teleradiology_order_has_its_modality_in_an_obx(mapped: Callable[[str], Mapped]) -> None:
    result = mapped("orm-o01-fr-teleradiology-nw")
    order = result.orders[0]
    assert order.modality == "MR"
    assert order.accession is None
    assert order.placer == "OPN101^^1.2.250.1.748.12345678.12^ISO"
    assert order.service_request["note"] == [{"text": "Commentaire sur la finalité de l'examen"}]
    assert order.service_request["reasonCode"] == [{"text": "JustificationDemande"}]
    assert result.patient["identifier"][0]["system"] == "urn:oid:1.2.250.1.213.1.4.10"
    assert result.encounter is not None
    assert result.encounter["class"]["code"] == "AMB"


def test_french_ipc_as_the_last_segment_after_obx_is_read(mapped: Callable[[str], Mapped]) -> None:
    order = mapped("omi-o23-fr-teleradiology").orders[0]
    assert order.action is OrderAction.STATUS
    assert order.accession == AccessionNumber("ACN101", "urn:oid:1.2.250.1.925.994044.27")
    assert order.study_instance_uid == "1.2.250.1.213.4.5.2.1.101"


def test_french_cancel_gives_its_free_text_reason(mapped: Callable[[str], Mapped]) -> None:
    order = mapped("orm-o01-fr-teleradiology-ca").orders[0]
    assert order.action is OrderAction.CANCEL
    assert order.cancel_reason == {"text": "Motif d'annulation de la demande"}
    assert order.order_key == mapped("orm-o01-fr-teleradiology-nw").orders[0].order_key


def test_ris_order_with_orc_7_priority_accession_modality_and_zds(mapped: Callable[[str], Mapped]) -> None:
    result = mapped("orm-o01-ris-new")
    order = result.orders[0]
    request = order.service_request
    assert (order.placer, order.filler) == ("ORD1001^SYNTH_HIS", "FIL5001^SYNTH_RIS")
    assert order.priority is Priority.ROUTINE
    assert request["priority"] == "routine"
    assert (order.modality, order.patient_class, order.ordering_location) == ("CT", "AMB", "RAD")
    assert identifiers(request)["ACSN"] == (DEFAULT_AUTHORITY, "ACC2001")
    assert request["occurrenceDateTime"] == "2026-09-15T10:00:00-05:00"
    assert request["authoredOn"] == "2026-09-15T08:30:00+02:00"
    assert request["reasonCode"][0]["coding"][0]["code"] == "R05.9"
    assert request["code"]["coding"][0]["system"] == "http://www.ama-assn.org/go/cpt"
    assert order.task["status"] == "requested"
    assert order.task["code"]["coding"][0]["code"] == "ai-reading"
    assert order.task["for"] == request["subject"] == {"reference": f"Patient/{result.patient_id}"}
    assert order.task["basedOn"] == [{"reference": f"ServiceRequest/{request['id']}"}]
    assert [n["given"] for n in result.patient["name"]] == [["JOSÉ", "ANTONIO"]]


def test_two_orders_of_one_message_are_two_service_requests(mapped: Callable[[str], Mapped]) -> None:
    first, second = mapped("orm-o01-two-orders").orders
    assert first.service_request["code"]["text"] == "CT Head"
    assert second.service_request["code"]["text"] == "MR Brain"
    assert first.service_request["id"] != second.service_request["id"]
    assert first.task["id"] != second.task["id"]
    assert "reasonCode" in first.service_request
    assert "reasonCode" not in second.service_request


def test_two_obrs_of_one_order_number_are_one_order_with_both_procedures(mapped: Callable[[str], Mapped]) -> None:
    (order,) = mapped("orm-o01-multi-obr").orders
    assert order.service_request["code"]["coding"][0]["code"] == "54089-8"
    assert [d["coding"][0]["code"] for d in order.service_request["orderDetail"]] == ["57717-1"]


def test_two_obrs_that_only_their_accession_tells_apart_are_two_orders(
    write: Callable[..., hl7.Message], maps: Maps, site: Site
) -> None:
    message = write(
        "ORM^O01",
        "PID|1||7^^^HOSP^MR",
        "ORC|NW|A1^HIS",
        "OBR|1|A1^HIS||CT1^CT head^L" + "|" * 14 + "ACC1",
        "OBR|2|A1^HIS||CT2^CT neck^L" + "|" * 14 + "ACC2",
    )
    first, second = map_message(message, maps, site).orders
    assert [o.accession.value for o in (first, second) if o.accession] == ["ACC1", "ACC2"]
    assert first.service_request["id"] != second.service_request["id"]
    assert first.placer == second.placer == "A1^HIS"
    assert identifiers(second.service_request).keys() == {"ACSN"}


def test_oracle_repeats_one_requester_under_many_numbers(mapped: Callable[[str], Mapped]) -> None:
    result = mapped("orm-o01-oracle-23")
    (practitioner,) = result.practitioners
    assert ("http://hl7.org/fhir/sid/us-npi", "1417164831") in [
        (i.get("system"), i["value"]) for i in practitioner["identifier"]
    ]
    assert len(practitioner["identifier"]) == 8
    assert result.orders[0].service_request["requester"]["reference"] == f"Practitioner/{practitioner['id']}"


def test_notes_of_the_order_are_kept_and_those_of_results_are_not(mapped: Callable[[str], Mapped]) -> None:
    notes = mapped("orm-o01-notes").orders[0].service_request["note"]
    assert [n["text"] for n in notes] == [
        "Order entered by covering physician.",
        "Fasting required; confirm with patient.",
        "Line 2 of the order note.",
    ]


@pytest.mark.parametrize(
    ("tq1", "orc7", "obr27", "obr5", "expected"),
    [
        ("S", "R", "R", "R", Priority.STAT),
        ("", "A", "R", "S", Priority.ASAP),
        ("", "", "S", "R", Priority.STAT),
        ("", "", "", "STAT", Priority.STAT),
        ("", "", "", "T", Priority.URGENT),
        ("", "TM30", "", "", Priority.URGENT),
        ("", "", "", "", Priority.ROUTINE),
    ],
)
def test_priority_is_trusted_in_the_order_tq1_orc_7_obr_27_obr_5(
    tq1: str,
    orc7: str,
    obr27: str,
    obr5: str,
    expected: Priority,
    write: Callable[..., hl7.Message],
    maps: Maps,
    site: Site,
) -> None:
    message = write(
        "OMG^O19",
        "PID|1||7^^^HOSP^MR",
        f"ORC|NW|A1|||||^^^^^{orc7}",
        f"TQ1|1||||||||{tq1}",
        f"OBR|1|A1||CT^CT^L|{obr5}" + "|" * 22 + f"^^^^^{obr27}",
    )
    assert map_message(message, maps, site).orders[0].priority is expected


def test_an_unknown_priority_is_routine_and_remembered(
    write: Callable[..., hl7.Message], maps: Maps, site: Site
) -> None:
    message = write("ORM^O01", "PID|1||7^^^HOSP^MR", "ORC|NW|A1", "OBR|1|A1||CT^CT^L|WHENEVER")
    order = map_message(message, maps, site).orders[0]
    assert order.service_request["priority"] == "routine"
    assert order.service_request["_priority"] == {
        "extension": [{"url": "https://wetread.org/fhir/StructureDefinition/original-code", "valueString": "WHENEVER"}]
    }
    assert any("OBR^1^5" in warning for warning in order.warnings)


def test_an_order_without_any_number_is_refused(write: Callable[..., hl7.Message], maps: Maps, site: Site) -> None:
    message = write("ORM^O01", "PID|1||7^^^HOSP^MR", "ORC|NW", "OBR|1|||CT^CT^L")
    with pytest.raises(InvalidInput) as refused:
        map_message(message, maps, site)
    assert refused.value.location == "ORC^1^2"


def test_a_replacement_names_the_order_it_replaces(write: Callable[..., hl7.Message], maps: Maps, site: Site) -> None:
    message = write("ORM^O01", "PID|1||7^^^HOSP^MR", "ORC|RP|OLD^HIS", "ORC|RO|NEW^HIS", "OBR|1|NEW^HIS||CT^CT^L")
    old, new = map_message(message, maps, site).orders
    assert old.action is OrderAction.REPLACED
    assert new.service_request["replaces"][0]["identifier"]["value"] == "OLD"
