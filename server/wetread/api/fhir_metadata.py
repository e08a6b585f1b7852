"""What this server can, made from the tables that it works by (FHIR R4 capabilitystatement.html)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from wetread import __version__
from wetread.api import fhir_format, fhir_subscriptions
from wetread.domain.codes import PROFILES
from wetread.record import patch
from wetread.record.audit import search as audit_search
from wetread.record.operations import operations
from wetread.record.search.filters import OPERATORS
from wetread.record.search.includes import MOST_INCLUDED
from wetread.record.search.parameters import SearchParameter, common_parameters, parameters_of, resource_types, table
from wetread.record.search.query import MODIFIERS, NOT_SUPPORTED, SUPPORTED_KINDS
from wetread.record.splice import instant
from wetread.record.terminology import definitions

CANONICAL = "https://wetread.org/fhir/CapabilityStatement/wetread"
IMPLEMENTATION_GUIDE = "https://wetread.org/fhir/ImplementationGuide/wetread.fhir.r4"
SUPPORTED_PROFILES: Mapping[str, tuple[str, ...]] = {
    "Device": ("ai-device",),
    "DiagnosticReport": ("ai-diagnosticreport",),
    "ImagingStudy": ("imaging-study",),
    "Observation": ("ai-observation",),
    "Provenance": ("ai-provenance",),
    "ServiceRequest": ("imaging-servicerequest",),
    "Task": ("ai-reading-task",),
}
"""Ours, by type: the profiles of the package in `conformance/`."""

_INTERACTIONS = (
    *("create", "read", "vread", "update", "patch", "delete"),
    *("history-instance", "history-type", "search-type"),
)
_SYSTEM_INTERACTIONS = ("batch", "transaction", "history-system", "search-system")
_BULK_DATA = "http://hl7.org/fhir/uv/bulkdata"
_EXPORTS = {"": "export", "Patient": "patient-export", "Group": "group-export"}
_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport"
_OF_OTHERS: Mapping[str, tuple[str, ...]] = {
    "Subscription": (f"{_BACKPORT}/StructureDefinition/backport-subscription",),
}
"""Backport IG 1.1 conformance.html#profile-support-1."""
_ANY_TYPE = 100
"""A reference parameter with as many targets may name a resource of any type."""
_CORE = "http://hl7.org/fhir"
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
_OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"


def capability_statement(
    base_url: str, at: datetime, *, update_create: bool = True, topics: Sequence[str] = ()
) -> dict[str, Any]:
    """What is served by this server since `at`. `topics` are canonicals, what may be subscribed to."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": instant(at),
        "kind": "instance",
        "instantiates": [
            CANONICAL,
            f"{_BULK_DATA}/CapabilityStatement/bulk-data",
            f"{_BACKPORT}/CapabilityStatement/backport-subscription-server-r4",
        ],
        "software": {"name": "Wetread", "version": __version__},
        "implementation": {"description": "Wetread, clinical integration server for imaging AI", "url": base_url},
        **_served(update_create, topics, base_url),
    }


def capabilities_of_the_software(date: str) -> dict[str, Any]:
    """What every Wetread of this version serves, as it comes: the statement in the package of `conformance/`."""
    return {
        "resourceType": "CapabilityStatement",
        "id": "wetread",
        "url": CANONICAL,
        "version": __version__,
        "name": "Wetread",
        "title": "Wetread",
        "status": "active",
        "experimental": False,
        "date": date,
        "publisher": "Wetread",
        "description": "What the FHIR face of Wetread serves, as it comes.",
        "kind": "capability",
        "software": {"name": "Wetread", "version": __version__},
        **_served(True, ()),
    }


def _served(update_create: bool, topics: Sequence[str], base_url: str = "") -> dict[str, Any]:
    rest = {
        **({"extension": [_websocket(base_url)]} if base_url else {}),
        "mode": "server",
        "documentation": _documentation(),
        "security": _security(base_url),
        "resource": [
            *(_resource(t, update_create, topics) for t in sorted(resource_types())),
            _audit_event(),
        ],
        "interaction": [{"code": code} for code in _SYSTEM_INTERACTIONS],
        "searchParam": [*(_search_param(p) for p in _common().values()), *_OF_EVERY_TYPE],
        "operation": [*_operations(""), _view_run()],
        "compartment": [f"{_CORE}/CompartmentDefinition/{_lower_first(c)}" for c in sorted(table("compartments.json"))],
    }
    return {
        "fhirVersion": "4.0.1",
        "format": list(fhir_format.FORMATS),
        "patchFormat": [patch.MEDIA_TYPE, fhir_format.JSON, fhir_format.XML],
        "implementationGuide": [IMPLEMENTATION_GUIDE],
        "rest": [rest],
    }


def _security(base_url: str) -> dict[str, Any]:
    """SMART App Launch 2.2 conformance.html#declaring-support-for-oauth2-endpoints. The software knows no addresses."""
    coding = {"system": f"{_TERMINOLOGY}/restful-security-service", "code": "SMART-on-FHIR"}
    security: dict[str, Any] = {
        "cors": True,
        "service": [{"coding": [coding], "text": "OAuth 2 by SMART App Launch 2.2"}],
        "description": "Every interaction but this one needs a bearer token with SMART scopes.",
    }
    if not base_url:
        return security
    oauth = f"{base_url.removesuffix('/fhir')}/oauth"
    uris = [{"url": name, "valueUri": f"{oauth}/{name}"} for name in ("authorize", "token")]
    return {"extension": [{"url": _OAUTH_URIS, "extension": uris}], **security}


_OF_EVERY_TYPE = tuple({"name": name, "type": "special"} for name in ("_filter", "_has", "_list"))
"""The parameters that are no element's."""


def terminology_capabilities(base_url: str, at: datetime) -> dict[str, Any]:
    """What the terminology operations know without what the site has stored (R4 terminologycapabilities.html)."""
    expand = next(o for o in operations.OPERATIONS if o.url == f"{_CORE}/OperationDefinition/ValueSet-expand")
    names = {p.name for o in operations.OPERATIONS if o.code == "translate" for p in o.inputs}
    return {
        "resourceType": "TerminologyCapabilities",
        "status": "active",
        "date": instant(at),
        "kind": "instance",
        "software": {"name": "Wetread", "version": __version__},
        "implementation": {"description": "Wetread, clinical integration server for imaging AI", "url": base_url},
        "codeSystem": [{"uri": url} for url in definitions.shipped_urls("CodeSystem")],
        "expansion": {
            "hierarchical": False,
            "paging": {"offset", "count"} <= {p.name for p in expand.inputs},
            "incomplete": False,
            "parameter": [{"name": p.name} for p in expand.inputs],
        },
        "codeSearch": "all",
        "validateCode": {"translations": False},
        "translation": {"needsMap": not names & {"source", "target", "targetsystem"}},
    }


def _documentation() -> str:
    modifiers = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in MODIFIERS.items())
    operators = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in OPERATORS.items())
    return (
        f"Modifiers by type of parameter: {modifiers}. Chains and _has work to any reference parameter. "
        f"Operators of _filter: {operators}. _list takes the id of a List; there are no functional lists. "
        f"A page includes at most {MOST_INCLUDED} resources; Provenance:target and other parameters that may name any "
        f"type can be reversed for every type. Refused, not ignored: {', '.join(NOT_SUPPORTED)}."
    )


def _resource(resource_type: str, update_create: bool, topics: Sequence[str]) -> dict[str, Any]:
    parameters = _searched(resource_type)
    ours = [f"{PROFILES}/{name}" for name in SUPPORTED_PROFILES.get(resource_type, ())]
    profiles = [*ours, *_OF_OTHERS.get(resource_type, ())]
    includes = [f"{resource_type}:{p.code}" for p in parameters if p.kind == "reference"]
    reverse = _reverse_includes().get(resource_type, ())
    found = list(_operations(resource_type))
    return {
        **({"extension": _topics(topics)} if topics and resource_type == "Subscription" else {}),
        "type": resource_type,
        "profile": f"{_CORE}/StructureDefinition/{resource_type}",
        **({"supportedProfile": profiles} if profiles else {}),
        "interaction": [{"code": code} for code in _INTERACTIONS],
        "versioning": "versioned-update",
        "readHistory": True,
        "updateCreate": update_create,
        "conditionalCreate": True,
        "conditionalRead": "full-support",
        "conditionalUpdate": True,
        "conditionalDelete": "single",
        "referencePolicy": ["literal", "logical"],
        "searchInclude": ["*", *([f"{resource_type}:*"] if includes else []), *includes],
        **({"searchRevInclude": list(reverse)} if reverse else {}),
        "searchParam": [_search_param(p) for p in parameters],
        **({"operation": found} if found else {}),
    }


def _audit_event() -> dict[str, Any]:
    known = parameters_of("AuditEvent")
    return {
        "type": "AuditEvent",
        "profile": f"{_CORE}/StructureDefinition/AuditEvent",
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "versioning": "no-version",
        "readHistory": False,
        "updateCreate": False,
        "searchParam": [_search_param(known[name]) for name in sorted(audit_search.SEARCH_PARAMETERS)],
    }


def _search_param(parameter: SearchParameter) -> dict[str, str]:
    return {"name": parameter.code, "definition": parameter.url, "type": parameter.kind}


def _searched(resource_type: str) -> list[SearchParameter]:
    known = parameters_of(resource_type)
    return [p for code, p in sorted(known.items()) if p.kind in SUPPORTED_KINDS and code not in NOT_SUPPORTED]


@cache
def _common() -> Mapping[str, SearchParameter]:
    """The parameters that every type has."""
    return {
        code: p for code, p in common_parameters(tuple(sorted(resource_types()))).items() if p in _searched("Basic")
    }


@cache
def _reverse_includes() -> Mapping[str, Sequence[str]]:
    """Type to `Type:parameter` that may name it; parameters that may name any type are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for source in sorted(resource_types()):
        for parameter in _searched(source):
            if parameter.kind == "reference" and len(parameter.targets) < _ANY_TYPE:
                for target in parameter.targets:
                    found[target].append(f"{source}:{parameter.code}")
    return found


def _operations(resource_type: str) -> Iterator[dict[str, str]]:
    """Those of a type, or those of the whole server where it is empty."""
    for operation in operations.operations_of(resource_type):
        yield {"name": operation.code, "definition": operation.url}
    if resource_type in _EXPORTS:
        yield {"name": "export", "definition": f"{_BULK_DATA}/OperationDefinition/{_EXPORTS[resource_type]}"}


def _view_run() -> dict[str, str]:
    return {
        "name": "viewdefinition-run",
        "definition": "http://sql-on-fhir.org/OperationDefinition/$viewdefinition-run",
        "documentation": "Also ViewDefinition/$run and ViewDefinition/[id]/$run. _format: json, ndjson, csv, parquet."
        " viewReference: ViewDefinition/[id] or the canonical of a shipped view. ViewDefinitions are not stored.",
    }


def _lower_first(word: str) -> str:
    return word[:1].lower() + word[1:]


def _websocket(base_url: str) -> dict[str, str]:
    """Where subscriptions' websockets are opened (R4 extension-capabilitystatement-websocket.html)."""
    url = f"{_CORE}/StructureDefinition/capabilitystatement-websocket"
    return {"url": url, "valueUri": fhir_subscriptions.socket_url(base_url)}


def _topics(topics: Sequence[str]) -> list[dict[str, str]]:
    url = f"{_BACKPORT}/StructureDefinition/capabilitystatement-subscriptiontopic-canonical"
    return [{"url": url, "valueCanonical": topic} for topic in sorted(topics)]
