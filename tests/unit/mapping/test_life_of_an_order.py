"""ORC-1 and ORC-5 move the ServiceRequest and its Task; what has ended stays ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from wetread.errors import Conflict, InvalidInput
from wetread.mapping.merge import apply_order
from wetread.mapping.model import Maps
from wetread.mapping.orders import MappedOrder, OrderAction, map_message
from wetread.mapping.site import Site
from wetread.wire import hl7

State = tuple[dict[str, Any], dict[str, Any]]
Order = Callable[..., MappedOrder]


@pytest.fixture
def order(write: Callable[..., hl7.Message], maps: Maps, site: Site) -> Order:
    def make(
        control: str, status: str = "", *, orc: str = "", obr: str = "CT1^CT head^L|R", mrn: str = "7"
    ) -> MappedOrder:
        message = write(
            "ORM^O01",
            f"PID|1||{mrn}^^^HOSP^MR",
            f"ORC|{control}|A1^HIS|F1^RIS||{status}{orc}",
            f"OBR|1|A1^HIS|F1^RIS|{obr}",
        )
        return map_message(message, maps, site).orders[0]

    return make


@pytest.fixture
def stored(order: Order) -> State:
    return apply_order(None, None, order("NW"))


def statuses(state: State) -> tuple[str, str]:
    for resource in state:
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
    return state[0]["status"], state[1]["status"]


def test_a_new_order_is_active_and_asks_for_a_reading(stored: State) -> None:
    assert statuses(stored) == ("active", "requested")


@pytest.mark.parametrize(
    ("control", "status", "expected"),
    [
        ("CA", "", ("revoked", "cancelled")),
        ("OC", "", ("revoked", "cancelled")),
        ("DC", "", ("revoked", "cancelled")),
        ("OD", "", ("revoked", "cancelled")),
        ("RP", "", ("revoked", "cancelled")),
        ("UA", "", ("revoked", "rejected")),
        ("HD", "", ("on-hold", "on-hold")),
        ("OH", "", ("on-hold", "on-hold")),
        ("XO", "", ("active", "requested")),
        ("OK", "", ("active", "requested")),
        ("SC", "", ("active", "requested")),
        ("SC", "IP", ("active", "requested")),
        ("SC", "A", ("active", "requested")),
        ("SC", "CM", ("completed", "requested")),
        ("XO", "CM", ("completed", "requested")),
        ("SC", "CA", ("revoked", "cancelled")),
        ("SC", "DC", ("revoked", "cancelled")),
        ("SC", "HD", ("on-hold", "on-hold")),
        ("SC", "ER", ("entered-in-error", "cancelled")),
        ("SC", "Ordered", ("active", "requested")),
        ("CA", "SC", ("revoked", "cancelled")),
        ("CA", "CM", ("completed", "requested")),
    ],
)
def test_what_a_message_does_to_an_open_order(
    control: str, status: str, expected: tuple[str, str], stored: State, order: Order
) -> None:
    assert statuses(apply_order(*stored, order(control, status))) == expected


def test_a_result_status_is_a_hint_only_for_a_status_change_without_orc_5(stored: State, order: Order) -> None:
    final = "CT1^CT head^L" + "|" * 21 + "F"
    assert apply_order(*stored, order("SC", obr=final))[0]["status"] == "completed"
    assert apply_order(*stored, order("XO", obr=final))[0]["status"] == "active"
    assert apply_order(*stored, order("SC", "IP", obr=final))[0]["status"] == "active"


@pytest.mark.parametrize("ending", [("SC", "CM"), ("CA", "")])
@pytest.mark.parametrize("late", [("NW", ""), ("SC", "IP"), ("SC", "SC"), ("XO", ""), ("RL", ""), ("HD", "")])
def test_an_ended_order_is_never_reopened(
    ending: tuple[str, str], late: tuple[str, str], stored: State, order: Order
) -> None:
    ended = apply_order(*stored, order(*ending))
    after = apply_order(*ended, order(*late, obr="CT2^CT neck^L|S"))
    assert after[0] == ended[0]
    if ending == ("CA", ""):
        assert after[1] == ended[1]
    assert statuses(after) == statuses(ended)


def test_an_ended_task_stays_as_it_ended(stored: State, order: Order) -> None:
    done = stored[0], stored[1] | {"status": "completed", "output": [{"type": {"text": "x"}, "valueString": "y"}]}
    assert apply_order(*done, order("CA"))[1] == done[1]


def test_a_cancel_that_overtakes_its_order_keeps_it_cancelled(order: Order) -> None:
    cancelled = apply_order(None, None, order("CA"))
    assert statuses(cancelled) == ("revoked", "cancelled")
    assert statuses(apply_order(*cancelled, order("NW"))) == ("revoked", "cancelled")


def test_a_late_message_still_adds_a_number_to_an_ended_order(stored: State, order: Order) -> None:
    ended = apply_order(*stored, order("SC", "CM"))
    late = apply_order(*ended, order("SC", "CM", obr="CT1^CT head^L" + "|" * 14 + "ACC9"))
    assert [i["value"] for i in late[0]["identifier"]] == ["A1", "F1", "ACC9"]


def test_the_reason_of_a_cancel_stands_on_both(stored: State, order: Order) -> None:
    request, task = apply_order(*stored, order("CA", orc="|" * 11 + "DUP^Ordered twice^L"))
    reason = {"coding": [{"code": "DUP", "display": "Ordered twice"}], "text": "Ordered twice"}
    assert task["statusReason"] == reason
    assert request["extension"] == [
        {"url": "http://hl7.org/fhir/StructureDefinition/request-statusReason", "valueCodeableConcept": reason}
    ]


def test_a_release_lifts_the_orders_own_hold_and_no_other(stored: State, order: Order) -> None:
    held = apply_order(*stored, order("HD"))
    assert statuses(apply_order(*held, order("RL"))) == ("active", "ready")
    by_staff = held[0], stored[1] | {"status": "on-hold", "statusReason": {"text": "patient identity conflicts"}}
    assert statuses(apply_order(*by_staff, order("RL"))) == ("active", "on-hold")


def test_a_change_updates_priority_and_procedure_but_a_running_task_keeps_running(stored: State, order: Order) -> None:
    running = stored[0], stored[1] | {"status": "in-progress", "focus": {"reference": "ImagingStudy/1"}}
    request, task = apply_order(*running, order("XO", obr="CT2^CT neck^L|S"))
    assert (request["priority"], request["code"]["text"]) == ("stat", "CT neck")
    assert (task["priority"], task["status"], task["focus"]) == ("stat", "in-progress", {"reference": "ImagingStudy/1"})
    assert request["authoredOn"] == stored[0]["authoredOn"]


def test_a_change_that_says_nothing_of_priority_keeps_it(order: Order) -> None:
    stat = apply_order(None, None, order("NW", obr="CT1^CT head^L|S"))
    request, task = apply_order(*stat, order("XO", obr="CT1^CT head^L"))
    assert (request["priority"], task["priority"]) == ("stat", "stat")


def test_a_status_change_does_not_rewrite_what_was_ordered(stored: State, order: Order) -> None:
    request, task = apply_order(*stored, order("SC", "IP", obr="XX^Status message^L|S"))
    assert request["code"] == stored[0]["code"]
    assert task["priority"] == stored[1]["priority"]


def test_an_order_already_stored_under_another_id_keeps_it(stored: State, order: Order) -> None:
    known = stored[0] | {"id": "sr-1"}, None
    request, task = apply_order(*known, order("XO"))
    assert request["id"] == "sr-1"
    assert task["basedOn"] == [{"reference": "ServiceRequest/sr-1"}]
    assert task["focus"] == {"reference": "ServiceRequest/sr-1"}


def test_an_order_number_of_another_patient_is_a_conflict(stored: State, order: Order) -> None:
    with pytest.raises(Conflict):
        apply_order(*stored, order("XO", mrn="8"))


def test_a_null_in_a_change_deletes_what_was_said(order: Order) -> None:
    detailed = apply_order(None, None, order("NW", obr="CT1^CT head^L" + "|" * 9 + "Fall from a ladder"))
    assert detailed[0]["reasonCode"] == [{"text": "Fall from a ladder"}]
    changed = apply_order(*detailed, order("XO", obr="CT1^CT head^L" + "|" * 9 + '""'))
    assert "reasonCode" not in changed[0]
    silent = apply_order(*detailed, order("XO"))
    assert silent[0]["reasonCode"] == detailed[0]["reasonCode"]


def test_doing_it_twice_changes_nothing(stored: State, order: Order) -> None:
    assert apply_order(*stored, order("NW")) == stored
    held = apply_order(*stored, order("HD"))
    assert apply_order(*held, order("HD")) == held
    cancelled = apply_order(*held, order("CA"))
    assert apply_order(*cancelled, order("CA")) == cancelled


def test_every_action_has_a_code_that_asks_for_it(maps: Maps) -> None:
    assert set(maps.codes["order-control"].codes.values()) == set(OrderAction)


def test_an_unknown_control_code_is_refused_with_its_place(order: Order) -> None:
    with pytest.raises(InvalidInput) as refused:
        order("ZZ")
    assert refused.value.location == "ORC^1^1"
