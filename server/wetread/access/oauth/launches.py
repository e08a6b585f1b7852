"""Launches from within Wetread or an EHR: an opaque value that brings an app the patient, encounter and study at hand
(SMART App Launch 2.2 app-launch.html#launch-app-ehr-launch)."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

from psycopg.types.json import Jsonb

from wetread.access.clients.clients import Client
from wetread.access.secrets import digest
from wetread.errors import InvalidInput
from wetread.store.database import Connection

LIFETIME = timedelta(minutes=10)
STAFF = frozenset({"administrator", "engineer", "radiologist", "technologist", "physicist", "service"})
"""Roles that may start an app for somebody."""
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_REFERENCE = re.compile(r"([A-Z][A-Za-z]+)/[A-Za-z0-9.-]{1,64}")
_INTENT = re.compile(r"[A-Za-z0-9._:/-]{1,200}")
_MOST_IN_CONTEXT = 20


def context(
    *,
    patient: str = "",
    encounter: str = "",
    fhir_context: Sequence[Mapping[str, Any]] = (),
    intent: str = "",
    need_patient_banner: bool = True,
) -> dict[str, Any]:
    """What an app is told, as the token response has it. Raises InvalidInput."""
    if any(each and not _ID.fullmatch(each) for each in (patient, encounter)):
        raise InvalidInput("patient and encounter are ids of resources here")
    if encounter and not patient:
        raise InvalidInput("an encounter comes with its patient")
    if intent and not _INTENT.fullmatch(intent):
        raise InvalidInput("intent is a short code or a URI")
    if len(fhir_context) > _MOST_IN_CONTEXT:
        raise InvalidInput(f"fhirContext has at most {_MOST_IN_CONTEXT} members")
    told: dict[str, Any] = {}
    if patient:
        told |= {"patient": patient, "need_patient_banner": need_patient_banner}
    if encounter:
        told["encounter"] = encounter
    if fhir_context:
        told["fhirContext"] = [_member(each) for each in fhir_context]
    if intent:
        told["intent"] = intent
    return told


async def begin(conn: Connection, client_id: str, account_name: str | None, told: Mapping[str, Any]) -> str:
    """A value that only this client can use, once and soon; only for this person where one is given."""
    value = secrets.token_urlsafe(32)
    await conn.execute(
        """
        INSERT INTO launch (digest, client_id, account_name, context, expires_at)
        VALUES (%s, %s, %s, %s, clock_timestamp() + %s)
        """,
        (digest(value), client_id, account_name, Jsonb(dict(told)), LIFETIME),
    )
    return value


async def look(conn: Connection, value: str, client_id: str, account_name: str | None = None) -> dict[str, Any] | None:
    """The context of a launch that this client (and person, where one is known by now) can use; None for any other."""
    row = await (
        await conn.execute(
            """
            SELECT context FROM launch
            WHERE digest = %s AND client_id = %s AND used_at IS NULL AND expires_at > clock_timestamp()
                AND (account_name IS NULL OR %s::text IS NULL OR account_name = %s)
            """,
            (digest(value), client_id, account_name, account_name),
        )
    ).fetchone()
    return row[0] if row else None


async def use(conn: Connection, value: str, client_id: str, account_name: str) -> bool:
    """Whether the launch was still to be used; from now on it is not."""
    used = await conn.execute(
        """
        UPDATE launch SET used_at = clock_timestamp()
        WHERE digest = %s AND client_id = %s AND used_at IS NULL AND expires_at > clock_timestamp()
            AND (account_name IS NULL OR account_name = %s)
        """,
        (digest(value), client_id, account_name),
    )
    return used.rowcount == 1


def address(client: Client, fhir_base: str, value: str) -> str:
    """Where a browser starts the app: its launch URI with `iss` and `launch`. Raises InvalidInput where it has none."""
    if not client.launch_uri:
        raise InvalidInput("this app has registered no launch URI")
    mark = "&" if urlsplit(client.launch_uri).query else "?"
    return f"{client.launch_uri}{mark}{urlencode({'iss': fhir_base, 'launch': value})}"


async def sweep(conn: Connection) -> int:
    """Removes launches that nobody can use any more; how many."""
    return (await conn.execute("DELETE FROM launch WHERE expires_at < clock_timestamp()")).rowcount


def _member(given: Mapping[str, Any]) -> dict[str, Any]:
    """SMART App Launch 2.2 scopes-and-launch-context.html#fhir-context."""
    known = {name: given[name] for name in ("reference", "canonical", "identifier", "type", "role") if name in given}
    if len(known) != len(given) or not any(name in known for name in ("reference", "canonical", "identifier")):
        raise InvalidInput("a member of fhirContext has a reference, canonical or identifier; and type, role")
    for name, value in known.items():
        if not isinstance(value, dict if name == "identifier" else str):
            raise InvalidInput(f"fhirContext: {name} has another type")
    if "\\u0000" in json.dumps(known):
        raise InvalidInput("fhirContext holds U+0000")
    role = known.get("role", "launch")
    if role != "launch" and ":" not in role:
        raise InvalidInput("fhirContext: a role of one's own is an absolute URI")
    if "reference" in known:
        found = _REFERENCE.fullmatch(known["reference"])
        if not found:
            raise InvalidInput("fhirContext: reference is relative to this server, e.g. ImagingStudy/123")
        if found[1] in ("Patient", "Encounter") and role == "launch":
            raise InvalidInput("fhirContext: patient and encounter have members of their own")
    return known
