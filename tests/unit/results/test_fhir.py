"""A reading as FHIR R4: what is said, under which ids and labels, and that other readers accept it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

import pytest
from fhir.resources.R4B import get_fhir_model_class
from pydicom.dataset import Dataset

from wetread.domain.codes import ABSENT, PRESENT, SCT, Coded
from wetread.domain.finding import Finding
from wetread.domain.phase import Phase
from wetread.record import lossless
from wetread.results.context import ObjectRef
from wetread.results.fhir import FhirDocuments, documents

SR = ObjectRef("2.25.11", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.12")
SEG = ObjectRef("2.25.21", "1.2.840.10008.5.1.4.1.1.66.4", "2.25.22")


def every(made: FhirDocuments) -> list[dict[str, Any]]:
    return [made.device, *made.observations, made.report, made.provenance]


def codes(concepts: list[dict[str, Any]]) -> list[str]:
    return [coding["code"] for concept in concepts for coding in concept["coding"]]


def component(observation: dict[str, Any], code: str) -> dict[str, Any]:
    return next(c for c in observation["component"] if code in codes([c["code"]]))


@pytest.fixture
def made(head_ct: list[Dataset], bleed: Finding, brain: Finding, make_reading: Any, make_context: Any) -> FhirDocuments:
    reading = make_reading(head_ct, bleed, brain, warnings=("Gaps between slices are uneven.",))
    return documents(reading, make_context(head_ct, procedure=bleed.code), sr=SR, seg=SEG)


def test_every_resource_is_accepted_by_the_independent_model(made: FhirDocuments) -> None:
    for resource in every(made):
        get_fhir_model_class(resource["resourceType"]).model_validate_json(lossless.dump(resource))


def test_a_reading_without_order_accession_time_or_organization_is_accepted_too(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    context = make_context(
        head_ct, service_request_id=None, task_id=None, accession=None, started=None, organization=""
    )
    for resource in every(documents(make_reading(head_ct, bleed), context, sr=None, seg=None)):
        get_fhir_model_class(resource["resourceType"]).model_validate_json(lossless.dump(resource))
        assert "basedOn" not in resource


def test_no_element_is_empty(made: FhirDocuments) -> None:
    def values(value: Any) -> Iterator[Any]:
        yield value
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for child in children:
            yield from values(child)

    assert all(v not in (None, "", [], {}) for resource in every(made) for v in values(resource))


def test_numbers_keep_the_digits_of_the_model(made: FhirDocuments) -> None:
    bleed, brain = (lossless.dump(o) for o in made.observations)
    assert '"value":0.930,' in bleed
    assert '"value":0.50,' in bleed
    assert '"value":12.40,' in bleed
    assert '"value":1507.10,' in brain
    assert json.loads(bleed, parse_float=Decimal) == made.observations[0]


def test_everything_is_preliminary_and_labelled_as_asserted_by_an_ai(made: FhirDocuments) -> None:
    for resource in (*made.observations, made.report):
        assert resource["status"] == "preliminary"
        assert "resultsInterpreter" not in resource
    for resource in (*made.observations, made.report, made.provenance):
        assert [s["code"] for s in resource["meta"]["security"]] == ["AIAST"]
        assert "tag" not in resource["meta"]


def test_no_performer_is_a_device(made: FhirDocuments) -> None:
    for resource in (*made.observations, made.report):
        assert all("reference" not in performer for performer in resource["performer"])
        assert "Device/" not in json.dumps(resource.get("performer"))


def test_a_demonstration_is_tagged_everywhere(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    for reading, context in (
        (make_reading(head_ct, bleed, demo=True), make_context(head_ct)),
        (make_reading(head_ct, bleed), make_context(head_ct, demo=True)),
    ):
        made = documents(reading, context, sr=None, seg=None)
        assert all(resource["meta"]["tag"][0]["code"] == "DEMO" for resource in every(made))
        assert "DEMO" in made.report["conclusion"]


def test_a_synthetic_model_is_called_so_everywhere(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    reading = make_reading(head_ct, bleed, synthetic=True, model_name="headct-bleed")
    made = documents(reading, make_context(head_ct), sr=None, seg=None)
    assert made.device["deviceName"][0]["name"].startswith("SYNTHETIC ")
    for resource in every(made):
        assert "SYNTHETIC" in lossless.dump(resource)


@pytest.mark.parametrize(("present", "value", "interpretation"), [(True, PRESENT, "POS"), (False, ABSENT, "NEG")])
def test_presence_and_absence_are_both_said(
    present: bool,
    value: Any,
    interpretation: str,
    head_ct: list[Dataset],
    bleed: Finding,
    make_reading: Any,
    make_context: Any,
) -> None:
    reading = make_reading(head_ct, replace(bleed, present=present, critical=False))
    (observation,) = documents(reading, make_context(head_ct), sr=None, seg=None).observations
    assert codes([observation["valueCodeableConcept"]]) == [value.code]
    assert codes(observation["interpretation"]) == [interpretation]


@pytest.mark.parametrize(
    ("phase", "critical", "present", "flagged"),
    [
        (Phase.ACTIVE, True, True, True),
        (Phase.CONCURRENT, True, True, False),
        (Phase.SILENT, True, True, False),
        (Phase.ACTIVE, False, True, False),
        (Phase.ACTIVE, True, False, False),
    ],
)
def test_critical_is_flagged_only_for_a_present_finding_of_an_active_model(
    phase: Phase,
    critical: bool,
    present: bool,
    flagged: bool,
    head_ct: list[Dataset],
    bleed: Finding,
    make_reading: Any,
    make_context: Any,
) -> None:
    reading = make_reading(head_ct, replace(bleed, critical=critical, present=present), phase=phase)
    (observation,) = documents(reading, make_context(head_ct), sr=None, seg=None).observations
    assert ("AA" in codes(observation["interpretation"])) is flagged


def test_a_pure_measurement_is_a_quantity_and_not_interpreted(made: FhirDocuments) -> None:
    brain = made.observations[1]
    assert brain["valueQuantity"] == {
        "value": Decimal("1507.10"),
        "unit": "mL",
        "system": "http://unitsofmeasure.org",
        "code": "mL",
    }
    assert "interpretation" not in brain
    assert brain["bodySite"]["coding"][0]["code"] == "12738006"


def test_a_component_never_repeats_the_observations_own_code_beside_a_value(
    head_ct: list[Dataset], brain: Finding, make_reading: Any, make_context: Any
) -> None:
    finding = replace(brain, code=brain.measurements[0].code)
    (observation,) = documents(make_reading(head_ct, finding), make_context(head_ct), sr=None, seg=None).observations
    assert "component" not in observation  # obs-7
    assert observation["valueQuantity"]["value"] == Decimal("1507.10")


def test_a_finding_that_says_nothing_states_that_its_value_is_unknown(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    silent = Finding("bleed", bleed.code)
    (observation,) = documents(make_reading(head_ct, silent), make_context(head_ct), sr=None, seg=None).observations
    assert codes([observation["dataAbsentReason"]]) == ["unknown"]


def test_probability_threshold_measurement_and_side_are_components(
    chest_film: list[Dataset], no_pneumonia: Finding, make_reading: Any, make_context: Any
) -> None:
    reading = make_reading(chest_film, no_pneumonia)
    (observation,) = documents(reading, make_context(chest_film), sr=None, seg=None).observations
    certainty = component(observation, "111012")["valueQuantity"]
    assert (certainty["value"], certainty["code"]) == (Decimal("0.031"), "1")
    assert component(observation, "threshold")["valueQuantity"]["value"] == Decimal("0.5")
    assert codes([component(observation, "272741003")["valueCodeableConcept"]]) == ["7771000"]


def test_the_observation_stands_on_the_study_the_order_the_model_and_the_mask(made: FhirDocuments) -> None:
    bleed = made.observations[0]
    assert codes(bleed["category"]) == ["imaging", "CT"]
    assert bleed["partOf"] == [{"reference": "ImagingStudy/study-1"}]
    assert bleed["derivedFrom"][0] == {"reference": "ImagingStudy/study-1"}
    assert bleed["derivedFrom"][1]["identifier"]["value"] == "urn:oid:2.25.21"
    assert bleed["basedOn"] == [{"reference": "ServiceRequest/order-1"}]
    assert bleed["device"] == {"reference": "Device/device-1"}
    assert "Gaps between slices are uneven." in [n["text"] for n in bleed["note"]]


def test_the_report_names_the_sr_the_accession_and_the_present_findings(made: FhirDocuments) -> None:
    report = made.report
    assert [i["value"] for i in report["identifier"]] == ["urn:oid:2.25.11", "ACC-1"]
    assert report["identifier"][1]["system"] == "urn:oid:1.2.3.4"
    assert codes(report["category"]) == ["RAD", "CT"]
    assert codes([report["code"]]) == ["1386000", "18748-4"]
    assert codes(report["conclusionCode"]) == ["1386000"]
    assert [r["reference"] for r in report["result"]] == [f"Observation/{o['id']}" for o in made.observations]
    assert "Volume 12.40 mL" in report["conclusion"]
    assert "not verified by a physician" in report["conclusion"]


def test_a_finding_without_a_site_is_where_the_study_is(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    head = Coded("69536005", SCT, "Head")
    reading = make_reading(head_ct, replace(bleed, body_site=None))
    (observation,) = documents(reading, make_context(head_ct, body_site=head), sr=None, seg=None).observations
    assert codes([observation["bodySite"]]) == ["69536005"]


def test_the_device_says_nothing_of_the_run(
    head_ct: list[Dataset], bleed: Finding, brain: Finding, make_reading: Any, make_context: Any
) -> None:
    first = documents(make_reading(head_ct, bleed), make_context(head_ct), sr=SR, seg=SEG).device
    second = documents(
        make_reading(head_ct, brain, revision=2, run_id="run-2"), make_context(head_ct), sr=None, seg=None
    ).device
    assert first == second
    assert first["identifier"][0]["value"] == "5921b077fd1dc94e5dc4bee637fd4517747e6b1c987001664fd71599e84f54ec"


def test_the_provenance_names_model_source_and_all_that_was_made(made: FhirDocuments) -> None:
    provenance = made.provenance
    assert [t["reference"] for t in provenance["target"]] == [
        *(f"Observation/{o['id']}" for o in made.observations),
        f"DiagnosticReport/{made.report['id']}",
    ]
    assert provenance["agent"][0]["who"]["reference"] == "Device/device-1"
    assert codes(provenance["agent"][0]["role"]) == ["Artificial-Intelligence"]
    assert provenance["entity"][0] == {"role": "source", "what": {"reference": "ImagingStudy/study-1"}}


def test_a_later_revision_keeps_the_ids_and_has_a_provenance_of_its_own(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    first, second = (
        documents(make_reading(head_ct, bleed, revision=n), make_context(head_ct), sr=None, seg=None) for n in (1, 2)
    )
    assert first.observations[0]["id"] == second.observations[0]["id"]
    assert first.observations[0]["identifier"] == second.observations[0]["identifier"]
    assert first.report["id"] == second.report["id"]
    assert first.provenance["id"] != second.provenance["id"]


def test_another_configuration_of_the_model_makes_other_resources(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    reading = make_reading(head_ct, bleed)
    other = replace(reading, model=replace(reading.model, config_digest="d" * 64))
    one, two = (documents(r, make_context(head_ct), sr=None, seg=None) for r in (reading, other))
    assert one.observations[0]["id"] != two.observations[0]["id"]
    assert one.report["id"] != two.report["id"]


def test_doing_it_twice_gives_the_same_bytes(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    one, two = (
        [
            lossless.dump(r)
            for r in every(documents(make_reading(head_ct, bleed), make_context(head_ct), sr=SR, seg=SEG))
        ]
        for _ in range(2)
    )
    assert one == two


def test_text_of_a_model_cannot_break_out_of_the_narrative(
    head_ct: list[Dataset], bleed: Finding, make_reading: Any, make_context: Any
) -> None:
    hostile = "</p><script>alert(1)</script> & \x00\x0b]]>"
    reading = make_reading(head_ct, bleed, warnings=(hostile,), model_name="<b>m</b>")
    made = documents(reading, make_context(head_ct), sr=None, seg=None)
    for resource in (*made.observations, made.report):
        div = ElementTree.fromstring(resource["text"]["div"])
        assert {element.tag.rpartition("}")[2] for element in div.iter()} == {"div", "p"}
        assert "alert(1)" in "".join(div.itertext())
        get_fhir_model_class(resource["resourceType"]).model_validate_json(lossless.dump(resource))
