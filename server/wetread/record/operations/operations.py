"""The operations that this server does (FHIR R4 operations.html), as their OperationDefinitions give them.

The routes and the CapabilityStatement read this table. An input that R4 defines and that is not here is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wetread.errors import NotFound
from wetread.record.search.parameters import resource_types

_ANY = "Resource"
_CORE = "http://hl7.org/fhir/OperationDefinition"
_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/backport-subscription"


@dataclass(frozen=True, slots=True)
class Parameter:
    """An input. `type` is an R4 type, or that of a resource; `max` is "1" or "*"."""

    name: str
    type: str
    max: str = "1"
    min: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on a type; on every type where `resource_type` is Resource.

    `body` names the parameter that a POST may hold as its whole body; `searches` says that the search parameters of
    the type are inputs too.
    """

    code: str
    resource_type: str
    url: str
    levels: frozenset[str]
    """Of system, type and instance."""
    inputs: tuple[Parameter, ...]
    affects_state: bool = False
    body: str = ""
    searches: bool = False

    def input(self, name: str) -> Parameter | None:
        return next((p for p in self.inputs if p.name == name), None)


_CODED = (Parameter("code", "code"), Parameter("display", "string"))
_VALIDATED = (
    *_CODED,
    Parameter("coding", "Coding"),
    Parameter("codeableConcept", "CodeableConcept"),
    Parameter("abstract", "boolean"),
    Parameter("displayLanguage", "code"),
)
_PERIOD = (Parameter("start", "date"), Parameter("end", "date"))
_RECORD = (Parameter("_since", "instant"), Parameter("_type", "code", "*"), Parameter("_count", "integer"))


def _core(
    resource_type: str,
    code: str,
    levels: str,
    *inputs: Parameter,
    affects_state: bool = False,
    body: str = "",
    searches: bool = False,
) -> Operation:
    url = f"{_CORE}/{resource_type}-{code}"
    return Operation(code, resource_type, url, frozenset(levels.split()), inputs, affects_state, body, searches)


def _of_subscriptions(code: str, levels: str, *inputs: Parameter) -> Operation:
    """Of the Subscriptions R5 Backport IG 1.1. A binding token is short-lived, and may be asked for by GET."""
    return Operation(code, "Subscription", f"{_BACKPORT}-{code}", frozenset(levels.split()), inputs)


OPERATIONS: tuple[Operation, ...] = (
    _core(
        "CodeSystem",
        "lookup",
        "type",
        Parameter("code", "code"),
        Parameter("system", "uri"),
        Parameter("version", "string"),
        Parameter("coding", "Coding"),
        Parameter("displayLanguage", "code"),
        Parameter("property", "code", "*"),
    ),
    _core(
        "CodeSystem",
        "subsumes",
        "type instance",
        Parameter("codeA", "code"),
        Parameter("codeB", "code"),
        Parameter("system", "uri"),
        Parameter("version", "string"),
        Parameter("codingA", "Coding"),
        Parameter("codingB", "Coding"),
    ),
    _core(
        "CodeSystem",
        "validate-code",
        "type instance",
        Parameter("url", "uri"),
        Parameter("codeSystem", "CodeSystem"),
        Parameter("version", "string"),
        *_VALIDATED,
    ),
    _core(
        "ConceptMap",
        "translate",
        "type instance",
        Parameter("url", "uri"),
        Parameter("conceptMap", "ConceptMap"),
        Parameter("conceptMapVersion", "string"),
        Parameter("code", "code"),
        Parameter("system", "uri"),
        Parameter("version", "string"),
        Parameter("source", "uri"),
        Parameter("coding", "Coding"),
        Parameter("codeableConcept", "CodeableConcept"),
        Parameter("target", "uri"),
        Parameter("targetsystem", "uri"),
        Parameter("reverse", "boolean"),
    ),
    _core(
        "ValueSet",
        "expand",
        "type instance",
        Parameter("url", "uri"),
        Parameter("valueSet", "ValueSet"),
        Parameter("valueSetVersion", "string"),
        Parameter("filter", "string"),
        Parameter("offset", "integer"),
        Parameter("count", "integer"),
        Parameter("includeDesignations", "boolean"),
        Parameter("designation", "string", "*"),
        Parameter("includeDefinition", "boolean"),
        Parameter("activeOnly", "boolean"),
        Parameter("excludeNested", "boolean"),
        Parameter("excludeNotForUI", "boolean"),
        Parameter("excludePostCoordinated", "boolean"),
        Parameter("displayLanguage", "code"),
        Parameter("exclude-system", "canonical", "*"),
        Parameter("system-version", "canonical", "*"),
        Parameter("check-system-version", "canonical", "*"),
        Parameter("force-system-version", "canonical", "*"),
        body="valueSet",
    ),
    _core(
        "ValueSet",
        "validate-code",
        "type instance",
        Parameter("url", "uri"),
        Parameter("valueSet", "ValueSet"),
        Parameter("valueSetVersion", "string"),
        Parameter("system", "uri"),
        Parameter("systemVersion", "string"),
        *_VALIDATED,
    ),
    _core(
        _ANY,
        "validate",
        "type instance",
        Parameter("resource", "Resource"),
        Parameter("mode", "code"),
        Parameter("profile", "uri"),
        body="resource",
    ),
    _core(_ANY, "meta", "instance"),
    _core(_ANY, "meta-add", "instance", Parameter("meta", "Meta", min=1), affects_state=True),
    _core(_ANY, "meta-delete", "instance", Parameter("meta", "Meta", min=1), affects_state=True),
    _core("Patient", "everything", "type instance", *_PERIOD, *_RECORD),
    _core("Encounter", "everything", "instance", *_RECORD),
    _core("Observation", "lastn", "type", Parameter("max", "positiveInt"), searches=True),
    _of_subscriptions("status", "type instance", Parameter("id", "id", "*"), Parameter("status", "code", "*")),
    _of_subscriptions(
        "events",
        "instance",
        Parameter("eventsSinceNumber", "string"),
        Parameter("eventsUntilNumber", "string"),
        Parameter("content", "code"),
    ),
    _of_subscriptions("get-ws-binding-token", "type instance", Parameter("id", "id", "*")),
)


def operations_of(resource_type: str) -> Sequence[Operation]:
    """Those that can be called on a type, or on the server where it is empty."""
    if not resource_type:
        return [o for o in OPERATIONS if "system" in o.levels]
    return [o for o in OPERATIONS if o.resource_type in (resource_type, _ANY) and o.levels - {"system"}]


def called(code: str, resource_type: str, level: str) -> Operation:
    """The operation that a URL names. Raises NotFound."""
    if resource_type and resource_type != _ANY and resource_type not in resource_types():
        raise NotFound("no such resource type here; see GET metadata")
    found = next((o for o in operations_of(resource_type) if o.code == code), None)
    if found is None:
        raise NotFound("no such operation here; see rest.operation and rest.resource.operation of GET metadata")
    if level not in found.levels:
        raise NotFound(f"${code} is called on {' or '.join(sorted(found.levels))} level, not on {level} level")
    return found
