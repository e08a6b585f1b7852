"""What a person of a role may be given."""

from __future__ import annotations

import pytest

from wetread.access.rights import RIGHTS, ROLES, checked, narrowed, of_roles
from wetread.domain.reader import Scope
from wetread.errors import Misconfigured


def scopes(text: str) -> tuple[Scope, ...]:
    return tuple(Scope.parse(one) for one in text.split())


@pytest.mark.parametrize(
    ("asked", "held", "given"),
    [
        ("user/*.cruds", "user/Observation.rs", "user/Observation.rs"),
        ("user/Observation.cruds", "user/*.rs", "user/Observation.rs"),
        ("user/Observation.r", "user/Patient.r", ""),
        ("system/Observation.r", "user/*.cruds", ""),
        ("user/Observation.r", "system/*.cruds", ""),
        ("patient/Observation.rs", "user/*.r", "patient/Observation.r"),
        ("user/Observation.rs?category=a", "user/*.rs", "user/Observation.rs?category=a"),
        ("user/Observation.rs", "user/*.rs?category=a", "user/Observation.rs?category=a"),
        ("user/Observation.rs?category=a", "user/*.rs?status=final", "user/Observation.rs?category=a&status=final"),
        ("user/*.rs", "user/Observation.r user/Patient.s", "user/Observation.r user/Patient.s"),
    ],
)
def test_nobody_is_given_more_than_both_were_asked_for_and_held(asked: str, held: str, given: str) -> None:
    assert " ".join(str(one) for one in narrowed(scopes(asked), scopes(held))) == given


def test_every_role_has_its_rights_and_audit_events_are_for_those_who_audit() -> None:
    assert RIGHTS.keys() == ROLES.keys()
    may_read = {role for role in ROLES if any(s.opens("r", "AuditEvent") for s in of_roles([role]))}
    assert may_read == {"administrator", "auditor"}


def test_a_role_that_there_is_not_is_refused_by_its_name() -> None:
    with pytest.raises(Misconfigured, match="janitor"):
        checked(["auditor", "janitor"])
