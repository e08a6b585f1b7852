"""The CapabilityStatement, made from the tables that the server works by (FHIR R4 capabilitystatement.html)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from wetread import __version__
from wetread.record.parameters import parameters_of, resource_types
from wetread.record.query import SUPPORTED_KINDS
from wetread.record.splice import instant

_INTERACTIONS = ("create", "read", "vread", "update", "delete", "history-instance", "search-type")
_SYSTEM_INTERACTIONS = ("batch", "transaction")


def capability_statement(base_url: str, at: datetime) -> dict[str, Any]:
    """What is served, of this version of the software, since `at`."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": instant(at),
        "kind": "instance",
        "software": {"name": "Wetread", "version": __version__},
        "implementation": {"description": "Wetread, clinical integration server for imaging AI", "url": base_url},
        "fhirVersion": "4.0.1",
        "format": ["json", "application/fhir+json"],
        "rest": [
            {
                "mode": "server",
                "security": {"description": "Every interaction but this one needs a bearer token with SMART scopes."},
                "resource": [*map(_resource, sorted(resource_types())), _audit_event()],
                "interaction": [{"code": code} for code in _SYSTEM_INTERACTIONS],
            }
        ],
    }


def _resource(resource_type: str) -> dict[str, Any]:
    parameters = [p for _, p in sorted(parameters_of(resource_type).items()) if p.kind in SUPPORTED_KINDS]
    references = [f"{resource_type}:{p.code}" for p in parameters if p.kind == "reference"]
    return {
        "type": resource_type,
        "profile": f"http://hl7.org/fhir/StructureDefinition/{resource_type}",
        "interaction": [{"code": code} for code in _INTERACTIONS],
        "versioning": "versioned-update",
        "readHistory": True,
        "updateCreate": True,
        "conditionalCreate": True,
        "conditionalRead": "full-support",
        "conditionalUpdate": False,
        "conditionalDelete": "not-supported",
        **({"searchInclude": references} if references else {}),
        "searchParam": [{"name": p.code, "definition": p.url, "type": p.kind} for p in parameters],
    }


def _audit_event() -> dict[str, Any]:
    return {
        "type": "AuditEvent",
        "profile": "http://hl7.org/fhir/StructureDefinition/AuditEvent",
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "versioning": "no-version",
        "readHistory": False,
        "updateCreate": False,
    }
