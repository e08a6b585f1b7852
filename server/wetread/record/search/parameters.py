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
    """token, reference, date, string, quantity, number, uri or composite."""
    expression: str
    url: str
    targets: tuple[str, ...] = ()
    system: str | Mapping[str, str] = ""
    components: tuple[str, ...] = ()
    """Of a composite: the parameters that are its parts, in order."""
    items: tuple[str, ...] = ()
    """The elements that repeat and within one of which the parts of a composite must hold: of the composite itself, and
    of each of its parts. Empty where the parts need only hold of one resource."""
    is_single_date: bool = False
    """Of a date: whether a resource has one value at most."""

    def system_of(self, code: str) -> str:
        """The system that a bare code of this parameter belongs to; empty where R4 does not say."""
        return self.system if isinstance(self.system, str) else self.system.get(code, "")


FULL_TEXT = frozenset({"_text", "_content"})
"""Parameters answered by the database's full text, not by an expression."""
_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport"
_OF_BACKPORT = f"{_BACKPORT}/StructureDefinition/backport"
_ADDED: dict[str, dict[str, Any]] = {
    "Resource": {
        "_text": {"type": "string", "url": "http://hl7.org/fhir/SearchParameter/DomainResource-text"},
        "_content": {"type": "string", "url": "http://hl7.org/fhir/SearchParameter/Resource-content"},
    },
    "DiagnosticReport": {
        "imagingStudy": {  # IHE RAD Interactive Multimedia Report, which names no canonical of its own
            "type": "reference",
            "expression": "DiagnosticReport.imagingStudy",
            "url": "https://wetread.org/fhir/SearchParameter/DiagnosticReport-imagingStudy",
            "target": ["ImagingStudy"],
        }
    },
    "Observation": {  # what R4 gives no parameters, and subscribers to findings ask for
        "interpretation": {
            "type": "token",
            "expression": "Observation.interpretation",
            "url": "https://wetread.org/fhir/SearchParameter/Observation-interpretation",
        },
        "bodysite": {
            "type": "token",
            "expression": "Observation.bodySite",
            "url": "https://wetread.org/fhir/SearchParameter/Observation-bodysite",
        },
    },
    # The Backport IG 1.1's, read where the extensions stand; two of them tokens, as the guide has put it right since
    # (FHIR-43072).
    "Subscription": {
        "topic": {
            "type": "uri",
            "expression": "Subscription.criteria",
            "url": f"{_BACKPORT}/SearchParameter/Subscription-topic",
        },
        "filter-criteria": {
            "type": "string",
            "expression": f"Subscription._criteria.extension('{_OF_BACKPORT}-filter-criteria')",
            "url": f"{_BACKPORT}/SearchParameter/Subscription-filter-criteria",
        },
        "custom-channel": {
            "type": "token",
            "expression": f"Subscription.channel._type.extension('{_OF_BACKPORT}-channel-type')",
            "url": f"{_BACKPORT}/SearchParameter/Subscription-custom-channel",
        },
        "payload-type": {
            "type": "token",
            "expression": f"Subscription.channel._payload.extension('{_OF_BACKPORT}-payload-content')",
            "url": f"{_BACKPORT}/SearchParameter/Subscription-payload-type",
        },
    },
    "Binary": {
        "securityContext": {  # which R4 gives no parameter, and by which it is decided who may see a Binary
            "type": "reference",
            "expression": "Binary.securityContext",
            "url": "https://wetread.org/fhir/SearchParameter/Binary-securityContext",
            "target": [],
        }
    },
}
STORED_ELSEWHERE = frozenset({"AuditEvent"})
"""Types that the server speaks but `resource` does not hold."""

_NOT_STORED = frozenset({"OperationOutcome", "Parameters"}) | STORED_ELSEWHERE


def table(name: str) -> Any:
    """A JSON table that ships with this package."""
    return json.loads(files("wetread.record").joinpath("data", name).read_text(encoding="utf-8"))


@cache
def resource_types() -> frozenset[str]:
    """The types that the store holds: all of R4 but those that only travel and that which the audit trail holds."""
    return frozenset(table("resource-types.json")) - _NOT_STORED


@cache
def choice_types() -> frozenset[str]:
    """What may follow the name of a choice element: `Quantity` in `valueQuantity`; not `Type` in `performerType`."""
    return frozenset(table("choice-types.json"))


@cache
def parameters_of(resource_type: str) -> Mapping[str, SearchParameter]:
    """Code to parameter, those of every resource (`_id`, `_lastUpdated`, `_tag` ...) among them."""
    rows = {**_all()["Resource"], **_all().get(resource_type, {})}
    items = {part: row["items"] for row in rows.values() if "items" in row for part in row["components"]}
    return MappingProxyType(
        {
            code: SearchParameter(
                code=code,
                kind=row["type"],
                expression=row.get("expression", ""),
                url=row["url"],
                targets=tuple(row.get("target", ())),
                system=row.get("system", ""),
                components=tuple(row.get("components", ())),
                items=tuple(row.get("items", items.get(code, ()))),
                is_single_date=code in _single_dates().get(resource_type, ()),
            )
            for code, row in rows.items()
        }
    )


@cache
def is_canonical(parameter: SearchParameter) -> bool:
    """Whether what it refers to may be named by its canonical url: all types that it refers to have one."""
    return all(t in resource_types() and "url" in parameters_of(t) for t in parameter.targets or ("",))


def common_parameters(resource_types: tuple[str, ...]) -> Mapping[str, SearchParameter]:
    """The parameters that all of these types have, of the same kind in each."""
    first, *others = (parameters_of(t) for t in resource_types)
    return {
        code: parameter
        for code, parameter in first.items()
        if all(code in other and other[code].kind == parameter.kind for other in others)
    }


@cache
def _single_dates() -> Mapping[str, list[str]]:
    codes: Mapping[str, list[str]] = table("search-single-dates.json")
    return codes


@cache
def _all() -> dict[str, dict[str, dict[str, Any]]]:
    parameters: dict[str, dict[str, dict[str, Any]]] = table("search-parameters.json")
    composites = {
        base: {code: {"type": "composite", **row} for code, row in rows.items()}
        for base, rows in table("search-composites.json").items()
    }
    bases = {*parameters, *composites, *_ADDED}
    return {b: {**parameters.get(b, {}), **composites.get(b, {}), **_ADDED.get(b, {})} for b in bases}
