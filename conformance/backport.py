"""The extensions of the Subscriptions R5 Backport guide 1.1.0 that we use (R4), as definitions to validate with.

The guide is a package that no registry of ours carries. What a validator needs of it is small: where each extension may
stand, the type of its value, and the codes of one. The guide's profiles are not here.
"""

from __future__ import annotations

from typing import Any

_BASE = "http://hl7.org/fhir/uv/subscriptions-backport"
_CODES = f"{_BASE}/CodeSystem/backport-content-code-system"
_VALUES = f"{_BASE}/ValueSet/backport-content-value-set"
_EXTENSIONS = (
    ("backport-filter-criteria", "Subscription.criteria", "string"),
    ("backport-payload-content", "Subscription.channel.payload", "code"),
    ("backport-channel-type", "Subscription.channel.type", "Coding"),
    ("backport-heartbeat-period", "Subscription.channel", "unsignedInt"),
    ("backport-timeout", "Subscription.channel", "unsignedInt"),
    ("backport-max-count", "Subscription.channel", "positiveInt"),
    ("capabilitystatement-subscriptiontopic-canonical", "CapabilityStatement.rest.resource", "canonical"),
)


def definitions() -> list[dict[str, Any]]:
    """R4 conformance resources: the extensions, and the codes of the payload's content."""
    content = _canonical("CodeSystem", "backport-content-code-system") | {
        "caseSensitive": True,
        "content": "complete",
        "concept": [{"code": code} for code in ("empty", "id-only", "full-resource")],
    }
    values = _canonical("ValueSet", "backport-content-value-set") | {"compose": {"include": [{"system": _CODES}]}}
    return [content, values, *(_extension(*row) for row in _EXTENSIONS)]


def _extension(name: str, context: str, value_type: str) -> dict[str, Any]:
    url = f"{_BASE}/StructureDefinition/{name}"
    value: dict[str, Any] = {"id": "Extension.value[x]", "path": "Extension.value[x]", "min": 1, "max": "1"}
    value["type"] = [{"code": value_type}]
    if value_type == "code":
        value["binding"] = {"strength": "required", "valueSet": _VALUES}
    return _canonical("StructureDefinition", name) | {
        "fhirVersion": "4.0.1",
        "kind": "complex-type",
        "abstract": False,
        "context": [{"type": "element", "expression": context}],
        "type": "Extension",
        "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Extension",
        "derivation": "constraint",
        "differential": {
            "element": [
                {"id": "Extension", "path": "Extension", "short": name, "min": 0, "max": "*"},
                {"id": "Extension.extension", "path": "Extension.extension", "max": "0"},
                {"id": "Extension.url", "path": "Extension.url", "fixedUri": url},
                value,
            ]
        },
    }


def _canonical(resource_type: str, name: str) -> dict[str, Any]:
    return {
        "resourceType": resource_type,
        "id": name,
        "url": f"{_BASE}/{resource_type}/{name}",
        "version": "1.1.0",
        "name": "".join(part.capitalize() for part in name.split("-")),
        "status": "active",
        "description": f"{name} of the guide Subscriptions R5 Backport.",
    }
