"""An AuditEvent as a DICOM audit message (PS3.15 A.5, the form of RFC 3881), as ATNA's audit record repositories take.

FHIR's AuditEvent grew out of that form; every value has its place. Codes of DICOM bear `DCM`, all others their URI.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from wetread.record.audit.kinds import DCM

_ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_OTHER = "4"
_PATIENT_NUMBER = ("2", "RFC-3881", "Patient Number")
_URI = ("12", "RFC-3881", "URI")
_STUDY = ("110180", "DCM", "Study Instance UID")
# What XML 1.0 has no place for (2.2, Char), and a lone surrogate has no UTF-8.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def audit_message(event: Mapping[str, Any]) -> bytes:
    """The message's XML in UTF-8, without a declaration; `event` is the AuditEvent's JSON."""
    message = Element("AuditMessage")
    what = SubElement(
        message,
        "EventIdentification",
        EventActionCode=event["action"],
        EventDateTime=event["recorded"],
        EventOutcomeIndicator=event["outcome"],
    )
    _coded(what, "EventID", event["type"])
    for subtype in event.get("subtype", ()):
        _coded(what, "EventTypeCode", subtype)
    if "outcomeDesc" in event:
        SubElement(what, "EventOutcomeDescription").text = _plain(event["outcomeDesc"])
    for agent in event["agent"]:
        _participant(message, agent)
    source = event["source"]
    by = SubElement(message, "AuditSourceIdentification", AuditSourceID=source["observer"]["identifier"]["value"])
    if "site" in source:
        by.set("AuditEnterpriseSiteID", _plain(source["site"]))
    for kind in source.get("type", ()):
        SubElement(by, "AuditSourceTypeCode", {"csd-code": kind["code"]})
    for entity in event.get("entity", ()):
        _object(message, entity, event["id"])
    return bytes(tostring(message, encoding="utf-8", xml_declaration=False))


def _participant(message: Element, agent: Mapping[str, Any]) -> None:
    name = _name(agent["who"])
    made = SubElement(
        message, "ActiveParticipant", UserID=name, UserIsRequestor="true" if agent["requestor"] else "false"
    )
    if "name" in agent:
        made.set("UserName", _plain(agent["name"]))
    if "network" in agent:
        made.set("NetworkAccessPointID", _plain(agent["network"]["address"]))
        made.set("NetworkAccessPointTypeCode", agent["network"]["type"])
    for coding in agent.get("type", {}).get("coding", ()):
        _coded(made, "RoleIDCode", coding)


def _object(message: Element, entity: Mapping[str, Any], event_id: str) -> None:
    """Each has a name or a query, and an identity: that of the event where it has none of its own."""
    what, kind = entity.get("what", {}), entity.get("type", {})
    identity = _name(what) if what else f"urn:uuid:{event_id}"
    study = what.get("identifier", {}).get("value", "").removeprefix("urn:oid:")
    is_study = identity.startswith("ImagingStudy/") and bool(study)
    made = SubElement(message, "ParticipantObjectIdentification", ParticipantObjectID=study if is_study else identity)
    is_typed = kind.get("system") == _ENTITY_TYPE
    made.set("ParticipantObjectTypeCode", kind["code"] if is_typed else _OTHER)
    role = entity.get("role", {}).get("code")
    if role:
        made.set("ParticipantObjectTypeCodeRole", role)
    if is_typed or not kind:
        code = _PATIENT_NUMBER if identity.startswith("Patient/") else _STUDY if is_study else _URI
        _code(made, "ParticipantObjectIDTypeCode", *code)
    else:
        _coded(made, "ParticipantObjectIDTypeCode", kind)
    if "query" in entity:
        SubElement(made, "ParticipantObjectQuery").text = entity["query"]
    else:
        SubElement(made, "ParticipantObjectName").text = _plain(entity.get("description", identity))
    for detail in entity.get("detail", ()):
        value = base64.b64encode(detail["valueString"].encode("utf-8", "replace")).decode()
        SubElement(made, "ParticipantObjectDetail", type=_plain(detail["type"]), value=value)
    if is_study:
        described = SubElement(made, "ParticipantObjectDescription")
        SubElement(SubElement(described, "ParticipantObjectContainsStudy"), "StudyIDs", UID=_plain(study))


def _name(who: Mapping[str, Any]) -> str:
    return _plain(who.get("reference") or who["identifier"]["value"])


def _coded(parent: Element, name: str, coding: Mapping[str, str]) -> None:
    system = "DCM" if coding["system"] == DCM else coding["system"]
    _code(parent, name, coding["code"], system, coding.get("display", coding["code"]))


def _code(parent: Element, name: str, code: str, system: str, display: str) -> None:
    SubElement(parent, name, {"csd-code": code, "codeSystemName": system, "originalText": display})


def _plain(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
