"""One AuditEvent of each kind, and one for each profile of IHE BALP that we claim."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from wetread.domain.reader import Reader
from wetread.record.audit.balp import BASIC, GET_ACCESS_TOKEN, TOKEN_USE
from wetread.record.audit.entry import Asker, AuditEntry, Entity
from wetread.record.audit.fhir import audit_event
from wetread.record.audit.kinds import KINDS

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BACKEND = Asker.of(Reader("research-app", token_id="0f2d", client_id="research-app"))
PERSON = Asker.of(Reader("Practitioner/r1", roles=frozenset({"radiologist"}), token_id="0f2e", client_id="viewer"))
OPERATOR = Asker.of(Reader("operator:root"))

_STUDY = Entity("ImagingStudy/s1", identifier="urn:oid:1.2.3")
_VERSION = Entity("Observation/o1/_history/3")
_SEARCH = Entity(role_code="24", query=b"/fhir/Observation?patient=p1&code=%00")
_TOKEN_REQUEST = Entity(role_code="24", query=b"grant_type=authorization_code&client_id=viewer")


def _entry(kind: str, action: str, entity: Entity, patient_id: str | None = None) -> AuditEntry:
    return AuditEntry(kind, action, "0", "", "192.0.2.7", patient_id, (entity,), request_id="76d148b6")


def _success(kind: str, action: str, entity: Entity, name: str) -> list[tuple[str, AuditEntry]]:
    return [
        (f"{BASIC}{name}", _entry(kind, action, entity)),
        (f"{BASIC}Patient{name}", _entry(kind, action, entity, "p1")),
    ]


def claiming() -> dict[str, tuple[list[str], AuditEntry]]:
    """By a name to tell them apart: the profiles that the event is to claim, and the entry. Each interaction is done
    by a backend service, by a person through an app, and by the operator with no app between."""
    made: dict[str, tuple[list[str], AuditEntry]] = {}
    plain = [
        *_success("read", "R", _STUDY, "Read"),
        *_success("vread", "R", _VERSION, "Read"),
        *_success("create", "C", _VERSION, "Create"),
        *_success("update", "U", _VERSION, "Update"),
        *_success("patch", "U", _VERSION, "Update"),
        *_success("delete", "D", _STUDY, "Delete"),
        *_success("search-type", "E", _SEARCH, "Query"),
        *_success("search-system", "E", _SEARCH, "Query"),
        (f"{BASIC}PrivacyDisclosure.Source", _entry("disclosure", "R", _STUDY, "p1")),
    ]
    for profile, entry in plain:
        name = f"{entry.kind}{' of a patient' if entry.patient_id else ''}"
        made[f"{name} by a service"] = ([profile, TOKEN_USE], BACKEND.said_of(entry))
        made[f"{name} by a person"] = ([profile, TOKEN_USE], PERSON.said_of(entry))
        made[f"{name} by the operator"] = ([profile], OPERATOR.said_of(entry))
    issued = replace(_entry("token-issued", "E", _TOKEN_REQUEST), detail={"token": "0f2e", "scope": "user/*.rs"})
    for asker in (BACKEND, PERSON):
        made[f"token for {asker.principal}"] = ([GET_ACCESS_TOKEN], replace(asker.said_of(issued), token_id=""))
    return made


def of_every_kind() -> dict[str, AuditEntry]:
    """An entry of each kind, failed, with all that it may hold."""
    return {
        kind: PERSON.said_of(
            AuditEntry(
                kind,
                "E",
                "8",
                "",
                "dicom://pacs:104",
                "p1",
                (_STUDY, _SEARCH),
                {"reason": "because"},
                "76d148b6",
                "the peer closed the connection",
            )
        )
        for kind in KINDS
    }


def event(entry: AuditEntry) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(audit_event(str(uuid.uuid4()), AT, entry))
    return made
