"""$validate (FHIR R4 resource-operation-validate.html): what a create, an update or a deletion would be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record import resources
from wetread.record.operations.input import Given
from wetread.record.validation import profiles
from wetread.record.validation.validate import Issue
from wetread.store.database import Connection

MODES = ("create", "update", "delete", "profile")


async def validated(
    conn: Connection, reader: Reader, resource_type: str, resource_id: str, given: Given
) -> Sequence[Issue]:
    """The faults of the resource that is given, or, at instance level, of the stored one; empty where there are none.

    Raises InvalidInput where there is nothing to validate or the mode does not fit, Forbidden, NotFound.
    """
    mode, profile = given.text("mode"), given.text("profile")
    if mode and mode not in MODES:
        raise InvalidInput(f"mode is one of {', '.join(MODES)}", location="mode")
    if mode == "profile" and not profile:
        raise InvalidInput("mode profile needs a profile", location="profile")
    content: Mapping[str, Any] | None = given.one("resource")
    if mode == "delete" or (content is None and resource_id):
        if not resource_id:
            raise InvalidInput("a deletion is validated at instance level", location="mode")
        version = await resources.read(conn, reader, resource_type, resource_id)
        if mode == "delete":
            there = await resources.current(conn, reader, "d", resource_type, resource_id)
            return [] if there is not None else [_refused("delete")]
        content = version.resource()
    if content is None:
        raise InvalidInput("give the resource to be validated", location="resource")
    if resource_type not in ("Resource", content.get("resourceType")):
        raise InvalidInput("the resource's type is not that of the URL", location="resourceType")
    found = await profiles.faults(conn, content, profile or "")
    return [*found, *_fit_for(mode, content, resource_id, reader)]


def outcome(found: Sequence[Issue]) -> dict[str, Any]:
    """The OperationOutcome of a validation, which says so where there is nothing to say."""
    issues = found or [Issue("informational", "", "no fault was found", "information")]
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": issue.severity,
                "code": issue.code,
                "diagnostics": issue.text,
                **({"expression": [issue.expression]} if issue.expression else {}),
            }
            for issue in issues
        ],
    }


def _fit_for(mode: str, content: Mapping[str, Any], resource_id: str, reader: Reader) -> list[Issue]:
    """Whether the interaction would be taken, the content apart."""
    resource_type = str(content.get("resourceType"))
    found = []
    if mode == "update" and not content.get("id"):
        found.append(Issue("required", f"{resource_type}.id", "an update needs the id in the resource"))
    if mode == "update" and resource_id and content.get("id") not in (None, resource_id):
        found.append(Issue("invalid", f"{resource_type}.id", "the resource's id is not that of the URL"))
    if mode in ("create", "update") and not reader.may_some(mode[0], resource_type):
        found.append(_refused(mode))
    return found


def _refused(mode: str) -> Issue:
    return Issue("forbidden", "", f"the token's scopes do not allow this {mode}")
