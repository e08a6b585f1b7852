"""The search parameters of AuditEvent (R4 auditevent.html#search) as conditions in SQL.

Patient, agent, entity, type, subtype, action, outcome and date have columns; the others look into what those leave of
the record.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wetread.errors import InvalidInput
from wetread.record.audit.kinds import kinds_with
from wetread.record.search import index

_PREFIXES = frozenset({"eq", "ne", "gt", "lt", "ge", "le", "sa", "eb"})
_OBSERVER = "wetread"


@dataclass(frozen=True, slots=True)
class Condition:
    sql: str
    values: tuple[Any, ...] = ()


def condition(name: str, value: str, base_url: str) -> Condition:
    """Of one parameter; commas mean or. Raises InvalidInput for one that there is not, or a value of no such form."""
    make = _CONDITIONS.get(name)
    if make is None:
        known = ", ".join(sorted(_CONDITIONS))
        raise InvalidInput(f"AuditEvent has no search parameter of this name here; there are {known}", location=name)
    if "\x00" in value:
        raise InvalidInput("U+0000 stands in no value", location=name)
    parts = [part.removeprefix(f"{base_url}/") for part in value.split(",")]
    alternatives = [make(part) for part in parts if part]
    return Condition(
        " OR ".join(f"({one.sql})" for one in alternatives) or "true",
        tuple(value for one in alternatives for value in one.values),
    )


def _by_id(value: str) -> Condition:
    try:
        return Condition("id = %s", (uuid.UUID(value),))
    except ValueError:
        return Condition("false")


def _by_patient(value: str) -> Condition:
    """Of whom the record is, or who acted."""
    patient_id = value.rpartition("/")[2]
    who = f"Patient/{patient_id}"
    return Condition("patient_id = %s OR principal = %s OR acting_user = %s", (patient_id, who, who))


def _by_entity(value: str) -> Condition:
    if re.fullmatch(r"Patient/[^/]+", value):
        return Condition("patient_id = %s OR entities @> ARRAY[%s]", (value.removeprefix("Patient/"), value))
    return Condition("entities @> ARRAY[%s]", (value,))


def _by_agent(value: str) -> Condition:
    return Condition("principal = %s OR acting_user = %s", (value, value))


def _by_coding(field: str) -> Callable[[str], Condition]:
    def condition(value: str) -> Condition:
        system, bar, code = value.rpartition("|")
        return Condition("kind = ANY(%s)", (kinds_with(field, system if bar else None, code),))

    return condition


def _within(path: str) -> Callable[[str], Condition]:
    """What stands at a path of the record, the value itself or a token's code (after `|`)."""

    def made(value: str) -> Condition:
        wanted = json.dumps({"value": value.rpartition("|")[2]})
        return Condition("jsonb_path_exists(body::jsonb, %s::jsonpath, %s::jsonb)", (f"{path} ? (@ == $value)", wanted))

    return made


def _beginning(path: str) -> Callable[[str], Condition]:
    """A string begins so, in whatever case (R4 search.html#string)."""

    def made(value: str) -> Condition:
        wanted = f'{path} ? (@ like_regex {json.dumps("^" + re.escape(value))} flag "i")'
        return Condition("jsonb_path_exists(body::jsonb, %s::jsonpath)", (wanted,))

    return made


def _by_source(value: str) -> Condition:
    """All that is recorded here, Wetread observed."""
    return Condition("true" if value.rpartition("|")[2] == _OBSERVER else "false")


def _by_code(column: str) -> Callable[[str], Condition]:
    return lambda value: Condition(f"{column} = %s", (value.rpartition("|")[2],))


def _by_date(value: str) -> Condition:
    prefix, text = (value[:2], value[2:]) if value[:2] in _PREFIXES else ("eq", value)
    try:
        low, high = index.date_range(text)
    except ValueError as error:
        raise InvalidInput(
            "a date is expected: [prefix]YYYY[-MM[-DD[Thh:mm[:ss[.fff]][zone]]]]", location="date"
        ) from error
    if prefix in ("gt", "sa"):
        return Condition("recorded >= %s", (high,))
    if prefix in ("lt", "eb"):
        return Condition("recorded < %s", (low,))
    if prefix == "ge":
        return Condition("recorded >= %s", (low,))
    if prefix == "le":
        return Condition("recorded < %s", (high,))
    inside = Condition("recorded >= %s AND recorded < %s", (low, high))
    return inside if prefix == "eq" else Condition(f"NOT ({inside.sql})", inside.values)


_CONDITIONS: dict[str, Callable[[str], Condition]] = {
    "_id": _by_id,
    "patient": _by_patient,
    "entity": _by_entity,
    "entity:identifier": lambda value: _by_entity(value.rpartition("|")[2]),
    "agent": _by_agent,
    "agent:identifier": lambda value: _by_agent(value.rpartition("|")[2]),
    "agent-name": _beginning("$.agent[*].name"),
    "agent-role": _within("$.agent[*].role[*].**"),
    "address": _beginning("$.agent[*].network.address"),
    "policy": _within("$.agent[*].policy[*]"),
    "entity-name": _beginning("$.entity[*].name"),
    "entity-role": _within("$.entity[*].role.code"),
    "entity-type": _within("$.entity[*].type.code"),
    "source": lambda value: Condition("false"),
    "source:identifier": _by_source,
    "site": _within("$.source.site"),
    "type": _by_coding("type"),
    "subtype": _by_coding("subtype"),
    "action": _by_code("action"),
    "outcome": _by_code("outcome"),
    "date": _by_date,
    "_lastUpdated": _by_date,
}
SEARCH_PARAMETERS = tuple(name for name in _CONDITIONS if ":" not in name)
"""What the CapabilityStatement tells of them."""
