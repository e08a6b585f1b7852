"""Many patients and what is written of them, at random, and an oracle that says what a caller may see of it.

The oracle reads content only, by R4's published table of the Patient compartment (compartmentdefinition-patient.html)
and docs/decisions/0025; it shares nothing with the server but the parser of scopes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.record import resources
from wetread.store.database import Database

ELEMENTS: Mapping[str, tuple[str, ...]] = {
    "AllergyIntolerance": ("patient", "recorder", "asserter"),
    "Appointment": ("participant.actor",),
    "Basic": ("subject", "author"),
    "CareTeam": ("subject", "participant.member"),
    "Communication": ("subject", "sender", "recipient"),
    "Composition": ("subject", "author", "attester.party"),
    "Condition": ("subject", "asserter"),
    "Coverage": ("policyHolder", "subscriber", "beneficiary", "payor"),
    "DiagnosticReport": ("subject",),
    "DocumentReference": ("subject", "author"),
    "Encounter": ("subject",),
    "ImagingStudy": ("subject",),
    "List": ("subject", "source"),
    "Media": ("subject",),
    "Observation": ("subject", "performer"),
    "Patient": ("link.other",),
    "Person": ("link.target",),
    "Procedure": ("subject", "performer.actor"),
    "QuestionnaireResponse": ("subject", "author"),
    "RelatedPerson": ("patient",),
    "Schedule": ("actor",),
    "ServiceRequest": ("subject", "performer"),
    "Specimen": ("subject",),
}
"""The elements behind the parameters of R4's table, as far as they may name a Patient."""
LISTS = frozenset({"participant", "author", "attester", "recipient", "payor", "performer", "link", "actor"})
BY_NAME: Mapping[str, str] = {"Practitioner": "", "Organization": "", "Location": "", "Device": "patient"}
CLOSED: Mapping[str, str] = {"Task": "for", "Group": "member.entity", "Flag": ""}
TYPES = (*ELEMENTS, *BY_NAME, "Task", "Group", "Provenance", "Binary")
ANY = ("hasMember", "derivedFrom", "focus", "partOf", "basedOn", "result", "supportingInformation")
IDENTIFIED = tuple(t for t in TYPES if t not in ("Provenance", "Binary"))
_ONE_IDENTIFIER = ("Composition", "QuestionnaireResponse")


@dataclass(slots=True)
class Stored:
    """A resource: the contents of its versions, and whether it was deleted after the last of them."""

    resource_type: str
    id: str
    versions: list[dict[str, Any]]
    deleted: bool = False

    @property
    def what(self) -> str:
        return f"{self.resource_type}/{self.id}"

    @property
    def now(self) -> dict[str, Any]:
        return self.versions[-1]


@dataclass(slots=True, repr=False)
class World:
    patients: list[str]
    stored: dict[str, Stored] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"World({len(self.patients)} patients)"

    def there(self, resource_type: str = "") -> Iterator[Stored]:
        return (s for s in self.stored.values() if not s.deleted and resource_type in ("", s.resource_type))


def marker(content: Mapping[str, Any]) -> str:
    """What stands in no other version of anything."""
    return str(content["meta"]["tag"][0]["code"])


def made(seed: int, patients: int, others: int) -> World:
    random = Random(seed)
    names = [("Patient", _id(random)) for _ in range(patients)]
    names += [(random.choice(TYPES), _id(random)) for _ in range(others)]
    world = World([id_ for type_, id_ in names if type_ == "Patient"])
    number = 0
    for type_, id_ in names:
        versions: list[dict[str, Any]] = []
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            number += 1
            content = _content(random, type_, world.patients, names)
            if versions and random.random() < 0.6:  # mostly what is corrected stays with its patient
                content = {**versions[-1], "language": f"x-{number}"}
            tag = [{"code": f"secret-{number}-"}, {"system": "urn:t", "code": f"t{random.randrange(3)}"}]
            versions.append({**content, "resourceType": type_, "id": id_, "meta": {"tag": tag}})
        world.stored[f"{type_}/{id_}"] = Stored(type_, id_, versions, type_ != "Patient" and random.random() < 0.06)
    return world


def _id(random: Random) -> str:
    return f"id-{random.getrandbits(32):08x}"


def _content(random: Random, type_: str, patients: list[str], names: list[tuple[str, str]]) -> dict[str, Any]:
    def someone() -> dict[str, str]:
        # Few patients are asked for: so each is named often, and beside others.
        id_ = random.choice(patients[: max(4, len(patients) // 4)] if random.random() < 0.7 else patients)
        form = random.choice(
            ("Patient/{}",) * 8 + ("Patient/{}/_history/1", "http://elsewhere.example/fhir/Patient/{}")
        )
        return {"reference": form.format(id_)}

    def something() -> dict[str, str]:
        return {"reference": "/".join(random.choice(names))}

    found: dict[str, Any] = {}
    for number, path in enumerate(ELEMENTS.get(type_, ())):
        if (number == 0 and type_ != "Patient") or random.random() < 0.15:
            _put(found, path, someone() if random.random() < 0.9 else something())
    for path in (BY_NAME.get(type_), CLOSED.get(type_)):
        if path and random.random() < 0.7:
            _put(found, path, someone())
    if type_ in IDENTIFIED:
        identifier = {"system": "urn:w", "value": f"v{random.randrange(6)}"}
        found["identifier"] = identifier if type_ in _ONE_IDENTIFIER else [identifier]
    match type_:
        case "Patient" | "Practitioner" | "RelatedPerson" | "Person":
            found["name"] = [{"family": random.choice(("Alpha", "Beta", "Gamma"))}]
        case "Observation":
            found["status"] = random.choice(("final", "preliminary"))
            found["category"] = [{"coding": [{"system": "urn:c", "code": random.choice(("imaging", "laboratory"))}]}]
            found["code"] = {"coding": [{"system": "urn:o", "code": random.choice("ab")}]}
            found["effectiveDateTime"] = (
                f"202{random.randrange(3, 6)}-0{random.randrange(1, 10)}-1{random.randrange(10)}"
            )
            found["hasMember"] = [something() for _ in range(random.randrange(3))]
        case "DiagnosticReport":
            found["result"] = [something() for _ in range(random.randrange(3))]
        case "List":
            found["entry"] = [{"item": something()} for _ in range(random.randrange(5))]
        case "Composition":
            found["section"] = [{"entry": [something()]}]
        case "Provenance":
            found["target"] = [something() for _ in range(random.choice((1, 1, 1, 2)))]
            found["recorded"] = "2026-01-01T00:00:00Z"
        case "Binary":
            found["contentType"] = "text/plain"
            if random.random() < 0.8:
                found["securityContext"] = something()
        case "Task":
            found["focus"] = something()
    return {name: value for name, value in found.items() if value != []}


def _put(content: dict[str, Any], path: str, reference: dict[str, str]) -> None:
    head, _, rest = path.partition(".")
    value: Any = {rest: reference} if rest else reference
    content.setdefault(head, []).append(value) if head in LISTS or rest else content.update({head: value})


async def stored(database: Database, world: World) -> None:
    for entry in world.stored.values():
        async with database.transaction() as conn:
            for content in entry.versions:
                await resources.put(conn, content)
            if entry.deleted:
                await resources.delete(conn, SYSTEM, entry.resource_type, entry.id)


# The oracle


def at(content: Any, path: str) -> list[Any]:
    """The values at an element path, through lists."""
    found = [content]
    for name in path.split("."):
        found = [v[name] for v in found if isinstance(v, dict) and name in v]
        found = [one for v in found for one in (v if isinstance(v, list) else [v])]
    return found


def local(reference: Any) -> str:
    """`Type/id` of a reference on this server; empty for any other."""
    text = str(reference.get("reference", ""))
    return "/".join(text.split("/")[:2]) if text and "://" not in text else ""


def references(content: Any) -> set[str]:
    """Every reference in a content, as written."""
    if isinstance(content, list):
        return {one for item in content for one in references(item)}
    if isinstance(content, dict):
        own = {content["reference"]} if isinstance(content.get("reference"), str) else set()
        return own | {one for item in content.values() for one in references(item)}
    return set()


@dataclass(frozen=True, slots=True)
class Oracle:
    world: World
    reader: Reader

    def is_whole(self, resource_type: str, letter: str) -> bool:
        by_name = letter in "rs" and BY_NAME.get(resource_type) == ""
        return any(
            not s.constraint and (s.level != "patient" or (by_name and s.resource_type == resource_type))
            for s in self._opening(resource_type, letter)
        )

    def is_some(self, resource_type: str, letter: str) -> bool:
        return bool(self._opening(resource_type, letter))

    def sees(self, one: Stored, letter: str) -> bool:
        """Whether the resource, as it is now, is open; a deleted one is to nobody."""
        return not one.deleted and self.opens(one.now, letter)

    def sees_version(self, one: Stored, number: int, letter: str) -> bool:
        if self.is_whole(one.resource_type, letter):
            return number < len(one.versions)
        if number >= len(one.versions) or not self.sees(one, letter):
            return False
        if one.resource_type in ("Provenance", "Binary"):
            return number == len(one.versions) - 1
        return self.opens(one.versions[number], letter)

    def visible(self, resource_type: str, letter: str) -> set[str]:
        return {one.what for one in self.world.there(resource_type) if self.sees(one, letter)}

    def opens(self, content: Mapping[str, Any], letter: str) -> bool:
        return any(
            (scope.level != "patient" or self._is_of_patient(scope, content, letter))
            and all(matches(content, name, value) for name, value in scope.constraint)
            for scope in self._opening(content["resourceType"], letter)
        )

    def _opening(self, resource_type: str, letter: str) -> list[Scope]:
        return [
            s
            for s in self.reader.scopes
            if letter in s.letters
            and s.resource_type in ("*", resource_type)
            and (s.level != "patient" or self.reader.patient_id)
        ]

    def _is_of_patient(self, scope: Scope, content: Mapping[str, Any], letter: str) -> bool:
        type_, patient = content["resourceType"], f"Patient/{self.reader.patient_id}"
        if type_ in BY_NAME:
            named = [r for r in at(content, BY_NAME[type_]) if "Patient/" in r["reference"]] if BY_NAME[type_] else []
            return scope.resource_type == type_ and all(local(r) == patient for r in named)
        if type_ in ("Provenance", "Binary"):
            targets = at(content, "target" if type_ == "Provenance" else "securityContext")
            found = [self.world.stored.get(local(r)) for r in targets]
            closed = ("Provenance", "Binary")
            if any(t is None or t.resource_type in closed or not self.sees(t, letter) for t in found):
                return False
            return any(t is not None and in_compartment(t.now, patient) for t in found)
        return in_compartment(content, patient)


def in_compartment(content: Mapping[str, Any], patient: str) -> bool:
    if f"{content['resourceType']}/{content['id']}" == patient:
        return True
    return any(local(r) == patient for path in ELEMENTS.get(content["resourceType"], ()) for r in at(content, path))


def matches(content: Mapping[str, Any], name: str, value: str) -> bool:
    """The few search parameters that scopes and searches of the test use."""
    match name:
        case "_tag":
            return any(f"{c.get('system', '')}|{c['code']}" == value for c in at(content, "meta.tag"))
        case "_id":
            return bool(content["id"] == value)
        case "identifier":
            return any(f"{i['system']}|{i['value']}" == value for i in at(content, "identifier"))
        case "category" | "code":
            return any(c["code"] in value.split(",") for c in at(content, f"{name}.coding"))
        case "status":
            return content.get("status") == value
        case "subject":
            return any(local(r) == value for r in at(content, "subject"))
        case "family" | "name":
            return any(str(n["family"]).startswith(value) for n in at(content, "name"))
        case "date":
            day = str(content.get("effectiveDateTime", ""))
            return bool(day) and (day >= value[2:] if value.startswith("ge") else day < value[2:])
    raise AssertionError(name)
