"""Which profiles of IHE BALP 1.1.5 (Basic Audit Log Patterns) an entry keeps, so that its AuditEvent may claim them.

BALP profiles what succeeded; what failed keeps to the base AuditEvent (BALP 3:5.7.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from wetread.record.audit.entry import AuditEntry, Entity

BASIC = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
GET_ACCESS_TOKEN = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.IUA.71"  # noqa: S105
TOKEN_USE = f"{BASIC}OAUTHaccessTokenUse.Comprehensive"

_ON_DATA: Mapping[str, tuple[str, str]] = {
    "read": ("Read", "R"),
    "vread": ("Read", "R"),
    "create": ("Create", "C"),
    "update": ("Update", "U"),
    "patch": ("Update", "U"),
    "delete": ("Delete", "D"),
}
_SEARCHES = frozenset({"search", "search-type", "search-system"})
_SYSTEM_OBJECT, _QUERY = "2", "24"
_DATA_ROLES = frozenset({"4", "3", "20"})  # BALP's value set RestObjectRoles
_REFERENCE = re.compile(r"Patient/[A-Za-z0-9.-]{1,64}")


def profiles(entry: AuditEntry) -> list[str]:
    """The canonical URLs for `meta.profile`; none where the entry keeps none whole."""
    if is_closed(entry):
        return [GET_ACCESS_TOKEN]
    found = _of_success(entry) if entry.outcome == "0" and entry.network else []
    # The client's agent stands beside that of the token's app, and is that one itself where it has the same type.
    if entry.client_id and (not entry.user or entry.token_id):
        found.append(TOKEN_USE)
    return found


def _of_success(entry: AuditEntry) -> list[str]:
    if entry.kind == "disclosure":
        return (
            [f"{BASIC}PrivacyDisclosure.Source"] if entry.action == "R" and entry.patient_id and entry.entities else []
        )
    name = _on_rest(entry)
    return [f"{BASIC}{'Patient' if entry.patient_id else ''}{name}"] if name else []


def is_closed(entry: AuditEntry) -> bool:
    """Whether it is a token's issue with its request, whose profile allows no entity but that (IHE.IUA.71)."""
    return (
        entry.kind == "token-issued"
        and entry.action == "E"
        and entry.outcome == "0"
        and bool(entry.network)
        and not entry.patient_id
        and len(entry.entities) == 1
        and _is_query(entry.entities[0], details=True)
    )


def _on_rest(entry: AuditEntry) -> str:
    objects = [entity for entity in entry.entities if entity.type_code == _SYSTEM_OBJECT]
    if len(objects) != 1 or any(_REFERENCE.fullmatch(e.what) for e in entry.entities if e.type_code == "1"):
        return ""
    [data] = objects
    if entry.kind in _SEARCHES:
        return "Query" if entry.action == "E" and _is_query(data) else ""
    name, action = _ON_DATA.get(entry.kind, ("", ""))
    kept = entry.action == action and data.role_code in _DATA_ROLES and bool(data.what or data.identifier)
    return name if kept else ""


def _is_query(entity: Entity, *, details: bool = False) -> bool:
    plain = not entity.what and not entity.identifier and (details or not entity.detail)
    return entity.type_code == _SYSTEM_OBJECT and entity.role_code == _QUERY and bool(entity.query) and plain
