"""Which order a study answers: the rule by itself."""

from __future__ import annotations

from dataclasses import replace

from wetread.domain.identity import AccessionNumber, PatientIdentifier, PatientIdentity
from wetread.domain.matching import Candidate, match
from wetread.domain.study import MatchState

MIA = PatientIdentity((PatientIdentifier("1001", "urn:a"),), "Alvarez", "Mia", "2022-03-14", "F")
LEO = PatientIdentity((PatientIdentifier("1002", "urn:a"),), "Baker", "Leo", "2023-06-02", "M")
ACCESSION = AccessionNumber("A1", "urn:ris")
NONE = AccessionNumber("")


def order(name: str, uid: str = "", accession: AccessionNumber = NONE, identity: PatientIdentity = MIA) -> Candidate:
    return Candidate(name, uid, accession, identity)


def state(*orders: Candidate, accession: AccessionNumber = ACCESSION, match_on_patient: bool = False) -> str:
    found = match("1.2.3", accession, MIA, orders, match_on_patient=match_on_patient)
    return f"{found.state} {found.service_request_id or ''}".strip()


def test_the_study_instance_uid_wins_over_the_accession_number() -> None:
    assert state(order("by-number", accession=ACCESSION), order("by-uid", "1.2.3")) == "matched by-uid"


def test_an_accession_number_counts_with_its_issuer_where_both_name_one() -> None:
    assert state(order("o", accession=ACCESSION)) == "matched o"
    assert state(order("o", accession=AccessionNumber("A1"))) == "matched o"
    assert state(order("o", accession=AccessionNumber("A1", "urn:other"))) == "none"


def test_an_empty_accession_number_matches_nothing() -> None:
    assert state(order("o"), accession=NONE) == "none"


def test_a_number_with_another_patient_holds() -> None:
    found = match("1.2.3", NONE, MIA, [order("o", "1.2.3", identity=LEO)], match_on_patient=True)
    assert (found.state, found.service_request_id, found.candidates) == (MatchState.HELD, None, ("o",))
    assert not any(value in found.reason for value in ("1001", "1002", "Alvarez", "Baker"))


def test_a_number_with_a_patient_of_whom_too_little_is_known_holds() -> None:
    unknown = PatientIdentity((PatientIdentifier("1001"),), "Alvarez")
    assert state(order("o", "1.2.3", identity=unknown)) == "held"


def test_two_orders_of_one_number_hold() -> None:
    assert state(order("a", accession=ACCESSION), order("b", accession=ACCESSION)) == "held"


def test_the_patient_alone_proposes_unless_the_site_trusts_it() -> None:
    by_patient = replace(order("o"), by_patient=True)
    assert state(by_patient) == "proposed"
    assert state(by_patient, match_on_patient=True) == "matched o"
    assert state(by_patient, replace(by_patient, service_request_id="p"), match_on_patient=True) == "proposed"
    assert state(replace(by_patient, identity=LEO)) == "none"
