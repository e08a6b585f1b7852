"""Made-up patients and vital signs, and the requests that a server is measured with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from benchmarks.fhir.load import Request

_LOINC = "http://loinc.org"
_SIGNS = (
    ("8867-4", "Heart rate", "/min", 72),
    ("9279-1", "Respiratory rate", "/min", 15),
    ("8310-5", "Body temperature", "Cel", 37),
    ("29463-7", "Body weight", "kg", 80),
    ("8302-2", "Body height", "cm", 175),
    ("59408-5", "Oxygen saturation in Arterial blood by Pulse oximetry", "%", 97),
    ("39156-5", "Body mass index (BMI) [Ratio]", "kg/m2", 25),
    ("8480-6", "Systolic blood pressure", "mm[Hg]", 120),
)
_FAMILIES = ("Adler", "Baumann", "Castro", "Dubois", "Eriksen", "Fischer", "Garcia", "Hansen", "Ito", "Jansen")
_GIVEN = ("Anna", "Bram", "Carla", "Diego", "Elif", "Freya", "Goran", "Hana", "Ivo", "Julia", "Kofi", "Lena")


def _patient(number: int) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": f"p-{number}",
        "identifier": [{"system": "urn:oid:2.999.1", "value": f"MRN{number:06}"}],
        "active": True,
        "name": [{"family": family(number), "given": [_GIVEN[number % len(_GIVEN)]]}],
        "gender": ("female", "male")[number % 2],
        "birthDate": f"{1930 + number % 90}-{1 + number % 12:02}-{1 + number % 28:02}",
    }


def family(number: int) -> str:
    """Some patients share it, as in a hospital."""
    return f"{_FAMILIES[number % len(_FAMILIES)]}{number // 40}"


def observation(number: int, patient: int, *, salt: int = 0, id: str = "") -> dict[str, Any]:
    """A vital sign of 0.7 kB, as an EHR sends it; `salt` changes its value."""
    code, display, unit, normal = _SIGNS[number % len(_SIGNS)]
    minute = number % 60
    made: dict[str, Any] = {"resourceType": "Observation"}
    if id:
        made["id"] = id
    return made | {
        "identifier": [{"system": "urn:oid:2.999.2", "value": f"OBS{number}-{salt}"}],
        "status": "final",
        "category": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/observation-category",
                        "code": "vital-signs",
                        "display": "Vital Signs",
                    }
                ]
            }
        ],
        "code": {"coding": [{"system": _LOINC, "code": code, "display": display}], "text": display},
        "subject": {"reference": f"Patient/p-{patient}"},
        "effectiveDateTime": f"2026-{1 + number % 12:02}-{1 + number % 28:02}T08:{minute:02}:00+01:00",
        "issued": f"2026-{1 + number % 12:02}-{1 + number % 28:02}T09:{minute:02}:00.000+01:00",
        "valueQuantity": {
            "value": normal + (number * 7 + salt * 3) % 40 / 10,
            "unit": unit,
            "system": "http://unitsofmeasure.org",
            "code": unit,
        },
        "interpretation": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation",
                        "code": "N",
                        "display": "Normal",
                    }
                ]
            }
        ],
    }


def text(resource: dict[str, Any]) -> str:
    return json.dumps(resource, separators=(",", ":"), ensure_ascii=False)


def _in_hundreds(resources: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Request]:
    entries = iter(resources)
    while some := list(islice(entries, 100)):
        yield _transaction([("PUT", url, resource) for url, resource in some])


def _transaction(entries: Sequence[tuple[str, str, dict[str, Any]]]) -> Request:
    """Of (method, url, resource)."""
    bundle = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"resource": resource, "request": {"method": method, "url": url}} for method, url, resource in entries
        ],
    }
    return Request("POST", "", text(bundle))


class Population:
    """`patients` with `observations` spread over them, all with ids that we chose; and the requests about them."""

    def __init__(self, patients: int, observations: int) -> None:
        self.patients = patients
        self.observations = observations

    def of_patients(self) -> Iterator[Request]:
        """Transactions of 100 that fill a server."""
        return _in_hundreds((f"Patient/{one['id']}", one) for one in map(_patient, range(self.patients)))

    def of_observations(self) -> Iterator[Request]:
        """The same, of the observations; their patients have to be there."""
        return _in_hundreds(
            (f"Observation/o-{n}", observation(n, self._patient_of(n), id=f"o-{n}")) for n in range(self.observations)
        )

    def _patient_of(self, number: int) -> int:
        return number // len(_SIGNS) % self.patients

    def reads(self, count: int) -> Iterator[Request]:
        chosen = random.Random(1)
        for _ in range(count):
            yield Request("GET", f"/Observation/o-{chosen.randrange(self.observations)}")

    def creates(self, count: int) -> Iterator[Request]:
        for number in range(count):
            yield Request("POST", "/Observation", text(observation(number, number % self.patients, salt=1)))

    def updates(self) -> Iterator[Request]:
        """Each changes something: a server may answer a PUT of what it has without writing."""
        for salt in range(2, 6):
            for number in range(self.observations):
                made = observation(number, self._patient_of(number), salt=salt, id=f"o-{number}")
                yield Request("PUT", f"/Observation/o-{number}", text(made))

    def searches(self) -> Iterator[Request]:
        """Observations of a patient with a code: a handful of matches. No two searches are alike."""
        for number in range(self.patients * len(_SIGNS)):
            code = _SIGNS[number // self.patients][0]
            asked = {"patient": f"Patient/p-{number % self.patients}", "code": f"{_LOINC}|{code}", "_count": "20"}
            yield Request("GET", f"/Observation?{urlencode(asked)}")

    def chains(self) -> Iterator[Request]:
        """Observations with a code of patients by family name, with the patients."""
        for number in range(self.patients):
            code = _SIGNS[number % len(_SIGNS)][0]
            asked = {
                "patient.family": family(number),
                "code": f"{_LOINC}|{code}",
                "_include": "Observation:patient",
                "_count": "20",
            }
            yield Request("GET", f"/Observation?{urlencode(asked)}")

    def transactions(self, count: int) -> Iterator[Request]:
        """Each creates 100 Observations."""
        for number in range(count):
            first = number * 100
            yield _transaction(
                [
                    ("POST", "Observation", observation(first + n, (first + n) % self.patients, salt=9))
                    for n in range(100)
                ]
            )
