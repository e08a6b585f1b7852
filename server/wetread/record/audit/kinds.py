"""The kinds of audit event, each with its FHIR codings (IHE BALP 1.1.5, DICOM PS3.15 A.5, ISO 21089 lifecycle)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from wetread.domain.codes import WETREAD

EVENT_TYPE = "http://terminology.hl7.org/CodeSystem/audit-event-type"
INTERACTION = "http://hl7.org/fhir/restful-interaction"
LIFECYCLE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
IHE_TRANSACTION = "urn:ihe:event-type-code"
OWN = WETREAD.replace("/CodeSystem/wetread", "/CodeSystem/audit")


@dataclass(frozen=True, slots=True)
class Coding:
    system: str
    code: str
    display: str

    def as_fhir(self) -> dict[str, str]:
        return {"system": self.system, "code": self.code, "display": self.display}


APPLICATION = Coding(DCM, "110150", "Application")
SOURCE = Coding(DCM, "110153", "Source Role ID")
DESTINATION = Coding(DCM, "110152", "Destination Role ID")
CUSTODIAN = Coding("http://terminology.hl7.org/CodeSystem/provenance-participant-type", "custodian", "Custodian")
AUTHORIZER = Coding(
    "http://terminology.hl7.org/CodeSystem/extra-security-role-type", "authserver", "authorization server"
)
TOKEN_SERVICE = Coding(
    "https://profiles.ihe.net/ITI/BALP/CodeSystem/UserAgentTypes", "AuthzOauthService", "OAuth Authorization Server"
)
RECIPIENT = Coding("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "IRCP", "information recipient")
AUTHOR = Coding("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "AUT", "author (originator)")


class Flow(Enum):
    """Who stands where: the type of the principal's agent, of Wetread's own, and of the person behind the principal."""

    PULL = (DESTINATION, SOURCE, RECIPIENT)
    ASK = (SOURCE, DESTINATION, RECIPIENT)
    PUSH = (SOURCE, DESTINATION, AUTHOR)
    REMOVE = (APPLICATION, CUSTODIAN, AUTHOR)
    SEND = (DESTINATION, SOURCE, RECIPIENT)
    AUTHENTICATE = (APPLICATION, AUTHORIZER, RECIPIENT)
    ISSUE = (APPLICATION, TOKEN_SERVICE, RECIPIENT)
    ACT = (APPLICATION, CUSTODIAN, AUTHOR)


@dataclass(frozen=True, slots=True)
class Kind:
    type: Coding
    subtypes: tuple[Coding, ...]
    flow: Flow


_REST = Coding(EVENT_TYPE, "rest", "RESTful Operation")


def _rest(code: str, flow: Flow) -> Kind:
    return Kind(_REST, (Coding(INTERACTION, code, code),), flow)


def _own(code: str, display: str, type_: Coding, flow: Flow, *also: Coding) -> Kind:
    return Kind(type_, (*also, Coding(OWN, code, display)), flow)


def _lifecycle(code: str, display: str) -> Coding:
    return Coding(LIFECYCLE, code, f"{display} Record Lifecycle Event")


_ACTIVITY = Coding(DCM, "110100", "Application Activity")
_AUDIT_LOG_USED = Coding(DCM, "110101", "Audit Log Used")
_ACCESSED = Coding(DCM, "110103", "DICOM Instances Accessed")
_TRANSFERRED = Coding(DCM, "110104", "DICOM Instances Transferred")
_EXPORT = Coding(DCM, "110106", "Export")
_ORDER = Coding(DCM, "110109", "Order Record")
_PROCEDURE = Coding(DCM, "110111", "Procedure Record")
_QUERY = Coding(DCM, "110112", "Query")
_ALERT = Coding(DCM, "110113", "Security Alert")
_AUTHENTICATION = Coding(DCM, "110114", "User Authentication")
_CONFIGURATION = Coding(DCM, "110131", "Software Configuration")
_SECURITY_ATTRIBUTES = Coding(DCM, "110137", "User Security Attributes Changed")
_RECEIVE = _lifecycle("receive", "Receive/Retain")
_ACCESS = _lifecycle("access", "Access/View")
_ORIGINATE = _lifecycle("originate", "Originate/Retain")
_TRANSMIT = _lifecycle("transmit", "Transmit")
_TRANSFORM = _lifecycle("transform", "Transform/Translate")
_LINK = _lifecycle("link", "Link")
_MERGE = _lifecycle("merge", "Merge")
_HOLD = _lifecycle("hold", "Add Legal Hold")
_VERIFY = _lifecycle("verify", "Verify")
_AMEND = _lifecycle("amend", "Amend (Update)")
_DESTROY = _lifecycle("destroy", "Destroy/Delete")
_DISCLOSE = _lifecycle("disclose", "Disclose")

_REST_FLOWS = {
    Flow.PULL: ("read", "vread", "history", "history-instance", "history-type", "history-system", "capabilities"),
    Flow.ASK: ("search", "search-type", "search-system", "operation"),
    Flow.PUSH: ("create", "update", "patch", "batch", "transaction"),
    Flow.REMOVE: ("delete",),
}

KINDS: Mapping[str, Kind] = {
    **{code: _rest(code, flow) for flow, codes in _REST_FLOWS.items() for code in codes},
    "message-received": _own("message-received", "HL7 message received", _RECEIVE, Flow.PUSH),
    "message-refused": _own("message-refused", "HL7 message refused", _RECEIVE, Flow.PUSH),
    "message-replayed": _own("message-replayed", "HL7 message mapped again", _TRANSFORM, Flow.ACT),
    "order-received": _own("order-received", "Imaging order received", _ORDER, Flow.PUSH),
    "order-changed": _own("order-changed", "Imaging order changed or cancelled", _ORDER, Flow.PUSH),
    "patient-changed": _own("patient-changed", "Patient record changed", _AMEND, Flow.PUSH),
    "patient-merged": _own("patient-merged", "Patient records merged", _MERGE, Flow.PUSH),
    "instance-stored": _own("instance-stored", "DICOM instances stored", _TRANSFERRED, Flow.PUSH),
    "instance-refused": _own("instance-refused", "DICOM instance refused", _TRANSFERRED, Flow.PUSH),
    "instance-accessed": _own("instance-accessed", "DICOM instances read", _ACCESSED, Flow.PULL),
    "instance-sent": _own("instance-sent", "DICOM instances sent", _TRANSFERRED, Flow.SEND),
    "instance-queried": _own("instance-queried", "DICOM index queried", _QUERY, Flow.ASK),
    "study-completed": _own("study-completed", "Imaging study complete", _PROCEDURE, Flow.ACT),
    "study-reopened": _own("study-reopened", "Imaging study reopened", _PROCEDURE, Flow.ACT),
    "match-resolved": _own("match-resolved", "Study matched to order and patient", _LINK, Flow.ACT),
    "result-held": _own("result-held", "Results held back", _HOLD, Flow.ACT),
    "ai-inference": _own("ai-inference", "Model read a study", _TRANSFORM, Flow.ACT),
    "result-reported": _own("result-reported", "AI results written", _ORIGINATE, Flow.ACT),
    "result-verified": _own("result-verified", "AI result accepted, modified or rejected", _VERIFY, Flow.ACT),
    "result-sent": _own("result-sent", "Result message sent", _TRANSMIT, Flow.SEND),
    "alert-sent": _own("alert-sent", "Critical finding alert sent", _TRANSMIT, Flow.SEND),
    "notification-sent": _own("notification-sent", "Subscription notification sent", _TRANSMIT, Flow.SEND),
    "delivery-failed": _own("delivery-failed", "Delivery given up", _TRANSMIT, Flow.SEND),
    "subscription-changed": _own("subscription-changed", "Subscription switched by an operator", _AMEND, Flow.ACT),
    "disclosure": _own("disclosure", "Patient data disclosed", _EXPORT, Flow.SEND, _DISCLOSE),
    "export-started": _own("export-started", "Bulk export started", _EXPORT, Flow.ASK),
    "export-downloaded": _own("export-downloaded", "File of a bulk export downloaded", _EXPORT, Flow.PULL),
    "export-cancelled": _own("export-cancelled", "Bulk export cancelled or its files removed", _EXPORT, Flow.REMOVE),
    "view-run": _own("view-run", "View of the record run", _EXPORT, Flow.PULL),
    "silent-results-read": _own("silent-results-read", "Results of a silent model read", _ACCESS, Flow.PULL),
    "finding-revealed": _own("finding-revealed", "Finding shown on request", _ACCESS, Flow.PULL),
    "page-viewed": _own("page-viewed", "Page for staff viewed", _ACCESS, Flow.PULL),
    "audit-read": _own("audit-read", "Audit record read or exported", _AUDIT_LOG_USED, Flow.PULL),
    "audit-removed": _own("audit-removed", "Audit records removed by policy", _DESTROY, Flow.ACT),
    "request-answered": _own("request-answered", "Request answered", _REST, Flow.PULL),
    "request-refused": _own("request-refused", "Request refused", _REST, Flow.ASK),
    "token-issued": Kind(_AUTHENTICATION, (Coding(IHE_TRANSACTION, "ITI-71", "Get Access Token"),), Flow.ISSUE),
    "login": Kind(_AUTHENTICATION, (Coding(DCM, "110122", "Login"),), Flow.AUTHENTICATE),
    "logout": Kind(_AUTHENTICATION, (Coding(DCM, "110123", "Logout"),), Flow.AUTHENTICATE),
    "access-denied": _own("access-denied", "Access denied", _ALERT, Flow.ASK),
    "account-locked": _own("account-locked", "Name closed after failed logins", _ALERT, Flow.ASK),
    "account-changed": _own(
        "account-changed", "Person, password or second factor changed", _ALERT, Flow.ACT, _SECURITY_ATTRIBUTES
    ),
    "client-changed": _own("client-changed", "Client or its secrets changed", _ALERT, Flow.ACT, _SECURITY_ATTRIBUTES),
    "app-authorized": _own("app-authorized", "App given access by a person", _ALERT, Flow.ACT, _SECURITY_ATTRIBUTES),
    "app-launched": _own("app-launched", "App launched in a context", _ALERT, Flow.ACT),
    "access-withdrawn": _own(
        "access-withdrawn", "Access of an app or token ended", _ALERT, Flow.ACT, _SECURITY_ATTRIBUTES
    ),
    "token-introspected": _own("token-introspected", "Token asked about", _AUTHENTICATION, Flow.ASK),
    "phase-changed": _own("phase-changed", "Phase of a model changed", _ALERT, Flow.ACT, _CONFIGURATION),
    "configuration-changed": _own("configuration-changed", "Configuration changed", _ALERT, Flow.ACT, _CONFIGURATION),
    "server-started": Kind(_ACTIVITY, (Coding(DCM, "110120", "Application Start"),), Flow.ACT),
    "server-stopped": Kind(_ACTIVITY, (Coding(DCM, "110121", "Application Stop"),), Flow.ACT),
}
"""A kind that is not here cannot be written; each is described in docs/audit.md."""


def kinds_with(field: str, system: str | None, code: str) -> list[str]:
    """The kinds whose `type` or `subtype` (the name of `field`) carries a code; any system where it is None."""
    return [
        name
        for name, kind in KINDS.items()
        for coding in ((kind.type,) if field == "type" else kind.subtypes)
        if (system is None or coding.system == system) and (not code or coding.code == code)
    ]
