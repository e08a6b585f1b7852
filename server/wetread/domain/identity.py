"""Who a patient is, as HL7v2 and DICOM each tell it, and whether two tellings agree."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote


def authority_uri(namespace: str, universal_id: str, universal_id_type: str, known: Mapping[str, str]) -> str:
    """The FHIR identifier system of an assigning authority (HL7 v2 HD; DICOM Issuer of ... Sequence).

    A universal id wins; a bare namespace is looked up in the site's table `known`, and one that the site has not
    named becomes `urn:wetread:authority:<namespace>` (percent-encoded) so that two namespaces never fall together; so
    does a universal id that is neither OID, UUID nor URI. Empty in, empty out.
    """
    if universal_id:
        if universal_id_type in ("ISO", "") and re.fullmatch(r"[0-2](\.(0|[1-9]\d*))+", universal_id):
            return f"urn:oid:{universal_id}"
        if universal_id_type in ("UUID", "GUID"):
            return f"urn:uuid:{universal_id.lower()}"
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:\S+", universal_id):
            return universal_id
        return known.get(universal_id, f"urn:wetread:authority:{quote(universal_id)}")
    if not namespace:
        return ""
    return known.get(namespace, f"urn:wetread:authority:{quote(namespace)}")


@dataclass(frozen=True, slots=True)
class PatientIdentifier:
    """An identifier with the URI of the authority that assigned it; the authority is empty where nobody said."""

    value: str
    authority: str = ""


@dataclass(frozen=True, slots=True)
class AccessionNumber:
    value: str
    issuer: str = ""


@dataclass(frozen=True, slots=True)
class PatientIdentity:
    """What a message or a study says of its patient. `birth_date` is ISO (may be partial), `sex` M, F, O or empty."""

    identifiers: tuple[PatientIdentifier, ...] = ()
    family: str = ""
    given: str = ""
    birth_date: str = ""
    sex: str = ""


class Agreement(StrEnum):
    AGREES = "agrees"
    CONFLICTS = "conflicts"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class IdentityVerdict:
    agreement: Agreement
    reason: str = field(default="")
    """Names the attributes that decided, never their values."""


def folded(name: str) -> str:
    """A name for comparison: without case, accents, punctuation or spaces."""
    decomposed = unicodedata.normalize("NFKD", name)
    return "".join(c for c in decomposed if c.isalnum()).casefold()


def compare_identity(one: PatientIdentity, other: PatientIdentity) -> IdentityVerdict:
    """Whether two tellings are of one patient.

    An identifier of a common authority decides: equal agrees, different conflicts. Where no authority is common, an
    identifier without authority counts only together with name, birth date and sex: all three must be known and equal.
    """
    shared = {i.authority for i in one.identifiers if i.authority} & {i.authority for i in other.identifiers}
    for authority in sorted(shared):
        left = {i.value for i in one.identifiers if i.authority == authority}
        right = {i.value for i in other.identifiers if i.authority == authority}
        if left & right:
            return IdentityVerdict(Agreement.AGREES, "identifier and its assigning authority")
    if shared:
        return IdentityVerdict(Agreement.CONFLICTS, "identifier of the same assigning authority differs")

    facts = (
        ("family name", folded(one.family), folded(other.family)),
        ("given name", folded(one.given), folded(other.given)),
        ("birth date", one.birth_date, other.birth_date),
        ("sex", one.sex, other.sex),
    )
    different = [name for name, left, right in facts if left and right and left != right]
    if different:
        return IdentityVerdict(Agreement.CONFLICTS, " and ".join(different) + " differ")
    missing = [name for name, left, right in facts if not (left and right)]
    if missing:
        return IdentityVerdict(Agreement.UNKNOWN, "no common assigning authority, and unknown: " + ", ".join(missing))
    return IdentityVerdict(Agreement.AGREES, "name, birth date and sex")
