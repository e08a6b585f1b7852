"""What an app asks, in plain words: a sentence for each scope (SMART App Launch 2.2 scopes-and-launch-context.html)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wetread.access.clients.registration import is_resource_scope
from wetread.domain.reader import Scope
from wetread.errors import InvalidInput

_CONTEXT = {
    "openid": "Know who you are: the name that you sign in with",
    "profile": "Know your name as it is shown",
    "fhirUser": "Know your entry in the record, as a practitioner",
    "launch": "Know in which context it was started: the patient, the visit, the study",
    "launch/patient": "Know which patient was chosen",
    "launch/encounter": "Know which visit was chosen",
    "online_access": "Go on working for you until you sign out here",
}
_TYPES = {
    "*": "everything in the record",
    "Patient": "patients' names, birth dates and identifiers",
    "ImagingStudy": "imaging studies",
    "DiagnosticReport": "reports",
    "Observation": "findings and measurements",
    "ServiceRequest": "orders",
    "Task": "tasks of the worklist",
    "Encounter": "visits",
    "Condition": "diagnoses",
    "Procedure": "procedures",
    "AllergyIntolerance": "allergies",
    "DocumentReference": "documents",
    "Provenance": "where results come from",
    "AuditEvent": "the audit record: who did what",
    "Practitioner": "staff",
    "Device": "devices and AI models",
    "Subscription": "subscriptions to events",
    "Media": "pictures",
    "Binary": "files",
}
_WHOSE = {"patient": "of the chosen patient", "user": "of all patients that you may see"}
_DOES = (("rs", "read"), ("c", "add"), ("u", "change"), ("d", "delete"))
_MOST_NAMED = 6
_NOT_GIVEN = "You cannot give this: it is not within your rights here, or the app's"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that is asked: the scope, its sentence, what of it can be given, and whether it may be left out."""

    word: str
    sentence: str
    note: str
    can_be_given: bool
    can_be_left_out: bool
    changes: bool
    """Whether it changes the record."""


def lines(offer: Mapping[str, Sequence[str]], offline_days: int) -> list[Line]:
    """In the order in which they were asked; what changes the record last, so that it stands out."""
    made = [_line(word, tuple(given), offline_days) for word, given in offer.items()]
    return sorted(made, key=lambda line: line.changes)


def _line(word: str, given: tuple[str, ...], offline_days: int) -> Line:
    asks = sentence(word, offline_days)
    if not given:
        return Line(word, asks, _NOT_GIVEN, can_be_given=False, can_be_left_out=True, changes=False)
    optional = not word.startswith("launch")
    scopes = [Scope.parse(each) for each in given if is_resource_scope(each)]
    changes = any(scope.letters & set("cud") for scope in scopes)
    note = "" if given == (word,) else f"Within your rights that is: {_some(scopes)}"
    return Line(word, asks, note, can_be_given=True, can_be_left_out=optional, changes=changes)


def sentence(word: str, offline_days: int) -> str:
    """What a scope lets an app do."""
    if word == "offline_access":
        return f"Go on working for you for {offline_days} days, also when you are signed out"
    if word in _CONTEXT:
        return _CONTEXT[word]
    if word.startswith("launch/"):
        return f"Know the {_apart(word.removeprefix('launch/'))} at hand"
    try:
        scope = Scope.parse(word)
    except InvalidInput:
        return f"Something that this server does not know: {word[:80]}"
    return f"{_does(scope).capitalize()} {_type(scope.resource_type)} {_whose(scope)}"


def _does(scope: Scope) -> str:
    done = [name for letters, name in _DOES if scope.letters & set(letters)]
    return done[0] if len(done) == 1 else f"{', '.join(done[:-1])} and {done[-1]}"


def _type(name: str) -> str:
    return _TYPES.get(name, f"entries of the kind {_apart(name)}")


def _apart(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _whose(scope: Scope) -> str:
    whose = _WHOSE.get(scope.level, "of all patients")
    if not scope.constraint:
        return whose
    only = " and ".join(f"{name} is {value.rpartition('|')[2]}" for name, value in scope.constraint)
    return f"{whose}, only where {only}"


def _some(scopes: Sequence[Scope]) -> str:
    named = list(dict.fromkeys(f"{_does(scope)} {_type(scope.resource_type)}" for scope in scopes))
    more = len(named) - _MOST_NAMED
    return ", ".join(named[:_MOST_NAMED]) + (f", and {more} more" if more > 0 else "")
