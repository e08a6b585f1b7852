"""Whoever asks, for whatever, in whatever form: no content, count or error tells of what their scopes do not open.

An oracle of its own says what they open. The world and the questions are random; a failure names its seed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.soak import times

from wetread.domain.reader import Reader
from wetread.store.database import Database

from . import many_patients as many
from .many_patients import IDENTIFIED, TYPES, Oracle, Stored, World, local, marker, matches, references
from .scoped import JSON, face, reader, token


class Here:
    """A world behind the face. No dataclass: hypothesis would write out all of it."""

    def __init__(self, client: httpx.AsyncClient, world: World) -> None:
        self.client, self.world = client, world


_ID, _MARK = re.compile(r"id-[0-9a-f]{8}"), re.compile(r"secret-\d+-")
_SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@asynccontextmanager
async def _here(database: Database, seed: int, patients: int, others: int) -> AsyncIterator[Here]:
    world = many.made(seed, patients, others)
    await many.stored(database, world)
    async with face(database) as client:
        yield Here(client, world)


@pytest.fixture(scope="module")
async def small(module_database: Database) -> AsyncIterator[Here]:
    async with _here(module_database, 24, 40, 360) as here:
        yield here


@given(st.integers(0, 2**32))
@settings(max_examples=times(60), **_SETTINGS)
async def test_no_question_tells_of_what_is_not_open(small: Here, seed: int) -> None:
    await _asked(small, Random(seed))


@pytest.mark.slow
@pytest.mark.parametrize("world", range(3))
async def test_no_question_tells_of_what_is_not_open_in_many_worlds(database: Database, world: int) -> None:
    async with _here(database, world, 300, 3000) as here:
        for seed in range(600):
            await _asked(here, Random(seed))


async def _asked(here: Here, random: Random) -> None:
    world = here.world
    scopes, patient = _scopes(random, world)
    asker = Asker(here.client, world, Oracle(world, reader(scopes, patient)), token(scopes, patient), random)
    await random.choice(FORMS)(asker)


def _scopes(random: Random, world: World) -> tuple[str, str]:
    patient = random.choice(world.patients[: len(world.patients) // 4])
    found = []
    for _ in range(random.randrange(1, 4)):
        level = random.choice(("patient", "patient", "patient", "user", "system"))
        # A scope on everything at another level than the patient's hides nothing: it is for few.
        type_ = "*" if random.random() < (0.6 if level == "patient" else 0.05) else random.choice(TYPES)
        narrow = random.random() < (0.25 if level == "patient" else 0.7)
        letters = random.choice(("rs", "rs", "cruds", "r", "s", "rud", *(() if narrow else ("read", "*"))))
        found.append(f"{level}/{type_}.{letters}{'?' + _narrowed(random, type_, world) if narrow else ''}")
    return " ".join(found), patient if random.random() < 0.95 else ""


def _narrowed(random: Random, type_: str, world: World) -> str:
    options = [f"_tag=urn:t|t{random.randrange(3)}"]
    if type_ in IDENTIFIED:
        options.append(f"identifier=urn:w|v{random.randrange(6)}")
    if type_ == "Observation":
        options += ["category=imaging", "category=imaging,laboratory&code=a", "date=ge2024-05-05", "status=final"]
        options.append(f"subject=Patient/{random.choice(world.patients[:8])}")
    if type_ == "Patient":
        options.append(f"family={random.choice(('Alpha', 'Beta'))}")
    return random.choice(options)


class Asker:
    """One caller, and what it may be told."""

    def __init__(
        self, client: httpx.AsyncClient, world: World, oracle: Oracle, headers: dict[str, str], random: Random
    ) -> None:
        self.client, self.world, self.oracle, self.headers, self.random = client, world, oracle, headers, random

    @property
    def reader(self) -> Reader:
        return self.oracle.reader

    def __repr__(self) -> str:
        return f"{self.headers}"

    def one(self) -> Stored:
        """Any resource, of the caller's patient or of what is near it more often than not."""
        mine = f"Patient/{self.reader.patient_id}"
        near = [s for s in self.world.stored.values() if any(mine in r for v in s.versions for r in references(v))]
        return self.random.choice(near if near and self.random.random() < 0.5 else list(self.world.stored.values()))

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {**self.headers, **more.pop("headers", {})}
        answer = await self.client.request(method, path, headers=headers, **more)
        self.judge(answer, f"{path} {more.get('content', '')} {more.get('json', '')}")
        return answer

    def judge(self, answer: httpx.Response, said: str) -> None:
        """Nothing in the answer but what is open to the caller, what that refers to, and what the caller said."""
        assert answer.status_code < 500, answer.text
        told = answer.text + str(answer.headers)
        open_: list[dict[str, Any]] = []
        for one in self.world.stored.values():
            shown = [n for n in range(len(one.versions)) if any(self.oracle.sees_version(one, n, x) for x in "rs")]
            open_ += [one.versions[n] for n in shown]
        betrayed = set(_MARK.findall(told)) - {marker(content) for content in open_}
        assert not betrayed, (self, said, betrayed)
        known = {content["id"] for content in open_} | set(_ID.findall(said)) | {self.reader.patient_id}
        known |= {id_ for content in open_ for r in references(content) for id_ in _ID.findall(r)}
        known |= {
            s.id
            for s in self.world.stored.values()
            if s.deleted and any(self.oracle.is_whole(s.resource_type, x) for x in "rs")
        }
        assert set(_ID.findall(told)) <= known, (self, said, set(_ID.findall(told)) - known)

    async def pages(self, path: str, limit: int = 40) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The entries of all pages, and the first page."""
        answer = await self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        first = body = answer.json()
        entries = list(body.get("entry", ()))
        for _ in range(limit):
            links = [link["url"] for link in body["link"] if link["relation"] == "next"]
            if not links:
                break
            answer = await self.ask("GET", links[0])
            assert answer.status_code == 200, answer.text
            body = answer.json()
            entries += body.get("entry", ())
        return entries, first


async def reads(asker: Asker) -> None:
    one = asker.one()
    path, oracle = f"{one.resource_type}/{one.id}", asker.oracle
    answer = await asker.ask("GET", path, headers=asker.random.choice(({}, {"If-None-Match": 'W/"1"'})))
    assert answer.status_code in _expected(oracle, one, len(one.versions) - 1 if not one.deleted else 99)
    number = asker.random.randrange(len(one.versions) + 1)
    answer = await asker.ask("GET", f"{path}/_history/{number + 1}")
    assert answer.status_code in _expected(oracle, one, number)
    meta = await asker.ask("GET", f"{path}/$meta")
    assert (meta.status_code == 200) == (oracle.sees(one, "r") and oracle.is_some(one.resource_type, "r"))


def _expected(oracle: Oracle, one: Stored, number: int) -> tuple[int, ...]:
    if not oracle.is_some(one.resource_type, "r"):
        return (403,)
    if oracle.sees_version(one, number, "r"):
        return 200, 304
    return (404, 410) if oracle.is_whole(one.resource_type, "r") else (404,)


async def searches(asker: Asker) -> None:
    random, oracle = asker.random, asker.oracle
    type_ = random.choice(TYPES)
    params = (
        dict(p.split("=", 1) for p in _narrowed(random, type_, asker.world).split("&")) if random.random() < 0.5 else {}
    )
    steer = random.choice(("", "&_count=3", "&_sort=_lastUpdated&_count=7", "&_sort=-_id", "&_count=2&_sort=_tag"))
    query = "&".join(f"{name}={quote(value)}" for name, value in params.items())
    path = f"{type_}?{query}&_total=accurate{steer}"
    if not oracle.is_some(type_, "s"):
        assert (await asker.ask("GET", path)).status_code == 403
        return
    visible = [s for s in asker.world.there(type_) if oracle.sees(s, "s")]
    expected = {s.what for s in visible if all(matches(s.now, n, v) for n, v in params.items())}
    entries, first = await asker.pages(path)
    assert {_what(e) for e in entries} == expected, path
    assert first["total"] == len(expected)
    counted = await asker.ask("GET", f"{type_}?{query}&_summary=count")
    assert counted.json()["total"] == len(expected)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    posted = await asker.ask("POST", f"{type_}/_search", content=f"{query}&_count=1000", headers=form)
    assert {_what(e) for e in posted.json().get("entry", ())} == expected


async def chains(asker: Asker) -> None:
    """A chain, and its reverse, go by way of what is visible only."""
    random, oracle = asker.random, asker.oracle
    family, status = random.choice(("Alpha", "Beta", "Gamma")), random.choice(("final", "preliminary"))
    chain = random.choice((f"subject:Patient.family={family}", f"_filter=subject:Patient.family eq {family}"))
    forward = await asker.ask("GET", f"Observation?{quote(chain, safe='=:')}&_count=1000")
    backward = await asker.ask("GET", f"Patient?_has:Observation:subject:status={status}&_count=1000")
    may = oracle.is_some("Observation", "s") and oracle.is_some("Patient", "s")
    assert (forward.status_code == backward.status_code == 200) == may
    if may:
        observations = [s for s in asker.world.there("Observation") if oracle.sees(s, "s")]
        patients = {s.what: s for s in asker.world.there("Patient") if oracle.sees(s, "s")}

        def subject(one: Stored) -> str:
            return local(one.now.get("subject", {}))

        named = {w for w, s in patients.items() if matches(s.now, "family", family)}
        assert _found(forward) == {o.what for o in observations if subject(o) in named}
        of = {subject(o) for o in observations if matches(o.now, "status", status)}
        assert _found(backward) == of & patients.keys()


async def includes(asker: Asker) -> None:
    random = asker.random
    type_ = random.choice(("Patient", "Observation", "DiagnosticReport", "List", "Practitioner", "Device"))
    words = ["_include=*", "_revinclude=*", "_include:iterate=*", "_revinclude:iterate=*", "_include=List:item"]
    words += [
        "_revinclude=Provenance:target",
        "_include=Observation:has-member",
        "_revinclude:iterate=Observation:subject",
    ]
    query = "&".join(random.sample(words, random.randrange(1, 4)))
    answer = await asker.ask("GET", f"{type_}?{query}&_count={random.choice((3, 50))}")
    if answer.status_code == 200:
        for entry in answer.json().get("entry", ()):
            letter = "s" if entry["search"]["mode"] == "match" else "r"
            assert asker.oracle.sees(asker.world.stored[_what(entry)], letter), entry


async def lists(asker: Asker) -> None:
    one = asker.random.choice([s for s in asker.world.stored.values() if s.resource_type == "List"])
    type_ = asker.random.choice(TYPES)
    answer = await asker.ask("GET", f"{type_}?_list={one.id}&_count=1000")
    if answer.status_code == 200:
        items = {local(e["item"]) for e in one.now.get("entry", ())} if asker.oracle.sees(one, "s") else set()
        assert _found(answer) == items & asker.oracle.visible(type_, "s")


async def compartments(asker: Asker) -> None:
    patient = asker.random.choice([asker.reader.patient_id or "", *asker.world.patients[:8]])
    type_ = asker.random.choice((*TYPES, "*"))
    answer = await asker.ask("GET", f"Patient/{patient}/{type_}?_count=1000")
    if answer.status_code == 200:
        types = TYPES if type_ == "*" else (type_,)
        whole = {w for t in types for w in asker.oracle.visible(t, "s")}
        assert _found(answer) <= whole
        assert answer.json().get("total", 0) <= len(whole)


async def histories(asker: Asker) -> None:
    oracle, one = asker.oracle, asker.one()
    type_ = one.resource_type
    answer = await asker.ask("GET", f"{one.what}/_history?_count=1000")
    shown = {(one.what, n) for n in range(len(one.versions)) if oracle.sees_version(one, n, "r")}
    if not oracle.is_some(type_, "r"):
        assert answer.status_code == 403
    elif not shown:
        assert answer.status_code == 404
    else:
        assert _versions(answer.json().get("entry", ())) == shown
        assert answer.json().get("total", len(shown)) in (len(shown), len(shown) + one.deleted)
    whose = {type_} if asker.random.random() < 0.5 else set(TYPES)
    path = f"{type_}/_history?_count=" if len(whose) == 1 else "_history?_count="
    if not any(oracle.is_some(t, "s") for t in (whose if len(whose) == 1 else TYPES)):
        return
    entries, first = await asker.pages(path + asker.random.choice(("50", "1000")))
    assert "total" not in first
    assert _versions(entries) == {
        (s.what, n)
        for s in asker.world.stored.values()
        if s.resource_type in whose
        for n in range(len(s.versions))
        if oracle.sees_version(s, n, "s")
    }


async def operations(asker: Asker) -> None:
    patient = asker.random.choice([asker.reader.patient_id or "x", *asker.world.patients[:8]])
    path = asker.random.choice(
        (
            f"Patient/{patient}/$everything",
            f"Patient/{patient}/$everything?_count=5",
            "Patient/$everything?_count=100",
            f"Observation/$lastn?patient={patient}&max=3",
            "Observation/$lastn?subject:Patient.family=Alpha&max=3",
            f"{asker.one().what}/$validate?mode=delete",
        )
    )
    answer = await asker.ask("GET", path)
    if answer.status_code == 200 and "$validate" not in path:
        for what in _found(answer):
            one = asker.world.stored[what]
            assert any(asker.oracle.sees(one, letter) for letter in "rs"), what


async def bundles(asker: Asker) -> None:
    some = [asker.one() for _ in range(4)]
    type_ = asker.random.choice(TYPES)
    urls = [s.what for s in some] + [f"{some[0].what}/_history", f"{some[1].what}/_history/1"]
    urls += [f"{type_}?_summary=count", f"{type_}?_count=5&_revinclude=*", "_history?_count=20"]
    entry = [{"request": {"method": "GET", "url": url}} for url in asker.random.sample(urls, 5)]
    kind = asker.random.choice(("batch", "transaction"))
    answer = await asker.ask("POST", "", json={"resourceType": "Bundle", "type": kind, "entry": entry}, headers=JSON)
    if answer.status_code == 200:
        for asked, done in zip(entry, answer.json()["entry"], strict=True):
            if asked["request"]["url"] == f"{type_}?_summary=count" and done["response"]["status"].startswith("200"):
                assert done["resource"]["total"] == len(asker.oracle.visible(type_, "s"))


async def writes(asker: Asker) -> None:
    """What is not open to a change stays as it was, and answers as if it were not there."""
    oracle, one = asker.oracle, asker.one()
    type_ = one.resource_type
    if one.deleted or any(oracle.opens(content, letter) for content in one.versions for letter in "ud"):
        return
    hidden = not any(oracle.sees(one, letter) for letter in "rs")
    patch = '[{"op": "replace", "path": "/language", "value": "de"}]'
    json_patch = {"Content-Type": "application/json-patch+json"}

    async def done(id_: str) -> list[int]:
        content = {"resourceType": type_, "id": id_, "language": "de"}
        bundle = {"resourceType": "Bundle", "type": "transaction"}
        entry = [{"request": {"method": "DELETE", "url": f"{type_}/{id_}"}}]
        answers = [
            await asker.ask("PUT", f"{type_}/{id_}", json=content, headers=JSON),
            await asker.ask("PATCH", f"{type_}/{id_}", content=patch, headers=json_patch),
            await asker.ask("DELETE", f"{type_}/{id_}"),
            await asker.ask("PATCH", f"{type_}?_id={id_}", content=patch, headers=json_patch),
            await asker.ask("DELETE", f"{type_}?_id={id_}"),
            await asker.ask("POST", "", json={**bundle, "entry": entry}, headers=JSON),
        ]
        return [answer.status_code for answer in answers]

    told = await done(one.id)
    if hidden:
        assert told == await done("id-never")
    assert all(status in (200, 204, 400, 403, 404, 405, 412, 422) for status in told)
    now = await asker.client.get(one.what, headers=token("system/*.rs"))
    assert now.json()["meta"]["versionId"] == str(len(one.versions))


FORMS: tuple[Callable[[Asker], Any], ...] = (
    *(reads, searches, chains, includes, lists, compartments, histories, operations, bundles, writes),
)


def _what(entry: dict[str, Any]) -> str:
    return f"{entry['resource']['resourceType']}/{entry['resource']['id']}"


def _found(answer: httpx.Response) -> set[str]:
    resources = [e["resource"] for e in answer.json().get("entry", ())]
    return {f"{r['resourceType']}/{r['id']}" for r in resources if r["resourceType"] != "OperationOutcome"}


def _versions(entries: Any) -> set[tuple[str, int]]:
    return {(_what(e), int(e["resource"]["meta"]["versionId"]) - 1) for e in entries if "resource" in e}
