"""An audit entry as a FHIR R4 AuditEvent, in the shape of IHE BALP 1.1.5."""

from __future__ import annotations

import base64
import functools
import ipaddress
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from wetread.record.audit import balp
from wetread.record.audit.entry import AuditEntry, Entity
from wetread.record.audit.kinds import APPLICATION, KINDS, OWN, Coding

_ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_OBJECT_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
_SOURCE_TYPE = "http://terminology.hl7.org/CodeSystem/security-source-type"
_REQUEST_ID = {
    "system": "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType",
    "code": "XrequestId",
}
_REFERENCE = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64}(/_history/[A-Za-z0-9.-]{1,64})?")
# A FHIR string holds no U+0000 (R4 datatypes, string); what a peer sent may. An escaped backslash before is no part.
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_OBSERVER = {"identifier": {"system": "urn:wetread:server", "value": "wetread"}, "display": "Wetread"}


def audit_event(audit_id: str, recorded: datetime, entry: AuditEntry) -> str:
    """The AuditEvent's JSON text, as it is stored, chained and served."""
    instant = recorded.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    meta: dict[str, Any] = {"versionId": "1", "lastUpdated": instant}
    if profiles := balp.profiles(entry):
        meta["profile"] = profiles
    if entry.governance_only:
        meta["security"] = [Coding(OWN, "governance-only", "For governance only").as_fhir()]
    head = {"resourceType": "AuditEvent", "id": audit_id, "meta": meta, "recorded": instant}
    rest: dict[str, Any] = {"outcomeDesc": entry.outcome_text} if entry.outcome_text else {}
    if balp.is_closed(entry):
        entities = [_entity(_with_all(entry, entry.entities[0]))]
    else:
        entities = [*_patient(entry), *(_entity(e) for e in entry.entities), *_request(entry), *_detail(entry)]
    if entities:
        rest["entity"] = entities
    done = _done_by(
        entry.kind,
        entry.action,
        entry.outcome,
        entry.principal,
        entry.user,
        entry.client_id,
        entry.token_id,
        entry.roles,
        entry.network,
    )
    text = f"{_encoded(head)[:-1]},{done}{',' if rest else ''}{_encoded(rest)[1:]}"
    return _NUL.sub("\\1\ufffd", text) if "\\u0000" in text else text


@functools.lru_cache(maxsize=1024)
def _done_by(
    kind: str,
    action: str,
    outcome: str,
    principal: str,
    user: str,
    client_id: str,
    token_id: str,
    roles: tuple[str, ...],
    network: str,
) -> str:
    """The members that are alike in all that one asker does in one way: half of the text, and most of the work."""
    codings = KINDS[kind]
    body = {
        "type": codings.type.as_fhir(),
        "subtype": [coding.as_fhir() for coding in codings.subtypes],
        "action": action,
        "outcome": outcome,
        "agent": _agents(kind, principal, user, client_id, token_id, roles, network),
        "source": {
            "site": socket.gethostname(),
            "observer": _OBSERVER,
            "type": [{"system": _SOURCE_TYPE, "code": "4", "display": "Application Server"}],
        },
    }
    return _encoded(body)[1:-1]


def _agents(
    kind: str, principal: str, user: str, client_id: str, token_id: str, roles: tuple[str, ...], network: str
) -> list[dict[str, Any]]:
    theirs, ours, person = KINDS[kind].flow.value
    policy = [f"urn:ietf:params:oauth:jti:{token_id}"] if token_id else []
    told = [{"text": role} for role in roles]
    client: dict[str, Any] = {"type": _concept(theirs), "who": _who(principal), "requestor": not user}
    if network:
        client["network"] = _network(network)
    server = {
        "type": _concept(ours),
        "who": _OBSERVER,
        "requestor": False,
        "network": {"address": socket.gethostname(), "type": "1"},
    }
    agents = [client, server]
    if user:
        behind: dict[str, Any] = {"type": _concept(person), "who": _who(user, client_id), "requestor": True}
        agents.append(behind | {"name": user} | _where(role=told, policy=policy))
    else:
        client |= _where(role=told, policy=policy)
    if client_id and theirs != APPLICATION:
        app: dict[str, Any] = {
            "type": _concept(APPLICATION),
            "who": _who(client_id, client_id),
            "requestor": False,
        }
        agents.append(app | ({"network": client["network"]} if network else {}))
    return agents


def _where(**known: list[Any]) -> dict[str, Any]:
    return {name: value for name, value in known.items() if value}


def _who(name: str, client_id: str = "") -> dict[str, Any]:
    """Of a person who came through an app also the identifier, which BALP's profile of token use needs."""
    identifier = {"identifier": {"system": "urn:wetread:principal", "value": name}}
    if not _REFERENCE.fullmatch(name):
        return identifier
    return {"reference": name, **(identifier if client_id else {})}


def _network(address: str) -> dict[str, str]:
    """R4 network-type: 5 a URI, 2 an IP address, 1 a machine's name; a port is no part of the last two."""
    if "://" in address:
        return {"address": address, "type": "5"}
    host = address.removeprefix("[").partition("]")[0] if address.startswith("[") else address
    for candidate in (host, host.rpartition(":")[0]):
        try:
            ipaddress.ip_address(candidate)
        except ValueError:
            continue
        return {"address": candidate, "type": "2"}
    return {"address": re.sub(r":\d+$", "", host), "type": "1"}


@functools.cache
def _concept(coding: Coding) -> dict[str, Any]:
    return {"coding": [coding.as_fhir()]}


def _patient(entry: AuditEntry) -> list[dict[str, Any]]:
    if not entry.patient_id:
        return []
    return [
        {
            "what": {"reference": f"Patient/{entry.patient_id}"},
            "type": {"system": _ENTITY_TYPE, "code": "1", "display": "Person"},
            "role": {"system": _OBJECT_ROLE, "code": "1", "display": "Patient"},
        }
    ]


def _entity(entity: Entity) -> dict[str, Any]:
    body: dict[str, Any] = {}
    what: dict[str, Any] = {}
    if entity.what:
        what["reference"] = entity.what
    if entity.identifier:
        what["identifier"] = {"value": entity.identifier}
    if what:
        body["what"] = what
    if entity.type_code:
        body["type"] = {"system": _ENTITY_TYPE, "code": entity.type_code}
    if entity.role_code:
        body["role"] = {"system": _OBJECT_ROLE, "code": entity.role_code}
    if entity.description:
        body["description"] = entity.description
    if entity.query:
        body["query"] = base64.b64encode(entity.query).decode()
    if entity.detail:
        body["detail"] = _details(entity.detail)
    return body


def _request(entry: AuditEntry) -> list[dict[str, Any]]:
    if not entry.request_id:
        return []
    return [{"what": {"identifier": {"value": entry.request_id}}, "type": _REQUEST_ID}]


def _detail(entry: AuditEntry) -> list[dict[str, Any]]:
    if not entry.detail:
        return []
    return [{"type": {"system": _ENTITY_TYPE, "code": "4", "display": "Other"}, "detail": _details(entry.detail)}]


def _with_all(entry: AuditEntry, entity: Entity) -> Entity:
    """The one entity of an event that may have no other, with what stands beside it elsewhere."""
    return replace(entity, detail={**entity.detail, **entry.detail, "x-request-id": entry.request_id})


def _details(detail: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"type": name, "valueString": value} for name, value in detail.items() if value]
