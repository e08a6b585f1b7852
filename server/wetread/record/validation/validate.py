"""Whether content may be stored: R4's own definition of its type, whole (`validate_types`), and profiles.

Left out, because nothing here could decide it: codes of code systems that R4 core does not carry (media types,
currencies, UCUM, LOINC, SNOMED CT), and whether what a reference points to exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wetread.errors import InvalidInput, Unsupported
from wetread.record import lossless
from wetread.record.aside import aside
from wetread.record.search.parameters import resource_types
from wetread.record.validation import resource_types as validate_types
from wetread.record.validation.profile import check_extensions, check_profile
from wetread.record.validation.walk import Issue

__all__ = ["InvalidResource", "Issue", "check", "check_extensions", "check_profile", "issues", "parsed"]


class InvalidResource(InvalidInput):
    """Content that breaks R4's definition of its type."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__(issues[0].text, location=issues[0].expression)
        self.issues = tuple(issues)


async def parsed(text: str) -> dict[str, Any]:
    """The resource in a text, parsed without loss and found valid. Raises InvalidInput, Unsupported."""

    def work() -> dict[str, Any]:
        content = lossless.parse(text)
        check(content)
        return content

    return await aside(len(text), work)


def check(content: Mapping[str, Any]) -> None:
    """Raises InvalidResource with every fault found where one is more than tolerable, or Unsupported for a type that is
    not stored here."""
    resource_type = content.get("resourceType")
    if not isinstance(resource_type, str) or resource_type not in resource_types():
        raise Unsupported("this server stores no resource of that type; see GET metadata", location="resourceType")
    found = validate_types.check(content)
    if not all(issue.is_tolerable for issue in found):
        raise InvalidResource(found)


def issues(content: Mapping[str, Any]) -> list[Issue]:
    """What is wrong with a resource of any R4 type; nothing is raised."""
    resource_type = content.get("resourceType")
    if not isinstance(resource_type, str) or not validate_types.is_known(resource_type):
        return [Issue("structure", "resourceType", "R4 has no resource of that type")]
    return validate_types.check(content)
