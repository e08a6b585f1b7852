"""However odd a search is, it is answered or refused; it is never a fault of ours."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.record.searching import BASE, observation, put, quantity, resource, to

from wetread.domain.reader import SYSTEM
from wetread.errors import Refused
from wetread.record.search.parameters import parameters_of
from wetread.record.search.query import MODIFIERS
from wetread.record.search.search import SearchRequest, search
from wetread.store.database import Database

TYPES = ("Observation", "Patient", "DiagnosticReport", "Location", "MolecularSequence", "ValueSet", "Group")
CONTROLS = ("_count", "_sort", "_total", "_summary", "_elements", "_include", "_revinclude", "_cursor", "_list")
modifiers = st.sampled_from(["", *sorted({f":{m}" for ms in MODIFIERS.values() for m in ms}), ":Patient", ":iterate"])


def names(resource_type: str) -> st.SearchStrategy[str]:
    own = st.sampled_from([*sorted(parameters_of(resource_type)), *CONTROLS, "_filter", "bogus"])
    anyone = st.sampled_from(sorted({code for t in TYPES for code in parameters_of(t)}))
    link = st.builds(str.__add__, own, st.sampled_from(["", ":Patient", ":Observation", ":Nonsense"]))
    chain = st.lists(st.one_of(link, anyone), min_size=2, max_size=4).map(".".join)
    has = st.builds(lambda t, p, n: f"_has:{t}:{p}:{n}", st.sampled_from(TYPES), anyone, anyone)
    return st.one_of(st.builds(str.__add__, own, modifiers), chain, has, st.text(max_size=12))


PIECES = (
    "eq ne ge sa ap 2024 -02 -30 T 10:61 +14:00 9999 | , $ \\ % * 1e5 -1 5.40 NaN Infinity 1e-999 mg [degF] true false"
    " http://unitsofmeasure.org http://loinc.org Patient/p Observation:subject : - -date code W10 ' \" or ( \x00"
)
words = st.sampled_from(PIECES.split(" "))
values = st.one_of(st.lists(words, max_size=5).map("".join), st.text(max_size=20))


@pytest.fixture(scope="module")
async def shelf(module_database: Database) -> Database:
    async with module_database.transaction() as conn:
        await put(conn, resource("Patient", "p", name=[{"family": "Ann"}]))
        await put(conn, observation("o", subject=to("Patient/p"), valueQuantity=quantity(5, "mg")))
    return module_database


searches = st.sampled_from(TYPES).flatmap(
    lambda t: st.tuples(st.just(t), st.lists(st.tuples(names(t), values), min_size=1, max_size=3))
)


@given(searches, st.booleans(), st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_search_is_a_fault_of_ours(
    shelf: Database, asked: tuple[str, list[tuple[str, str]]], strict: bool, whole: bool
) -> None:
    resource_type, params = asked
    async with shelf.transaction() as conn:
        try:
            async with conn.transaction():
                if whole:
                    await search(
                        conn, SYSTEM, SearchRequest("", [("_type", f"{resource_type},Patient"), *params], BASE)
                    )
                else:
                    await search(conn, SYSTEM, SearchRequest(resource_type, params, BASE, strict=strict))
        except Refused as refusal:
            if refusal.http_status >= 500:
                raise
