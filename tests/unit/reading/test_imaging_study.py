"""What a study's headers say, as FHIR."""

from __future__ import annotations

from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest

from wetread.domain.identity import AccessionNumber, PatientIdentifier, PatientIdentity
from wetread.domain.study import InstanceFacts
from wetread.mapping.site import Site
from wetread.reading.imaging_study import accession_of, identity_of, imaging_study, patient, patient_id_of, started

SITE = Site(b"k" * 32, {"HOSP": "https://hospital.example/mrn"}, "", ZoneInfo("Europe/Berlin"))
FILM = InstanceFacts(
    "1.2.3.1",
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.3",
    "1.2.3.4",
    "1.2.840.10008.1.2.1",
    modality="CR",
    patient_id="1001",
    patient_id_issuer="HOSP",
    patient_name="Alvarez^Mia Ana^^Dr",
    patient_birth_date="2022-03-14",
    patient_sex="F",
    accession_number="A1",
    accession_issuer="1.2.3.5",
    study_date="2026-07-20",
    study_time="08:12:00.123",
)


def test_the_patient_of_a_header_is_an_identity_under_its_issuer() -> None:
    assert identity_of(FILM, SITE) == PatientIdentity(
        (PatientIdentifier("1001", "https://hospital.example/mrn"),), "Alvarez", "Mia Ana", "2022-03-14", "F"
    )
    assert accession_of(FILM, SITE) == AccessionNumber("A1", "urn:oid:1.2.3.5")


def test_studies_that_merely_share_a_patient_id_are_never_one_person() -> None:
    bare = identity_of(replace(FILM, patient_id_issuer=""), SITE)
    assert patient_id_of(bare, "1.2.3", SITE) != patient_id_of(bare, "1.2.9", SITE)
    known = identity_of(FILM, SITE)
    assert patient_id_of(known, "1.2.3", SITE) == patient_id_of(known, "1.2.9", SITE)


def test_what_a_header_leaves_out_is_left_out_of_the_patient() -> None:
    nobody = identity_of(replace(FILM, patient_id="", patient_name="", patient_sex="", patient_birth_date=""), SITE)
    assert patient(nobody, "p") == {"resourceType": "Patient", "id": "p"}
    assert patient(identity_of(FILM, SITE), "p")["name"] == [{"family": "Alvarez", "given": ["Mia", "Ana"]}]


@pytest.mark.parametrize(
    ("day", "time", "expected"),
    [
        ("2026-07-20", "08:12:00.123", "2026-07-20T08:12:00+02:00"),
        ("2026-01-20", "08:12:00", "2026-01-20T08:12:00+01:00"),
        ("2026-07-20", "", "2026-07-20"),
        ("", "08:12:00", ""),
    ],
)
def test_a_study_started_in_the_sites_zone(day: str, time: str, expected: str) -> None:
    assert started(replace(FILM, study_date=day, study_time=time), SITE) == expected


def test_a_growing_study_counts_and_a_complete_one_lists_its_instances() -> None:
    second = replace(FILM, sop_instance_uid="1.2.3.2", instance_number=1)
    report = replace(FILM, sop_instance_uid="1.2.3.9", series_instance_uid="1.2.3.8", modality="SR")
    made = {
        is_complete: imaging_study(
            [replace(FILM, instance_number=2), second, report],
            patient_id="p",
            service_request_id=None,
            encounter_id=None,
            accession=AccessionNumber("A1"),
            started="",
            is_complete=is_complete,
        )
        for is_complete in (False, True)
    }
    assert (made[False]["status"], made[True]["status"]) == ("registered", "available")
    assert made[False]["numberOfInstances"] == made[True]["numberOfInstances"] == 3
    assert all("instance" not in series for series in made[False]["series"])
    assert [i["uid"] for i in made[True]["series"][0]["instance"]] == ["1.2.3.2", "1.2.3.1"]
    assert [m["code"] for m in made[True]["modality"]] == ["CR", "SR"]
