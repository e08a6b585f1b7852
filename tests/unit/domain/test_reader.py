"""What a credential allows."""

from __future__ import annotations

import pytest

from wetread.domain.reader import Reader, Scope
from wetread.errors import Forbidden, InvalidInput


@pytest.mark.parametrize(
    ("text", "level", "resource_type", "letters"),
    [
        ("system/*.cruds", "system", "*", "cruds"),
        ("user/Observation.rs", "user", "Observation", "rs"),
        ("patient/Patient.r", "patient", "Patient", "r"),
        ("system/Patient.read", "system", "Patient", "rs"),
        ("system/Patient.write", "system", "Patient", "cud"),
        ("system/*.*", "system", "*", "cruds"),
    ],
)
def test_a_smart_scope_is_level_type_and_letters(text: str, level: str, resource_type: str, letters: str) -> None:
    assert Scope.parse(text) == Scope(level, resource_type, frozenset(letters))


@pytest.mark.parametrize(
    "text",
    ["", "system", "system/Patient", "system/Patient.", "system/patient.r", "root/Patient.r", "system/Patient.sr",
     "system/Patient.rs?", "system/Patient.rs?category", "system/Patient.rs?=x", "system/Patient.rs "],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Scope.parse(text)


def test_a_scope_may_be_limited_to_what_a_search_would_find() -> None:
    text = "patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|imaging"
    scope = Scope.parse(text)
    assert scope.constraint == (("category", "http://terminology.hl7.org/CodeSystem/observation-category|imaging"),)
    assert str(scope) == text


def test_a_limited_scope_opens_some_of_a_type_and_never_the_whole() -> None:
    reader = Reader("x", (Scope.parse("system/Observation.rs?category=imaging"),))
    assert reader.may_some("r", "Observation")
    assert not reader.may("r", "Observation")


def test_a_reader_may_what_one_of_its_scopes_says() -> None:
    reader = Reader("x", (Scope.parse("system/Patient.rs"), Scope.parse("user/*.s")))
    assert reader.may("r", "Patient")
    assert reader.may("s", "Observation")
    assert not reader.may("r", "Observation")
    with pytest.raises(Forbidden):
        reader.require("u", "Patient")


def test_a_scope_of_one_patient_opens_no_whole_type() -> None:
    reader = Reader("x", (Scope.parse("patient/*.rs"),), patient_id="p")
    assert not reader.may("r", "Patient")
    assert reader.may_some("r", "Patient")
    assert not Reader("x", (Scope.parse("patient/*.rs"),)).may_some("r", "Patient")
