"""AuditEvents as DICOM audit messages: the schema of PS3.15 A.5.1, and nothing lost on the way."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import pytest
from tests.balp_events import claiming, event, of_every_kind

from wetread.record.audit.dicom_message import audit_message
from wetread.record.audit.entry import AuditEntry, Entity

CODED = ({"csd-code", "codeSystemName", "originalText"}, {"displayName"}, [])
"""Attributes that must and may be, and the child elements: each with how often at the least and at the most."""
MANY = 10_000
SCHEMA: Mapping[str, tuple[set[str], set[str], list[tuple[str, int, int]]]] = {
    "AuditMessage": (
        set(),
        set(),
        [
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, MANY),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, MANY),
        ],
    ),
    "EventIdentification": (
        {"EventDateTime", "EventOutcomeIndicator"},
        {"EventActionCode"},
        [("EventID", 1, 1), ("EventTypeCode", 0, MANY), ("EventOutcomeDescription", 0, 1)],
    ),
    "EventID": CODED,
    "EventTypeCode": CODED,
    "EventOutcomeDescription": (set(), set(), []),
    "ActiveParticipant": (
        {"UserID", "UserIsRequestor"},
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
        [("RoleIDCode", 0, MANY)],
    ),
    "RoleIDCode": CODED,
    "AuditSourceIdentification": ({"AuditSourceID"}, {"AuditEnterpriseSiteID"}, [("AuditSourceTypeCode", 0, MANY)]),
    "AuditSourceTypeCode": ({"csd-code"}, {"codeSystemName", "displayName", "originalText"}, []),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID"},
        {"ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole", "ParticipantObjectDataLifeCycle"},
        [
            ("ParticipantObjectIDTypeCode", 1, 1),
            ("ParticipantObjectName", 0, 1),
            ("ParticipantObjectQuery", 0, 1),
            ("ParticipantObjectDetail", 0, MANY),
            ("ParticipantObjectDescription", 0, MANY),
        ],
    ),
    "ParticipantObjectIDTypeCode": CODED,
    "ParticipantObjectName": (set(), set(), []),
    "ParticipantObjectQuery": (set(), set(), []),
    "ParticipantObjectDetail": ({"type", "value"}, set(), []),
    "ParticipantObjectDescription": (set(), set(), [("ParticipantObjectContainsStudy", 0, 1)]),
    "ParticipantObjectContainsStudy": (set(), set(), [("StudyIDs", 0, MANY)]),
    "StudyIDs": ({"UID"}, set(), []),
}
VALUES = {
    "EventActionCode": "[CRUDE]",
    "EventOutcomeIndicator": "0|4|8|12",
    "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z",
    "UserIsRequestor": "true|false",
    "NetworkAccessPointTypeCode": "[1-5]",
    "ParticipantObjectTypeCode": "[1-4]",
    "ParticipantObjectTypeCodeRole": "[1-9]|1[0-9]|2[0-6]",
    "value": "[A-Za-z0-9+/]*=*",
    "UID": r"[0-9.]+",
}


def check(element: Element) -> None:
    """Raises AssertionError where the element is not as the schema says."""
    must, may, children = SCHEMA[element.tag]
    assert must <= set(element.attrib) <= must | may, (element.tag, element.attrib)
    for name, value in element.attrib.items():
        assert re.fullmatch(VALUES.get(name, ".+"), value, re.DOTALL), (element.tag, name, value)
    tags = [child.tag for child in element]
    assert tags == sorted(tags, key=[name for name, _, _ in children].index), (element.tag, tags)
    for name, least, most in children:
        assert least <= tags.count(name) <= most, (element.tag, name)
    if element.tag == "ParticipantObjectIdentification":
        assert ("ParticipantObjectName" in tags) != ("ParticipantObjectQuery" in tags)
    for child in element:
        check(child)


def message(entry: AuditEntry) -> Element:
    return fromstring(audit_message(event(entry)))


ENTRIES = {**{name: entry for name, (_, entry) in claiming().items()}, **of_every_kind()}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_event_has_the_form_of_the_schema(name: str) -> None:
    check(message(ENTRIES[name]))


def test_who_did_what_to_whom_stands_in_its_place() -> None:
    made = message(ENTRIES["read of a patient by a person"])
    what = made.find("EventIdentification")
    assert what is not None
    assert what.attrib == {
        "EventActionCode": "R",
        "EventDateTime": "2026-03-01T12:00:00.000Z",
        "EventOutcomeIndicator": "0",
    }
    participants: dict[str, Any] = {
        role.attrib["csd-code"]: participant.attrib
        for participant in made.iter("ActiveParticipant")
        for role in participant.iter("RoleIDCode")
    }
    assert participants["110152"] == {
        "UserID": "viewer",
        "UserIsRequestor": "false",
        "NetworkAccessPointID": "192.0.2.7",
        "NetworkAccessPointTypeCode": "2",
    }
    person = {"UserID": "Practitioner/r1", "UserName": "Practitioner/r1", "UserIsRequestor": "true"}
    assert participants["IRCP"] == person
    patient, study, _ = made.iter("ParticipantObjectIdentification")
    assert patient.attrib == {
        "ParticipantObjectID": "Patient/p1",
        "ParticipantObjectTypeCode": "1",
        "ParticipantObjectTypeCodeRole": "1",
    }
    assert study.attrib["ParticipantObjectID"] == "1.2.3"
    assert study.find("ParticipantObjectIDTypeCode").attrib["csd-code"] == "110180"  # type: ignore[union-attr]
    assert [each.attrib["UID"] for each in study.iter("StudyIDs")] == ["1.2.3"]


def test_a_query_comes_byte_for_byte() -> None:
    made = message(ENTRIES["search-type by a service"])
    [query] = made.iter("ParticipantObjectQuery")
    assert base64.b64decode(query.text or "") == b"/fhir/Observation?patient=p1&code=%00"


def test_what_xml_cannot_hold_is_replaced_and_what_it_could_misread_is_not_taken_for_markup() -> None:
    evil = "\x01\x0b<AuditMessage/>&\"'\ufffe"
    entry = AuditEntry(
        "read", "R", "4", evil, "192.0.2.7", outcome_text=evil, detail={evil: evil}, entities=(Entity("", evil),)
    )
    made = message(entry)
    check(made)
    [participant, *_] = made.iter("ActiveParticipant")
    assert participant.attrib["UserID"] == "\ufffd\ufffd<AuditMessage/>&\"'\ufffd"
    [detail] = made.iter("ParticipantObjectDetail")
    assert base64.b64decode(detail.attrib["value"]).decode() == evil
