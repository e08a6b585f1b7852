"""Whether two tellings are of one patient, and who assigned an identifier."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wetread.domain.identity import (
    Agreement,
    PatientIdentifier,
    PatientIdentity,
    authority_uri,
    compare_identity,
    folded,
)

TOLD = PatientIdentity((PatientIdentifier("1", "urn:a"),), "Müller-Lüdenscheidt", "Ana", "1961-09-25", "F")
BARE = replace(TOLD, identifiers=(PatientIdentifier("1"),))


def agreement(one: PatientIdentity, other: PatientIdentity) -> Agreement:
    verdict = compare_identity(one, other)
    assert verdict.agreement is compare_identity(other, one).agreement
    return verdict.agreement


def test_an_identifier_of_a_common_authority_decides_whatever_else_is_said() -> None:
    assert agreement(TOLD, replace(TOLD, family="Other", birth_date="", sex="M")) is Agreement.AGREES
    another = replace(TOLD, identifiers=(PatientIdentifier("2", "urn:a"),))
    assert agreement(TOLD, another) is Agreement.CONFLICTS


def test_one_common_identifier_of_an_authority_that_gave_several_is_enough() -> None:
    merged = replace(TOLD, identifiers=(PatientIdentifier("9", "urn:a"), PatientIdentifier("1", "urn:a")))
    assert agreement(TOLD, merged) is Agreement.AGREES


def test_without_a_common_authority_name_birth_date_and_sex_must_all_agree() -> None:
    assert agreement(BARE, TOLD) is Agreement.AGREES
    assert agreement(replace(BARE, family="MUELLER"), TOLD) is Agreement.CONFLICTS
    assert agreement(replace(BARE, birth_date="1961-09-26"), TOLD) is Agreement.CONFLICTS
    assert agreement(replace(BARE, sex=""), TOLD) is Agreement.UNKNOWN


def test_equal_identifiers_of_nobody_or_of_different_authorities_are_not_agreement() -> None:
    nameless = PatientIdentity((PatientIdentifier("1"),))
    assert agreement(nameless, nameless) is Agreement.UNKNOWN
    assert agreement(nameless, PatientIdentity((PatientIdentifier("1", "urn:b"),))) is Agreement.UNKNOWN


def test_a_reason_names_attributes_never_values() -> None:
    reason = compare_identity(BARE, replace(TOLD, birth_date="1999-01-01", sex="M")).reason
    assert reason == "birth date and sex differ"


@pytest.mark.parametrize(("one", "other"), [("Müller", "MULLER"), ("O'Neil", "O Neil"), ("de la  Cruz", "DeLaCruz")])
def test_names_are_compared_without_case_accents_and_spaces(one: str, other: str) -> None:
    assert folded(one) == folded(other)


@pytest.mark.parametrize(
    ("namespace", "universal_id", "kind", "expected"),
    [
        ("", "", "", ""),
        ("HOSP", "", "", "https://hospital.example/mrn"),
        ("HOSP", "1.2.3", "ISO", "urn:oid:1.2.3"),
        ("", "0F1E-1", "UUID", "urn:uuid:0f1e-1"),
        ("", "https://x.example", "URI", "https://x.example"),
        ("A B/C", "", "", "urn:wetread:authority:A%20B/C"),
        ("", "1.02", "ISO", "urn:wetread:authority:1.02"),
    ],
)
def test_an_authority_becomes_one_uri(namespace: str, universal_id: str, kind: str, expected: str) -> None:
    assert authority_uri(namespace, universal_id, kind, {"HOSP": "https://hospital.example/mrn"}) == expected
