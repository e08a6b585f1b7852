"""Ids that follow from natural keys: doing a thing twice writes the same thing."""

from __future__ import annotations

import uuid

from pydicom.uid import UID

from wetread.domain.keys import control_id, dicom_uid, fhir_id, secret_fhir_id


def test_the_same_key_gives_the_same_id_and_another_kind_another() -> None:
    assert fhir_id("run", "a", "b") == fhir_id("run", "a", "b")
    assert len({fhir_id("run", "a", "b"), fhir_id("report", "a", "b"), fhir_id("run", "ab"), fhir_id("run", "a")}) == 4


def test_parts_of_a_key_never_run_together() -> None:
    assert fhir_id("run", "a", "bc") != fhir_id("run", "ab", "c")


def test_an_id_of_a_patient_depends_on_the_sites_key() -> None:
    one, other = (secret_fhir_id(key * 32, "patient", "urn:a", "1001") for key in (b"x", b"y"))
    assert one != other
    assert one != fhir_id("patient", "urn:a", "1001")
    parsed = uuid.UUID(one)
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)


def test_a_dicom_uid_is_valid() -> None:
    uid = dicom_uid("sr", "run")
    assert uid.startswith("2.25.")
    assert UID(uid).is_valid


def test_a_message_control_id_fits_msh_10() -> None:
    control = control_id("alert", "destination", "run")
    assert len(control) == 20
    assert control.isalnum()
    assert control != control_id("alert", "destination", "other run")
