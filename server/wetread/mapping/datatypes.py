"""HL7 v2 data types (v2.5.1 chapter 2.A) as FHIR R4 data types: what `as:` names in a map."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from wetread.domain.identity import authority_uri
from wetread.domain.keys import fhir_id
from wetread.mapping.model import Maps
from wetread.mapping.paths import Context, Datum
from wetread.mapping.site import Site
from wetread.mapping.times import fhir_date, fhir_date_time, in_order

IDENTIFIER_TYPE = "http://terminology.hl7.org/CodeSystem/v2-0203"
_REPRESENTATION = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"
_BIRTH_TIME = "http://hl7.org/fhir/StructureDefinition/patient-birthTime"
_OID = re.compile(r"[0-2](\.(0|[1-9]\d*))+")


@dataclass
class Scope:
    """All that one run of a map reads, and what it leaves besides the resource.

    `prepared` holds the values that `take:` names. `warnings` name places, never values.
    """

    maps: Maps
    site: Site
    context: Context
    prepared: Mapping[str, Any]
    warnings: list[str] = field(default_factory=list)
    practitioners: dict[str, dict[str, Any]] = field(default_factory=dict)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def mapped(self, table: str, code: str) -> Any:
        return self.maps.codes[table].get(code) if code else None


Converter = Callable[[Datum, Scope], Any]
"""Gives the FHIR value, a list of them, or None where the datum holds nothing of the kind."""


def text(datum: Datum, scope: Scope) -> str | None:
    return datum.text or None


def date(datum: Datum, scope: Scope) -> str | None:
    return _checked(datum, scope, fhir_date(datum.text), "date")


def date_time(datum: Datum, scope: Scope) -> str | None:
    return _checked(datum, scope, fhir_date_time(datum.text, scope.site.time_zone), "timestamp")


def birth_time(datum: Datum, scope: Scope) -> dict[str, Any] | None:
    """The patient-birthTime extension, where the date of birth comes with a time of day."""
    stamp = fhir_date_time(datum.text, scope.site.time_zone)
    return {"extension": [{"url": _BIRTH_TIME, "valueDateTime": stamp}]} if stamp and "T" in stamp else None


def _checked(datum: Datum, scope: Scope, value: str | None, kind: str) -> str | None:
    if datum.text and value is None:
        scope.warn(f"{datum.location} is not an HL7 {kind} (YYYYMMDD...) and was left out")
    return value


def boolean(datum: Datum, scope: Scope) -> bool | None:
    """Table 0136, and the words that senders put for it."""
    return {"Y": True, "YES": True, "TRUE": True, "1": True, "N": False, "NO": False, "FALSE": False, "0": False}.get(
        datum.text.upper()
    )


def integer(datum: Datum, scope: Scope) -> int | None:
    return int(datum.text) if re.fullmatch(r"[1-9]\d{0,8}", datum.text) else None


def authority(datum: Datum, component: int, site: Site) -> str:
    """The identifier system of the HD in this component; empty where it names none."""
    return authority_uri(datum.part(component), datum.part(component, 2), datum.part(component, 3), site.authorities)


def identifier(datum: Datum, scope: Scope) -> dict[str, Any] | None:
    """CX (2.A.14). Without an assigning authority (CX.4) the site's default one is meant."""
    if not datum.text:
        return None
    return _identifier(datum.text, authority(datum, 4, scope.site), datum.part(5), scope) | _period(datum, 7, 8)


def _identifier(value: str, system: str, type_code: str, scope: Scope) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if type_code:
        code = scope.mapped("identifier-type", type_code)
        found["type"] = {"coding": [{"system": IDENTIFIER_TYPE, "code": code}]} if code else {"text": type_code}
    system = system or scope.site.default_authority
    return found | ({"system": system} if system else {}) | {"value": value}


def order_authority(datum: Datum, site: Site) -> str:
    """The system of an EI (2.A.28): its namespace or universal id, else the site's default authority."""
    stated = authority_uri(datum.part(2), datum.part(3), datum.part(4), site.authorities)
    return stated or site.default_authority


def entity_identifier(datum: Datum, scope: Scope) -> dict[str, Any] | None:
    """EI (2.A.28)."""
    if not datum.text:
        return None
    system = order_authority(datum, scope.site)
    return ({"system": system} if system else {}) | {"value": datum.text}


def _period(datum: Datum, start: int, end: int) -> dict[str, Any]:
    period = {"start": fhir_date(datum.part(start)), "end": fhir_date(datum.part(end))}
    kept = {key: value for key, value in period.items() if value}
    if len(kept) == 2 and not in_order(kept["start"], kept["end"]):
        return {}
    return {"period": kept} if kept else {}


def human_name(datum: Datum, scope: Scope) -> dict[str, Any] | None:
    """XPN (2.A.88): family, given, further given, suffix, prefix, degree, type code, representation."""
    name = _name(datum, family=1)
    if name is None:
        return None
    use = scope.mapped("name-use", datum.part(7))
    representation = {"A": "ABC", "I": "IDE", "P": "SYL"}.get(datum.part(8))
    if representation:
        name = {"extension": [{"url": _REPRESENTATION, "valueCode": representation}]} | name
    return ({"use": use} if use else {}) | name


def _name(datum: Datum, family: int) -> dict[str, Any] | None:
    name: dict[str, Any] = {"family": datum.part(family)} if datum.part(family) else {}
    given = [g for g in (datum.part(family + 1), datum.part(family + 2)) if g]
    if given:
        name["given"] = given
    if not name:
        return None
    for key, parts in (("prefix", (family + 4,)), ("suffix", (family + 3, family + 5))):
        valued = [datum.part(p) for p in parts if datum.part(p)]
        if valued:
            name[key] = valued
    return name


def address(datum: Datum, scope: Scope) -> dict[str, Any] | None:
    """XAD (2.A.87). An entry with neither street, city nor postal code (a place of birth, say) is left out."""
    lines = [line for line in (datum.part(1), datum.part(2)) if line]
    parts = {"city": 3, "district": 9, "state": 4, "postalCode": 5, "country": 6}
    found: dict[str, Any] = {key: datum.part(n) for key, n in parts.items() if datum.part(n)}
    if not lines and not found.keys() & {"city", "postalCode"}:
        return None
    use = scope.mapped("address-use", datum.part(7))
    kind = {"type": "postal"} if datum.part(7).upper() == "M" else {}
    return ({"use": use} if use else {}) | kind | ({"line": lines} if lines else {}) | found


def telecom(datum: Datum, scope: Scope) -> list[dict[str, Any]]:
    """XTN (2.A.89): the number, and the mail address, which may stand in one repetition."""
    use_code, equipment = datum.part(2), datum.part(3)
    found = []
    mail = next((datum.part(n) for n in (4, 1) if "@" in datum.part(n)), "")
    number = datum.part(12) or (datum.part(1) if datum.part(1) != mail else "")
    if not number and datum.part(7):
        number = " ".join(
            p for p in (datum.part(5) and f"+{datum.part(5).lstrip('+')}", datum.part(6), datum.part(7)) if p
        )
    use = scope.mapped("telecom-use", equipment) or scope.mapped("telecom-use", use_code)
    used = {"use": use} if use else {}
    if number:
        system = scope.mapped("telecom-system", equipment) or "phone"
        extension = f" x{datum.part(8)}" if datum.part(8) else ""
        found.append({"system": "phone" if system == "email" else system, "value": number + extension} | used)
    if mail:
        found.append({"system": "email", "value": mail} | ({} if use == "mobile" else used))
    return found


def concept(datum: Datum, scope: Scope) -> dict[str, Any] | None:
    """CE and CWE (2.A.10, 2.A.13): every triplet becomes a coding, the original text (CWE.9) the text."""
    codings, texts = [], [datum.part(9)]
    for start in (1, 4, 10):
        code, display, system = (datum.part(start + n) for n in range(3))
        texts.append(display)
        if code:
            texts.append(code)
            coding = {"system": coding_system(system, scope), "code": " ".join(code.split()), "display": display}
            codings.append({key: value for key, value in coding.items() if value})
    words = next((t for t in texts if t), "")
    if not words:
        return None
    return ({"coding": codings} if codings else {}) | {"text": words}


def coding_system(name: str, scope: Scope) -> str:
    """The URI of a table 0396 name; empty for none and for the sender's own (`L`)."""
    known = scope.mapped("coding-system", name)
    if known:
        return str(known)
    if not name or name.upper() == "L":
        return ""
    if _OID.fullmatch(name):
        return f"urn:oid:{name}"
    table = re.fullmatch(r"HL7(\d{4})", name.upper())
    return (
        f"http://terminology.hl7.org/CodeSystem/v2-{table[1]}" if table else f"urn:wetread:coding-system:{quote(name)}"
    )


def words(datum: Datum, scope: Scope) -> dict[str, Any] | None:
    """Text as a CodeableConcept: the display of a coded element, or a plain string."""
    said = datum.part(9) or datum.part(2) or datum.text
    return {"text": said} if said else None


def location(datum: Datum, scope: Scope) -> dict[str, Any] | None:
    """PL (2.A.53) as a reference that only says the place: description, or point of care, room, bed and facility."""
    place = datum.part(9) or " ".join(p for p in (datum.part(1), datum.part(2), datum.part(3)) if p)
    said = ", ".join(p for p in (place, datum.part(4)) if p)
    return {"display": said} if said else None


def practitioner(datum: Datum, scope: Scope) -> dict[str, Any] | None:
    """XCN (2.A.86) as a reference to a Practitioner, which the mapping gives too; only a name where there is no id.

    Repetitions of the field that name the same person are further identifiers of that person.
    """
    name = _name(datum, family=2)
    shown = " ".join([*name.get("prefix", ()), *name.get("given", ()), name.get("family", "")]).strip() if name else ""
    same = [d for d in _repetitions(datum) if d == datum or (name is not None and _name(d, family=2) == name)]
    identifiers = [found for found in (_staff_identifier(d, scope) for d in same) if found]
    display = {"display": shown} if shown else {}
    if not identifiers:
        return display or None
    national = [i for i in identifiers if i.get("system") == scope.site.authorities.get("NPI", "")]
    chief = (national or identifiers)[0]
    # Without an authority the number alone does not tell two people apart.
    key = fhir_id("practitioner", chief.get("system", ""), chief["value"], *(() if "system" in chief else (shown,)))
    resource = {"resourceType": "Practitioner", "id": key, "identifier": identifiers}
    scope.practitioners.setdefault(key, resource | ({"name": [name]} if name else {}))
    return {"reference": f"Practitioner/{key}"} | display


def _repetitions(datum: Datum) -> list[Datum]:
    return [
        Datum(datum.segment, datum.occurrence, datum.field, r, datum.component, datum.subcomponent)
        for r in range(1, datum.segment.repetitions(datum.field) + 1)
    ]


def _staff_identifier(datum: Datum, scope: Scope) -> dict[str, Any] | None:
    """XCN.1 with XCN.9 and XCN.13. Staff numbers do not fall under the site's default authority, which is patients'."""
    if not datum.text:
        return None
    system = authority(datum, 9, scope.site)
    code = scope.mapped("identifier-type", datum.part(13))
    if not system and code == "NPI":
        system = scope.site.authorities.get("NPI", "")
    found: dict[str, Any] = {"type": {"coding": [{"system": IDENTIFIER_TYPE, "code": code}]}} if code else {}
    return found | ({"system": system} if system else {}) | {"value": datum.text}


CONVERTERS: Mapping[str, Converter] = {
    "text": text,
    "date": date,
    "date-time": date_time,
    "birth-time": birth_time,
    "boolean": boolean,
    "integer": integer,
    "identifier": identifier,
    "entity-identifier": entity_identifier,
    "human-name": human_name,
    "address": address,
    "telecom": telecom,
    "concept": concept,
    "words": words,
    "location": location,
    "practitioner": practitioner,
}
