"""Roles, and what each may do on the FHIR face: the most that a `user/` scope of a person can open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from wetread.domain.reader import Scope
from wetread.errors import Misconfigured

ROLES: Mapping[str, str] = MappingProxyType(
    {
        "administrator": "Administrator",
        "engineer": "Integration engineer",
        "radiologist": "Radiologist",
        "technologist": "Technologist",
        "physicist": "Medical physicist",
        "governance": "Steering committee",
        "auditor": "Auditor",
        "analyst": "Population-health analyst",
        "service": "Service",
    }
)
"""Code and name of each role that a person, a client or a token can have."""

_CLINICAL = (
    "Patient Encounter Practitioner PractitionerRole Organization Location Endpoint Device ServiceRequest Task"
    " ImagingStudy Observation DiagnosticReport Media Binary DocumentReference Provenance Communication Flag"
    " RiskAssessment Group Condition Procedure AllergyIntolerance Specimen CarePlan CareTeam RelatedPerson Appointment"
)
_TECHNICAL = (
    "Device Endpoint Location Organization PractitionerRole Practitioner Subscription CodeSystem ValueSet ConceptMap"
    " StructureDefinition SearchParameter OperationDefinition CapabilityStatement NamingSystem Library"
)
_MEASURED = " Measure MeasureReport"


def _on(types: str, letters: str) -> tuple[Scope, ...]:
    return tuple(Scope("user", name, frozenset(letters)) for name in types.split())


RIGHTS: Mapping[str, tuple[Scope, ...]] = MappingProxyType(
    {
        "administrator": _on("*", "cruds"),
        "engineer": (*_on(_CLINICAL, "rs"), *_on(_TECHNICAL, "cruds")),
        "radiologist": (
            *_on(_CLINICAL, "rs"),
            *_on("DiagnosticReport Observation Task Communication Flag", "cu"),
        ),
        "technologist": (*_on(_CLINICAL, "rs"), *_on("ServiceRequest Task ImagingStudy", "u")),
        "physicist": _on("Device ImagingStudy Observation DiagnosticReport Provenance", "rs"),
        "governance": _on(_CLINICAL + _MEASURED, "rs"),
        "auditor": _on(_CLINICAL + _MEASURED + " AuditEvent Subscription", "rs"),
        "analyst": _on(_CLINICAL + _MEASURED + " Library ValueSet", "rs"),
        "service": (),
    }
)


def checked(roles: Iterable[str]) -> frozenset[str]:
    """Raises Misconfigured for a role that there is not."""
    wanted = frozenset(roles)
    if unknown := sorted(wanted - ROLES.keys()):
        raise Misconfigured(f"no such role: {', '.join(unknown)}; there are {', '.join(ROLES)}")
    return wanted


def narrowed(asked: Iterable[Scope], held: Iterable[Scope]) -> tuple[Scope, ...]:
    """The part of what was asked that is held: each pair's common type, letters and both constraints; each once.

    A held `user` scope also covers an asked `patient` scope; otherwise the levels must agree.
    """
    most = tuple(held)
    found: dict[Scope, None] = {}
    for wish in asked:
        for own in most:
            if own.level != wish.level and not (wish.level == "patient" and own.level == "user"):
                continue
            if "*" not in (wish.resource_type, own.resource_type) and wish.resource_type != own.resource_type:
                continue
            letters = wish.letters & own.letters
            if letters:
                name = own.resource_type if wish.resource_type == "*" else wish.resource_type
                constraint = tuple(dict.fromkeys((*wish.constraint, *own.constraint)))
                found[Scope(wish.level, name, letters, constraint)] = None
    return tuple(found)


def of_roles(roles: Iterable[str]) -> tuple[Scope, ...]:
    """What a person of these roles may open, at level `user`."""
    return tuple(dict.fromkeys(scope for role in roles for scope in RIGHTS.get(role, ())))
