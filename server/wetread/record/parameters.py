"""The search parameters of R4 (FHIR R4 search.html), read from `data/search-parameters.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """One parameter of one type. `expression` is R4's own.

    `system` is the code system of an element of type code, or a map from code to system where its binding has several.
    """

    code: str
    kind: str
    """token, reference, date, string, quantity, number or uri."""
    expression: str
    url: str
    targets: tuple[str, ...] = ()
    system: str | Mapping[str, str] = ""

    def system_of(self, code: str) -> str:
        """The system that a bare code of this parameter belongs to; empty where R4 does not say."""
        return self.system if isinstance(self.system, str) else self.system.get(code, "")


STORED_ELSEWHERE = frozenset({"AuditEvent"})
"""Types that the server speaks but `resource` does not hold."""

_NOT_STORED = frozenset({"OperationOutcome", "Parameters"}) | STORED_ELSEWHERE
_OTHER_IN_R4B = frozenset({"ActivityDefinition", "Evidence", "EvidenceVariable", "PlanDefinition"})
"""Types whose R4B model, the validator that we have, is not R4's."""


def table(name: str) -> Any:
    """A JSON table that ships with this package."""
    return json.loads(files("wetread.record").joinpath("data", name).read_text(encoding="utf-8"))


@cache
def resource_types() -> frozenset[str]:
    """The types that the store holds: those of R4 that R4B, the validator's release, shares unchanged."""
    return frozenset(table("shared-types.json")) - _NOT_STORED - _OTHER_IN_R4B


@cache
def choice_types() -> frozenset[str]:
    """What may follow the name of a choice element: `Quantity` in `valueQuantity`; not `Type` in `performerType`."""
    return frozenset(table("choice-types.json"))


@cache
def parameters_of(resource_type: str) -> Mapping[str, SearchParameter]:
    """Code to parameter, those of every resource (`_id`, `_lastUpdated`, `_tag` ...) among them."""
    rows = {**_all()["Resource"], **_all().get(resource_type, {})}
    return MappingProxyType(
        {
            code: SearchParameter(
                code=code,
                kind=row["type"],
                expression=row["expression"],
                url=row["url"],
                targets=tuple(row.get("target", ())),
                system=row.get("system", ""),
            )
            for code, row in rows.items()
        }
    )


@cache
def _all() -> dict[str, dict[str, dict[str, Any]]]:
    parameters: dict[str, dict[str, dict[str, Any]]] = table("search-parameters.json")
    return parameters
