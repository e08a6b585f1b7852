"""Which order a study answers.

By Study Instance UID, else by accession number and issuer; and only where the patient agrees. Anything less is a
proposal, and a contradiction holds the results until a person has looked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wetread.domain.identity import AccessionNumber, Agreement, PatientIdentity, compare_identity
from wetread.domain.study import MatchState


@dataclass(frozen=True, slots=True)
class Candidate:
    """An order that may be the study's: found by number, or (`by_patient`) only by patient and time window."""

    service_request_id: str
    study_instance_uid: str
    accession: AccessionNumber
    identity: PatientIdentity
    by_patient: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """`candidates` are the orders that a person would choose between; `reason` names attributes, never values."""

    state: MatchState
    service_request_id: str | None = None
    reason: str = ""
    candidates: tuple[str, ...] = ()


def match(
    study_instance_uid: str,
    accession: AccessionNumber,
    identity: PatientIdentity,
    orders: Sequence[Candidate],
    *,
    match_on_patient: bool,
) -> Match:
    """The study's match among the orders that the store found for it."""
    by_uid = [o for o in orders if o.study_instance_uid == study_instance_uid]
    by_accession = [o for o in orders if not o.by_patient and _same_accession(o.accession, accession)]
    found = by_uid or by_accession
    if found:
        return _by_number(found, identity, "Study Instance UID" if by_uid else "accession number")
    proposed = [
        o for o in orders if o.by_patient and compare_identity(o.identity, identity).agreement is Agreement.AGREES
    ]
    ids = tuple(o.service_request_id for o in proposed)
    if match_on_patient and len(proposed) == 1:
        return Match(MatchState.MATCHED, ids[0], "patient and time window", ids)
    if proposed:
        return Match(MatchState.PROPOSED, None, "patient and time window agree, no number does", ids)
    return Match(MatchState.NONE)


def _by_number(found: Sequence[Candidate], identity: PatientIdentity, number: str) -> Match:
    ids = tuple(o.service_request_id for o in found)
    if len(found) > 1:
        return Match(MatchState.HELD, None, f"{len(found)} orders have this {number}", ids)
    verdict = compare_identity(found[0].identity, identity)
    if verdict.agreement is not Agreement.AGREES:
        return Match(MatchState.HELD, None, f"{number} agrees, but the patient does not: {verdict.reason}", ids)
    return Match(MatchState.MATCHED, ids[0], f"{number}, and {verdict.reason}", ids)


def _same_accession(one: AccessionNumber, other: AccessionNumber) -> bool:
    """Issuers count where both sides name one (PS3.3 C.7.3.1, Issuer of Accession Number Sequence)."""
    if not one.value or one.value != other.value:
        return False
    return not (one.issuer and other.issuer) or one.issuer == other.issuer
