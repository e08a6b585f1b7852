"""Every order and ADT message of the samples either maps to valid R4 or is refused with the place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from wetread.errors import InvalidInput
from wetread.mapping.merge import apply_order, merge
from wetread.mapping.model import Maps
from wetread.mapping.orders import ADT_EVENTS, ORDER_EVENTS, Mapped, identify, map_message
from wetread.mapping.site import Site
from wetread.wire import hl7

SAMPLES = Path(__file__).parents[2] / "data" / "hl7v2"

REFUSED = {
    "bad-no-msh2": "PID",
    "bad-no-msh10": "PID",
    "bad-segment-name": "PID",
    "omg-o19-28": "ORC^1^2",
    "orm-o01-oracle-cd-codes": "ORC^1^1",
}


def ours() -> Iterator[str]:
    for file in sorted(SAMPLES.glob("*.hl7")):
        try:
            message = hl7.parse(file.read_bytes())
        except InvalidInput:
            continue
        if (message.message_code, message.trigger_event) in ORDER_EVENTS | ADT_EVENTS:
            yield file.stem


def resources(mapped: Mapped) -> Iterator[dict[str, Any]]:
    yield mapped.patient
    if mapped.encounter is not None:
        yield mapped.encounter
    yield from mapped.practitioners
    for order in mapped.orders:
        yield from (order.service_request, order.task)


def assert_valid(resource: dict[str, Any]) -> None:
    get_fhir_model_class(resource["resourceType"]).model_validate(resource)


def test_the_samples_hold_orders_and_patient_events_of_many_versions(sample: Callable[[str], hl7.Message]) -> None:
    versions = {sample(name).version for name in ours()}
    assert {"2.1", "2.3", "2.5", "2.5.1", "2.6", "2.7", "2.8"} <= versions


@pytest.mark.parametrize("name", list(ours()))
def test_a_sample_maps_to_valid_r4_or_is_refused_with_its_place(
    name: str, sample: Callable[[str], hl7.Message], maps: Maps, site: Site
) -> None:
    message = sample(name)
    if name in REFUSED:
        with pytest.raises(InvalidInput) as refused:
            map_message(message, maps, site)
        assert refused.value.location == REFUSED[name]
        return
    mapped = map_message(message, maps, site)
    made = list(resources(mapped))
    for resource in made:
        assert_valid(resource)
    for order in mapped.orders:
        for resource in apply_order(None, None, order):
            assert_valid(resource)
    again = merge(mapped.patient, mapped.patient, mode="upsert", message=message, maps=maps)
    assert again == mapped.patient
    assert identify(message, site).lanes


@pytest.mark.parametrize("name", [n for n in ours() if n not in REFUSED])
def test_every_reference_points_to_a_resource_of_the_same_message(name: str, mapped: Callable[[str], Mapped]) -> None:
    made = list(resources(mapped(name)))
    known = {f"{r['resourceType']}/{r['id']}" for r in made}
    assert set(references(made)) <= known


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_mapping_twice_gives_the_same_resources(mapped: Callable[[str], Mapped]) -> None:
    assert list(resources(mapped("orm-o01-ris-new"))) == list(resources(mapped("orm-o01-ris-new")))


def test_no_warning_or_refusal_repeats_patient_data(mapped: Callable[[str], Mapped]) -> None:
    said = " ".join(mapped("orm-o01-epic-23").warnings)
    assert "PID^1^7" in said
    assert "DOB" not in said
