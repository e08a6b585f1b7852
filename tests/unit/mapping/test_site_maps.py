"""A site changes a map in its overlay; a mistake is found at load and named by file and key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wetread.errors import Misconfigured
from wetread.mapping.maps import load
from wetread.mapping.orders import OrderAction, map_message
from wetread.mapping.site import Site
from wetread.wire import hl7

Put = Callable[[str, str], Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_a_site_reads_its_accession_number_elsewhere(
    put: Put, shipped: Path, sample: Callable[[str], hl7.Message], site: Site
) -> None:
    overlay = put("hl7v2/order.yaml", "extends: shipped\norder:\n  accession: [OBR-20, ORC-3]\n")
    maps = load(shipped, overlay)
    order = map_message(sample("orm-o01-oracle-23"), maps, site).orders[0]
    assert order.accession is not None
    assert (order.accession.value, order.accession.issuer) == ("000002024044009050", "urn:wetread:authority:HNA_ACCN")
    ris = map_message(sample("orm-o01-ris-new"), maps, site).orders[0]
    assert ris.accession is not None
    assert ris.accession.value == "SPS2001"
    assert ris.study_instance_uid.startswith("2.25.")


def test_a_file_of_the_same_name_replaces_the_shipped_one(
    put: Put, shipped: Path, sample: Callable[[str], hl7.Message], site: Site
) -> None:
    overlay = put("codes/gender.yaml", "codes: {M: other}\n")
    patient = map_message(sample("adt-a04-ris"), load(shipped, overlay), site).patient
    assert patient["gender"] == "other"


def test_a_site_teaches_a_vendors_order_control_code(
    put: Put, shipped: Path, sample: Callable[[str], hl7.Message], site: Site
) -> None:
    overlay = put("codes/order-control.yaml", "extends: shipped\ncodes: {'CD:2539': create}\n")
    order = map_message(sample("orm-o01-oracle-cd-codes"), load(shipped, overlay), site).orders[0]
    assert (order.control, order.action) == ("CD:2539", OrderAction.CREATE)


def test_a_site_adds_and_removes_elements(
    put: Put, shipped: Path, sample: Callable[[str], hl7.Message], site: Site
) -> None:
    overlay = put(
        "hl7v2/patient.yaml", "extends: shipped\nelements:\n  address[]: null\n  language: {from: PID-15.1}\n"
    )
    patient = map_message(sample("adt-a01-simhospital"), load(shipped, overlay), site).patient
    assert "address" not in patient
    assert patient["language"] == "ENG-UK"


def test_a_site_names_its_authorities(put: Put, shipped: Path) -> None:
    overlay = put("hl7v2/authorities.yaml", "extends: shipped\nauthorities: {RAD: 'urn:oid:1.2.3.9'}\n")
    authorities = load(shipped, overlay).authorities
    assert authorities["RAD"] == "urn:oid:1.2.3.9"
    assert authorities["NPI"] == "http://hl7.org/fhir/sid/us-npi"


def test_codes_that_yaml_would_read_as_booleans_or_numbers_stay_text(put: Put, shipped: Path) -> None:
    overlay = put("codes/modality.yaml", "codes: {NO: CT, 08: MR, on: US}\n")
    table = load(shipped, overlay).codes["modality"]
    assert [table.get(code) for code in ("NO", "08", "ON")] == ["CT", "MR", "US"]


@pytest.mark.parametrize(
    ("file", "text", "key"),
    [
        ("hl7v2/order.yaml", "extends: shipped\norder: {accession: [OBR18]}", "order.accession"),
        ("hl7v2/order.yaml", "extends: shipped\norder: {accession: []}", "order.accession"),
        ("hl7v2/order.yaml", "extends: shipped\norder: {acession: [OBR-18]}", "order.acession"),
        ("hl7v2/order.yaml", "order: {accession: [OBR-18]}", "order.study-instance-uid"),
        ("hl7v2/patient.yaml", "extends: shipped\nelements: {gender: {form: PID-8}}", "elements.gender.form"),
        ("hl7v2/patient.yaml", "extends: shipped\nelements: {gender: PID-8}", "elements.gender"),
        (
            "hl7v2/patient.yaml",
            "extends: shipped\nelements: {gender: {from: PID-8, codes: sexes}}",
            "elements.gender.codes",
        ),
        (
            "hl7v2/patient.yaml",
            "extends: shipped\nelements: {birthDate: {from: PID-7, as: day}}",
            "elements.birthDate.as",
        ),
        ("hl7v2/patient.yaml", "extends: shipped\nelements: {birthDate: {each: PID-7}}", "elements.birthDate.each"),
        ("hl7v2/patient.yaml", "extends: shipped\nelements: {Birth-Date: {from: PID-7}}", "elements.Birth-Date"),
        ("hl7v2/patient.yaml", "extends: shipped\nelements: {gender: {from: PID-8, value: x}}", "elements.gender"),
        ("hl7v2/patient.yaml", "extends: shipped\nelements: {gender: {take: sex}}", "elements.gender.take"),
        ("hl7v2/patient.yaml", "resource: Person\nelements: {}", "resource"),
        ("hl7v2/authorities.yaml", "authorities: {RAD: radiology}", "authorities.RAD"),
        ("codes/gender.yaml", "codes: {F: woman}", "codes.F"),
        ("codes/priority.yaml", "codes: {S: stat}\notherwise: whenever", "otherwise"),
        ("codes/order-control.yaml", "extends: shipped\ncodes: {ZZ: obey}", "codes.ZZ"),
        ("codes/gender.yaml", "cods: {F: female}", "cods"),
        ("codes/gender.yaml", "extends: shiped\ncodes: {F: female}", "extends"),
        ("codes/our-own.yaml", "extends: shipped\ncodes: {F: female}", "extends"),
    ],
)
def test_a_broken_map_is_refused_with_its_file_and_key(file: str, text: str, key: str, put: Put, shipped: Path) -> None:
    overlay = put(file, text)
    with pytest.raises(Misconfigured) as refused:
        load(shipped, overlay)
    assert str(overlay / file) in refused.value.message
    assert f": {key}: " in refused.value.message


@pytest.mark.parametrize("text", ["codes: {F: [", "codes: {F: female, F: male}", "- F", "\ufffe\x00"])
def test_a_file_that_is_no_map_is_refused_by_name(text: str, put: Put, shipped: Path) -> None:
    overlay = put("codes/gender.yaml", text)
    with pytest.raises(Misconfigured, match=r"gender\.yaml"):
        load(shipped, overlay)


def test_missing_maps_are_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"gender\.yaml is missing"):
        load(tmp_path, None)
