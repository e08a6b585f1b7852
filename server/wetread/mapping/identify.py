"""Who a message is about, and which other messages it must not overtake. Cheap: no map is run."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from wetread.domain.identity import PatientIdentifier, PatientIdentity
from wetread.errors import InvalidInput
from wetread.mapping.datatypes import authority, order_authority
from wetread.mapping.paths import Context, Datum, Path
from wetread.mapping.site import Site
from wetread.mapping.times import fhir_date
from wetread.wire import hl7

_PATIENT_PATHS = tuple(Path.parse(p) for p in ("PID-3", "PID-2", "PID-4"))
_PLACER = (Path.parse("ORC-2"), Path.parse("OBR-2"))
_FILLER = (Path.parse("ORC-3"), Path.parse("OBR-3"))
_SEXES = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M", "O": "O", "OTHER": "O"}


@dataclass(frozen=True, slots=True)
class Identified:
    """`lanes` are opaque digests of patient identifiers and order numbers: messages that share one are mapped in order.

    `patient` has no identifiers where an order message names its order but no patient (see `find_keys`).
    """

    patient: PatientIdentity
    lanes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OrderNumber:
    """A number that names an order: `type` is its v2-0203 code PLAC, FILL or ACSN, `system` its authority's URI."""

    type: str
    system: str
    value: str
    as_sent: str = ""
    """`value^namespace^uid^type`, trailing empty parts left out."""


@dataclass(frozen=True, slots=True)
class OrderKeys:
    """One order of a message: ORC-1 and its placer and filler numbers."""

    control: str
    numbers: tuple[OrderNumber, ...]


def identify(message: hl7.Message, site: Site) -> Identified:
    """The patient of the first PID (chief identifier first), and the message's lanes.

    Raises InvalidInput, with its location, where there is no PID, or one without an identifier or an authority for it.
    The exception is an order message without PID whose every order has a number and is not new (a cancel of ORC only
    is legal, HL7 v2.5.1 4.4.1): its identity is empty and its lanes are those of its orders.
    """
    orders = find_keys(message, site)
    lanes = [_lane(site, "order", n.type, n.system, n.value) for keys in orders for n in keys.numbers]
    pid = message.first("PID")
    if pid is None:
        if orders and all(keys.numbers and keys.control != "NW" for keys in orders):
            return Identified(PatientIdentity(), tuple(dict.fromkeys(lanes)))
        raise InvalidInput("The message names no patient: send a PID segment.", location="PID")
    identifiers = patient_identifiers(pid, site)
    lanes += [_lane(site, "patient", i.authority, i.value) for i in identifiers]
    patient = PatientIdentity(
        identifiers,
        family=pid.value(5).strip(),
        given=pid.value(5, 2).strip(),
        birth_date=fhir_date(pid.value(7).strip()) or "",
        sex=_SEXES.get(pid.value(8).strip().upper(), ""),
    )
    return Identified(patient, tuple(dict.fromkeys(lanes)))


def patient_identifiers(pid: hl7.Segment, site: Site) -> tuple[PatientIdentifier, ...]:
    """PID-3, else PID-2, else PID-4 (2.3 and before); first the site's own medical record number, else type MR, else
    the first one sent. Raises InvalidInput at PID^1^3 where there is none, or none says its authority and the site
    has no default."""
    found: list[tuple[int, PatientIdentifier]] = []
    for path in _PATIENT_PATHS:
        for datum in path.read(Context((pid,))):
            if datum.text:
                system = authority(datum, 4, site) or site.default_authority
                rank = 0 if system and system == site.default_authority else 1 if datum.part(5) == "MR" else 2
                found.append((rank, PatientIdentifier(datum.text, system)))
        if found:
            break
    if not found:
        raise InvalidInput("The patient has no identifier: send one in PID-3.", location="PID^1^3")
    usable = [pair for pair in found if pair[1].authority]
    if not usable:
        raise InvalidInput(
            "The patient identifier names no assigning authority: send it in PID-3.4, or set the site's default.",
            location="PID^1^3",
        )
    return tuple(dict.fromkeys(identifier for _, identifier in sorted(usable, key=lambda pair: pair[0])))


def find_keys(message: hl7.Message, site: Site) -> tuple[OrderKeys, ...]:
    """Placer and filler number of each order of the message, without a map.

    A message of ORC alone names no patient: look the stored ServiceRequest up by these numbers (identifier
    `system|value`), and pass the id of its subject to `map_message` as `patient_id`. Where none is stored, there is
    nothing to change (ERR-3 204).
    """
    return tuple(
        OrderKeys(_control(group), order_numbers(Context(group.segments), site)) for group in hl7.order_groups(message)
    )


def _control(group: hl7.OrderGroup) -> str:
    orc = group.first("ORC")
    return orc.value(1).strip() if orc is not None else ""


def order_numbers(context: Context, site: Site, *, detail_first: bool = False) -> tuple[OrderNumber, ...]:
    """Placer and filler number of one order: ORC first, else OBR (HL7 v2.5.1 4.5.1.2; the other way with
    `detail_first`, for a further OBR under one ORC that has numbers of its own)."""
    return tuple(_numbers(context, site, detail_first))


def _numbers(context: Context, site: Site, detail_first: bool) -> Iterator[OrderNumber]:
    for kind, paths in (("PLAC", _PLACER), ("FILL", _FILLER)):
        ordered = reversed(paths) if detail_first else paths
        datum = next((d for path in ordered for d in path.read(context) if d.text), None)
        if datum is not None:
            yield OrderNumber(kind, order_authority(datum, site), datum.text, as_sent(datum))


def as_sent(datum: Datum) -> str:
    return "^".join(datum.part(n) for n in range(1, 5)).rstrip("^")


def _lane(site: Site, *key: str) -> str:
    name = "\x1f".join(("lane", *key)).encode()
    return hmac.new(site.key, name, hashlib.sha256).hexdigest()[:32]
