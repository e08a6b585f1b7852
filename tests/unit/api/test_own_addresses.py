"""A reference by one of the server's own addresses means what is here: it is kept as it was sent, and found as
`Type/id` by everything that looks for it. Canonicals are found with and without the version that they name."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wetread.record.compartment import patients_named
from wetread.record.search.index import extract, reference_parts
from wetread.record.search.reindex import reindex
from wetread.store.database import Database

from .scoped import BASE, JSON, face, found, observation, ref, store, token

FORMER = "https://former.example/fhir"
ALL = token("system/*.cruds")
OWN = token("patient/*.cruds", "p1")
READ = token("patient/*.rs", "p1")
PEOPLE = [
    {"resourceType": "Patient", "id": "p1", "name": [{"family": "Own"}]},
    {"resourceType": "Patient", "id": "p2", "name": [{"family": "Other"}]},
]
BY = {
    "relative": "Patient/p1",
    "address": f"{BASE}/Patient/p1",
    "former": f"{FORMER}/Patient/p1",
    "version": f"{BASE}/Patient/p1/_history/1",
}
"""The ways to refer to one patient who is here, by the id of the Observation that does."""
HERE = {f"Observation/{way}" for way in BY}
ELSEWHERE = {
    "other": "https://elsewhere.example/fhir/Patient/p1",
    "longer": f"{BASE}x/Patient/p1",
    "deeper": f"{BASE}/x/Patient/p1",
    "plain": f"{BASE}/Patient/p1".replace("http:", "https:"),
}
"""What only looks like it."""


@pytest.fixture(scope="module")
async def client(module_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """Nobody writes to what these tests read."""
    await store(module_database, *PEOPLE, *(observation(id_, text) for id_, text in (BY | ELSEWHERE).items()))
    await store(module_database, observation("of-other", f"{BASE}/Patient/p2"))
    await store(
        module_database,
        {
            "resourceType": "Provenance",
            "id": "told",
            "target": [ref(f"{BASE}/Observation/address")],
            "recorded": "2026-01-01T00:00:00Z",
            "agent": [{"who": ref(f"{BASE}/Patient/p1")}],
        },
    )
    async with face(module_database) as client:
        yield client


async def test_what_was_sent_is_kept(client: httpx.AsyncClient) -> None:
    for id_, text in (BY | ELSEWHERE).items():
        read = await client.get(f"Observation/{id_}", headers=ALL)
        assert read.json()["subject"] == {"reference": text}


@pytest.mark.parametrize(
    "query",
    [
        "Observation?subject=Patient/p1",
        "Observation?subject=p1",
        "Observation?subject:Patient=p1",
        "Observation?patient=p1",
        f"Observation?subject={BASE}/Patient/p1",
        f"Observation?subject={FORMER}/Patient/p1",
        f"Observation?_filter=subject re {BASE}/Patient/p1",
        "Observation?patient.family=Own",
        "Observation?subject:Patient.family=Own",
        "Patient/p1/Observation",
    ],
)
async def test_all_who_refer_here_are_found(client: httpx.AsyncClient, query: str) -> None:
    assert found(await client.get(query, headers=ALL)) == HERE


async def test_what_is_elsewhere_is_found_by_its_own_address_alone(client: httpx.AsyncClient) -> None:
    for id_, text in ELSEWHERE.items():
        answer = await client.get("Observation", params={"subject": text}, headers=ALL)
        assert found(answer) == {f"Observation/{id_}"}


async def test_includes_follow_it_both_ways(client: httpx.AsyncClient) -> None:
    with_patient = await client.get("Observation?_id=address,former,other&_include=Observation:subject", headers=ALL)
    assert found(with_patient) == {"Observation/address", "Observation/former", "Observation/other", "Patient/p1"}
    of_patient = await client.get("Patient?_id=p1&_revinclude=Observation:subject", headers=ALL)
    assert found(of_patient) == {"Patient/p1", *HERE}
    assert found(await client.get("Patient?_has:Observation:subject:_id=former", headers=ALL)) == {"Patient/p1"}
    everything = await client.get("Patient/p1/$everything", headers=ALL)
    assert found(everything) == {"Patient/p1", "Provenance/told", *HERE}


async def test_a_patients_token_opens_it_and_nobody_elses(client: httpx.AsyncClient) -> None:
    assert found(await client.get("Observation", headers=READ)) == HERE
    assert found(await client.get("Observation", headers=token("patient/*.rs", "p2"))) == {"Observation/of-other"}
    assert found(await client.get("Provenance", headers=READ)) == {"Provenance/told"}
    assert (await client.get("Observation/address/_history/1", headers=READ)).status_code == 200
    for hidden in ("Observation/of-other", "Observation/of-other/_history/1", "Observation/other"):
        assert (await client.get(hidden, headers=READ)).status_code == 404


async def test_nobody_writes_by_an_address_into_what_is_anothers(database: Database) -> None:
    await store(database, *PEOPLE)
    async with face(database) as client:
        for text, status in ((f"{BASE}/Patient/p1", 201), (f"{BASE}/Patient/p2", 403), (ELSEWHERE["other"], 403)):
            sent = {k: v for k, v in observation("", text).items() if k != "id"}
            answer = await client.post("Observation", json=sent, headers={**OWN, **JSON})
            assert answer.status_code == status, (text, answer.text)


async def test_the_audit_names_the_patient(database: Database) -> None:
    await store(database, *PEOPLE, observation("o", f"{FORMER}/Patient/p1"))
    async with face(database) as client:
        for path in ("Observation/o", "Observation/o/_history/1", "Observation/o/_history", "Observation?_id=o"):
            assert (await client.get(path, headers=ALL)).status_code == 200
        answer = await client.get("AuditEvent?patient=p1", headers=ALL)
    assert len(found(answer)) == 4


def test_of_a_content_it_is_the_patient_who_is_here() -> None:
    content = observation("x", f"{FORMER}/Patient/p1")
    assert patients_named(content, (BASE, FORMER)) == ("p1",)
    assert patients_named(content, (BASE,)) == ()


async def test_a_new_address_counts_for_what_was_stored_before_once_it_is_indexed_anew(database: Database) -> None:
    before = Database(database.url)
    await before.open()
    await store(before, *PEOPLE, observation("o", f"{BASE}/Patient/p1"))
    await before.close()
    async with face(database) as client:
        assert found(await client.get("Observation?subject=Patient/p1", headers=ALL)) == set()
        async with database.transaction() as conn:
            assert await reindex(conn) is not None
        assert found(await client.get("Observation?subject=Patient/p1", headers=ALL)) == {"Observation/o"}
        assert found(await client.get("Observation", headers=READ)) == {"Observation/o"}


@given(
    kind=st.sampled_from(["Patient", "Observation", "Group"]),
    id_=st.from_regex(r"[A-Za-z0-9\-.]{1,64}", fullmatch=True),
    version=st.sampled_from(["", "/_history/3"]),
    base=st.sampled_from([BASE, FORMER]),
    other=st.text(alphabet="htps:/wreadxm.lfi", max_size=40),
)
def test_only_a_whole_address_of_ours_falls_away(kind: str, id_: str, version: str, base: str, other: str) -> None:
    relative = f"{kind}/{id_}{version}"
    assert reference_parts(f"{base}/{relative}", (BASE, FORMER)) == reference_parts(relative)
    strange = f"{base}{other}/{relative}"
    if other.startswith("/"):
        assert reference_parts(strange, (BASE, FORMER)).url
    else:
        assert reference_parts(strange, (BASE, FORMER)) == reference_parts(strange if other else relative)


PROTOCOL = "https://example.org/fhir/PlanDefinition/ct-head"


@pytest.fixture(scope="module")
async def canonicals(module_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    versions = {
        "none": PROTOCOL,
        "one": f"{PROTOCOL}|1.0",
        "two": f"{PROTOCOL}|2.0#head",
        "near": f"{PROTOCOL}-2|1.0",
        "here": f"{BASE}/PlanDefinition/own|1.0",
    }
    for id_, canonical in versions.items():
        order = {"status": "active", "intent": "order", "subject": ref("Patient/p1")}
        order |= {"instantiatesCanonical": [canonical], "meta": {"profile": [canonical.partition("#")[0]]}}
        await store(module_database, {"resourceType": "ServiceRequest", "id": id_, **order})
    async with face(module_database) as client:
        yield client


@pytest.mark.parametrize("name", ["instantiates-canonical", "_profile"])
@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        (PROTOCOL, {"none", "one", "two"}),
        (f"{PROTOCOL}|1.0", {"one"}),
        (f"{PROTOCOL}\\|1.0", {"one"}),
        (f"{PROTOCOL}|2.0", {"two"}),
        (f"{PROTOCOL}|3.0", set()),
        (f"{PROTOCOL}|1.0,{PROTOCOL}|2.0", {"one", "two"}),
        (f"{BASE}/PlanDefinition/own", {"here"}),
        (f"{BASE}/PlanDefinition/own|1.0", {"here"}),
        (f"{BASE}/PlanDefinition/own|2.0", set()),
    ],
)
async def test_a_canonical_is_found_in_any_version_or_in_the_one_asked_for(
    canonicals: httpx.AsyncClient, name: str, asked: str, matches: set[str]
) -> None:
    answer = await canonicals.get("ServiceRequest", params={name: asked}, headers=ALL)
    assert found(answer) == {f"ServiceRequest/{id_}" for id_ in matches}


async def test_a_canonical_by_our_address_leads_to_what_has_that_url_or_that_id(database: Database) -> None:
    form = {"resourceType": "Questionnaire", "status": "active"}
    answer = {"resourceType": "QuestionnaireResponse", "status": "completed"}
    await store(
        database,
        {**form, "id": "by-url", "url": f"{BASE}/Questionnaire/other"},
        {**form, "id": "by-id"},
        {**answer, "id": "a", "questionnaire": f"{BASE}/Questionnaire/other|1.0"},
        {**answer, "id": "b", "questionnaire": f"{BASE}/Questionnaire/by-id"},
    )
    async with face(database) as client:
        both = await client.get("QuestionnaireResponse?_include=QuestionnaireResponse:questionnaire", headers=ALL)
    assert found(both) == {
        "QuestionnaireResponse/a",
        "QuestionnaireResponse/b",
        "Questionnaire/by-url",
        "Questionnaire/by-id",
    }


@pytest.fixture(scope="module")
async def forms(module_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """A questionnaire by its url, and answers to it; one of them of a patient, and one to another questionnaire."""
    form, url = {"resourceType": "Questionnaire", "status": "active"}, "https://example.org/Questionnaire/ct"
    answer = {"resourceType": "QuestionnaireResponse", "status": "completed"}
    await store(
        module_database,
        {**form, "id": "ct", "url": url, "title": "Contrast"},
        {**form, "id": "mr", "url": f"{url}-mr", "title": "Magnet"},
        {**answer, "id": "plain", "questionnaire": url, "subject": ref("Patient/p1")},
        {**answer, "id": "versioned", "questionnaire": f"{url}|2.1"},
        {**answer, "id": "by-id", "questionnaire": "Questionnaire/ct"},
        {**answer, "id": "other", "questionnaire": f"{url}-mr"},
    )
    async with face(module_database) as client:
        yield client


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("QuestionnaireResponse?questionnaire.title=contrast", {"plain", "versioned", "by-id"}),
        ("QuestionnaireResponse?questionnaire:Questionnaire.title=magnet", {"other"}),
        ("QuestionnaireResponse?_filter=questionnaire.title co contrast", {"plain", "versioned", "by-id"}),
        ("Questionnaire?_has:QuestionnaireResponse:questionnaire:status=completed", {"ct", "mr"}),
        ("Questionnaire?_has:QuestionnaireResponse:questionnaire:subject=Patient/p1", {"ct"}),
    ],
)
async def test_chains_follow_canonicals(forms: httpx.AsyncClient, query: str, matches: set[str]) -> None:
    kind = query.partition("?")[0]
    assert found(await forms.get(query, headers=ALL)) == {f"{kind}/{id_}" for id_ in matches}


async def test_so_do_includes_both_ways_as_far_as_the_reader_may_see(forms: httpx.AsyncClient) -> None:
    back = "Questionnaire?_id=ct&_revinclude=QuestionnaireResponse:questionnaire"
    answers = {f"QuestionnaireResponse/{id_}" for id_ in ("plain", "versioned", "by-id")}
    assert found(await forms.get(back, headers=ALL)) == {"Questionnaire/ct", *answers}
    own = token("patient/*.rs patient/Questionnaire.rs", "p1")
    assert found(await forms.get(back, headers=own)) == {"Questionnaire/ct", "QuestionnaireResponse/plain"}
    having = "Questionnaire?_has:QuestionnaireResponse:questionnaire:status=completed"
    assert found(await forms.get(having, headers=own)) == {"Questionnaire/ct"}
    there = "QuestionnaireResponse?_id=plain,other&_include=QuestionnaireResponse:questionnaire"
    assert len(found(await forms.get(there, headers=ALL))) == 4


def test_a_reference_without_version_has_one_row() -> None:
    """Only a version costs a row more."""
    entries = extract(observation("x", "Patient/p1"), (BASE,))
    assert {row[:4] for row in entries.reference} == {
        ("subject", "Patient", "p1", ""),
        ("patient", "Patient", "p1", ""),
    }
