"""What comes of the scopes that an app asks for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from wetread.access.clients.clients import Client
from wetread.access.clients.registration import is_resource_scope
from wetread.access.oauth.negotiation import joined, negotiated
from wetread.access.rights import of_roles
from wetread.domain.reader import Scope

PEOPLE, WORDS = ("user", "patient"), ("openid", "launch/patient")


def client(scope: str) -> Client:
    words = scope.split()
    return Client(
        "app",
        "App",
        "public",
        (),
        "",
        frozenset(),
        tuple(Scope.parse(word) for word in words if is_resource_scope(word)),
        frozenset(word for word in words if not is_resource_scope(word)),
        frozenset(),
        None,
        "",
        (),
        None,
        datetime.now(UTC),
    )


def given(asked: str, registered: str, *roles: str) -> str:
    held = of_roles(roles) if roles else [Scope.parse("user/*.cruds")]
    return joined(negotiated(asked.split(), client(registered), held, PEOPLE, WORDS).values())


@pytest.mark.parametrize(
    ("asked", "registered", "expected"),
    [
        ("patient/*.rs openid", "patient/*.cruds openid", "patient/*.rs openid"),
        ("patient/*.cruds", "patient/*.rs", "patient/*.rs"),
        ("patient/*.rs", "patient/Patient.rs patient/Task.r", "patient/Patient.rs patient/Task.r"),
        ("patient/*.rs", "user/*.rs", "patient/*.rs"),
        ("user/*.rs", "patient/*.rs", ""),
        ("system/*.rs", "system/*.rs", ""),
        ("patient/Observation.read", "patient/*.rs", "patient/Observation.read"),
        ("patient/*.read", "patient/Observation.cruds", "patient/Observation.read"),
        ("patient/*.*", "patient/Observation.rs patient/Task.cruds", "patient/Observation.read patient/Task.*"),
        ("patient/*.write", "patient/Task.u", "patient/Task.u"),
        ("user/Observation.rs", "user/Observation.rs?category=imaging", "user/Observation.rs?category=imaging"),
        ("user/Observation.rs?code=1", "user/*.rs?category=imaging", "user/Observation.rs?code=1&category=imaging"),
        ("user/Observation.rs?category=imaging", "user/*.rs", "user/Observation.rs?category=imaging"),
        ("user/*.rs user/*.rs", "user/*.rs user/Observation.rs", "user/*.rs"),
        ("openid launch/patient launch/encounter", "openid launch/patient launch/encounter", "openid launch/patient"),
        ("openid", "launch/patient", ""),
        ("root/*.rs user/*.sr user/observation.rs user/*. patient/*.rs?x", "user/*.cruds", ""),
    ],
)
def test_it_is_what_was_asked_and_is_registered(asked: str, registered: str, expected: str) -> None:
    assert given(asked, registered) == expected


def test_it_is_within_the_persons_rights() -> None:
    assert given("user/AuditEvent.rs user/Task.cud", "user/*.cruds", "radiologist") == "user/Task.cu"
    assert given("user/AuditEvent.rs", "user/*.cruds", "radiologist", "auditor") == "user/AuditEvent.rs"
    assert given("user/*.cruds", "user/*.cruds", "administrator") == "user/*.cruds"
    assert given("user/*.cruds", "user/*.cruds", "service") == ""


def test_a_wildcard_becomes_the_list_of_what_there_is() -> None:
    words = given("patient/*.read", "patient/*.rs", "radiologist").split()
    assert "patient/ImagingStudy.read" in words
    assert len(words) == len(set(words))
    assert not [word for word in words if "*" in word or "AuditEvent" in word]


@pytest.mark.parametrize(
    "asked",
    [
        "patient/Observation.rs?subject.name=x",
        "patient/Observation.rs?category:not=imaging",
        "patient/Patient.rs?_has:Observation:patient:code=x",
        "patient/*.rs?category=imaging",
        "patient/Nonsense.rs",
    ],
)
def test_a_scope_that_the_record_cannot_keep_is_not_given(asked: str) -> None:
    assert given(asked, "patient/*.rs") == ""
    assert given(f"{asked} patient/Observation.rs?category=imaging", "patient/*.rs") == (
        "patient/Observation.rs?category=imaging"
    )
