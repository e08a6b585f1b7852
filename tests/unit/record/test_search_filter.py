"""`_filter` (FHIR R4 search_filter.html): the grammar, each operator, the reader's rights, and `_list`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.record.searching import (
    BASE,
    LOINC,
    UCUM,
    found,
    observation,
    put,
    quantity,
    reader_of,
    resource,
    to,
)

from wetread.domain.reader import SYSTEM
from wetread.errors import Forbidden, InvalidInput, Refused, Unsupported
from wetread.record import resources
from wetread.record.search.filter_syntax import Both, Comparison, Either, Not, parse
from wetread.record.search.filters import ALL_OPERATORS
from wetread.record.search.parameters import parameters_of
from wetread.record.search.search import SearchRequest, search
from wetread.store.database import Database

OBSERVATION_STATUS = "http://hl7.org/fhir/ValueSet/observation-status"


@pytest.fixture(scope="module")
async def shelf(module_database: Database) -> Database:
    async with module_database.transaction() as conn:
        await put(
            conn,
            resource("Patient", "ann", name=[{"family": "Petersen", "given": ["Ann"]}], gender="female"),
            resource("Patient", "bob", name=[{"given": ["Peter", "Bob"]}], birthDate="2014-10", gender="male"),
            resource("Patient", "cy", name=[{"family": "O'Neill \\ (Jr]"}], birthDate="1980-05-05"),
            observation("one", "1-1", subject=to("Patient/ann"), valueQuantity=quantity(5.4, "mg")),
            observation("two", "2-2", subject=to("Patient/bob"), valueQuantity=quantity(0.01, "g")),
            observation(
                "three",
                "1-1",
                effectivePeriod={"start": "2024-01-01", "end": "2024-02-01"},
                derivedFrom=[to("Observation/one")],
            ),
            resource("List", "mine", status="current", mode="working", entry=[{"item": to("Patient/ann")}]),
            resource("List", "gone", status="current", mode="working", entry=[{"item": to("Patient/bob")}]),
        )
        await resources.delete(conn, SYSTEM, "List", "gone")
    return module_database


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('Patient?_filter=name co "pet"', "ann bob"),
        ('Patient?_filter=given eq "peter" and birthdate ge 2014-10-01', "bob"),
        ("Patient?_filter=given eq pete", ""),
        ("Patient?_filter=given ne peter", "ann bob"),
        ("Patient?_filter=given sw pet", "bob"),
        ("Patient?_filter=name ew sen", "ann"),
        ("Patient?_filter=family gt p", "ann"),
        ("Patient?_filter=family le p", "cy"),
        (r'Patient?_filter=family eq "O\'Neill \\ (Jr]"'.replace("\\'", "'"), "cy"),
        ("Patient?_filter=family pr true", "ann cy"),
        ("Patient?_filter=family pr false", "bob"),
        ("Patient?_filter=not(gender eq female)", "bob cy"),
        ("Patient?_filter=not (gender eq female) and birthdate pr true", "bob cy"),
        ("Patient?_filter=gender eq female or gender eq male and birthdate pr true", "bob"),  # from left to right
        ("Patient?_filter=gender eq female or (gender eq male and birthdate pr true)", "ann bob"),
        ("Patient?_filter=_id eq ann or _id eq cy", "ann cy"),
        ("Patient?_filter=_id ne ann and _lastUpdated gt 2020", "bob cy"),
        ("Patient?_filter=birthdate co 2014-10-05", "bob"),
        ("Patient?_filter=birthdate po 2014", "bob"),
        ("Patient?_filter=birthdate lt 2000", "cy"),
        ("Observation?_filter=date po 2024-01-31", "three"),
        ("Observation?_filter=date sa 2023 and date eb 2025", "three"),
        (f"Observation?_filter=code eq {LOINC}|2-2", "two"),
        ("Observation?_filter=code eq loinc|2-2", "two"),
        ("Observation?_filter=code ne loinc|1-1", "two"),
        (f"Observation?_filter=status in {OBSERVATION_STATUS}", "one three two"),
        (f"Observation?_filter=status ni {OBSERVATION_STATUS}", ""),
        (f"Observation?_filter=value-quantity gt 6|{UCUM}|mg", "two"),
        ("Observation?_filter=value-quantity le 6|ucum|mg", "one"),
        ("Observation?_filter=code-value-quantity eq loinc|1-1$le5.4", "one"),
        ("Observation?_filter=subject re Patient/ann", "one"),
        (f"Observation?_filter=subject re {BASE}/Patient/ann", "one"),
        ('Observation?_filter=subject.name co "pet"', "one two"),
        ("Observation?_filter=subject:Patient[gender eq male].name co pet", "two"),
        ("Observation?_filter=derived-from:Observation.subject.gender eq female", "three"),
        ("Observation?_filter=not(subject.name co pet)&code=1-1", "three"),
        ("Observation?subject:Patient._filter=gender eq male", "two"),
        ("Patient?_has:Observation:subject:_filter=value-quantity gt 6|ucum|mg", "bob"),
        ("Patient?_list=mine", "ann"),
        ("Patient?_list=List/mine", "ann"),
        ("Patient?_list=gone", ""),
        ("Observation?patient._list=mine", "one"),
    ],
)
async def test_a_filter_finds_what_it_says(shelf: Database, query: str, expected: str) -> None:
    async with shelf.transaction() as conn:
        assert sorted(await found(conn, query)) == expected.split()


@pytest.mark.parametrize(
    ("query", "error", "told"),
    [
        ("name", InvalidInput, "character 5"),
        ("name co", InvalidInput, "character 6"),
        ("name co pet and", InvalidInput, "character 16"),
        ("name co pet)", InvalidInput, "character 12"),
        ("(name co pet", InvalidInput, "character 13"),
        ('name co "pet', InvalidInput, "character 9"),
        ('name co "\\ud800"', InvalidInput, "surrogate"),
        ("name[given eq x] co y", InvalidInput, "full stop"),
        ("name co x not name co y", InvalidInput, "and or or"),
        ("(" * 21 + "name co x" + ")" * 21, InvalidInput, "nested"),
        (" and ".join(["name co x"] * 101), InvalidInput, "tests"),
        ("name co " + "x" * 4000, InvalidInput, "characters"),
        ("link:Patient.link:Patient.link:Patient.link:Patient.link:Patient.link:Patient.link:Patient.link:Patient."
         "link:Patient.name co x", InvalidInput, "links"),
        ("name zz x", InvalidInput, "'zz'"),
        ("bogus eq x", InvalidInput, "'bogus'"),
        ("birthdate eq soon", InvalidInput, "date"),
        ("name pr perhaps", InvalidInput, "true or false"),
        ("name po 2014", Unsupported, "operator po"),
        ("general-practitioner eq x", Unsupported, "operator eq"),
        ("_text co x", Unsupported, "operator co"),
        ("_lastUpdated po 2014", Unsupported, "operator po"),
        ("_id in x", Unsupported, "operator in"),
    ],
)  # fmt: skip
async def test_what_is_no_filter_here_is_refused_by_name(
    shelf: Database, query: str, error: type[Refused], told: str
) -> None:
    async with shelf.transaction() as conn:
        with pytest.raises(error) as caught:
            await search(conn, SYSTEM, SearchRequest("Patient", [("_filter", query)], BASE))
    assert told in caught.value.message
    assert type(caught.value) is error


async def test_a_filter_looks_only_where_the_reader_may(shelf: Database) -> None:
    async with shelf.transaction() as conn:
        asked = "Observation?_filter=subject:Patient.name co pet"
        assert await found(conn, asked, reader_of("Observation", "Patient")) == ["one", "two"]
        for refused in (
            asked,
            "Observation?_filter=subject.name co pet",
            "Observation?_filter=patient[name co x]._id eq y",
        ):
            with pytest.raises(Forbidden):
                await found(conn, refused, reader_of("Observation"))
        with pytest.raises(Forbidden):
            await found(conn, "Patient?_list=mine", reader_of("Patient"))
        with pytest.raises(Unsupported):
            await found(conn, "Patient?_list=$current-problems")


@pytest.mark.parametrize("modifier", ["in", "text", "below", "of-type"])
async def test_an_id_has_no_terminology(shelf: Database, modifier: str) -> None:
    async with shelf.transaction() as conn:
        with pytest.raises(InvalidInput):
            await found(conn, f"Patient?_id:{modifier}={OBSERVATION_STATUS}")


def test_a_word_of_the_grammar_may_be_the_name_of_a_parameter() -> None:
    one, two = Comparison((), "not", "eq", "a"), Comparison((), "and", "eq", "b")
    assert parse("not eq a and and eq b") == Both(one, two)
    assert parse(" not( not eq a )or and eq b ") == Either(Not(one), two)


codes = st.sampled_from([*sorted(parameters_of("Observation")), *sorted(parameters_of("Patient")), "_list", "_filter"])
PIECES = (
    '2024 -02 -30 T10:61 | $ \\ % * 1e5 -1 5.40 NaN loinc ucum mg true Patient/p Observation/o code \x00 " \\ud800 é'
)
values = st.one_of(
    st.lists(st.sampled_from(PIECES.split(" ")), min_size=1, max_size=4).map("".join),
    st.sampled_from(["true", "false", "2024", "5.4", f"5|{UCUM}|mg", "Patient/ann", OBSERVATION_STATUS, '"a b"']),
    st.text(max_size=10),
)
links = st.sampled_from(
    ["", "subject.", "subject:Patient.", "patient[name co a].", "link.", "has-member[status eq final]."]
)
tests = st.builds(
    lambda link, code, operator, value: f"{link}{code} {operator} {value}",
    links,
    codes,
    st.sampled_from([*ALL_OPERATORS, "zz"]),
    values,
)
trees = st.recursive(
    tests,
    lambda inner: st.one_of(
        st.builds(lambda a, word, b: f"{a} {word} {b}", inner, st.sampled_from(["and", "or", "not", ""]), inner),
        inner.map(lambda a: f"({a})"),
        inner.map(lambda a: f"not({a})"),
    ),
    max_leaves=5,
)


@given(st.one_of(trees, st.text(max_size=30)), st.sampled_from(["Observation", "Patient", "Bundle"]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_filter_is_a_fault_of_ours(shelf: Database, text: str, resource_type: Any) -> None:
    async with shelf.transaction() as conn:
        try:
            async with conn.transaction():
                await search(conn, SYSTEM, SearchRequest(resource_type, [("_filter", text)], BASE))
        except Refused as refusal:
            if refusal.http_status >= 500:
                raise
