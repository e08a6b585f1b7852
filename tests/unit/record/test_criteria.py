"""Search parameters asked of one version in memory: the same answer as the search gives, on R4's own examples."""

from __future__ import annotations

import random
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, LiteralString

import pytest

from wetread.domain.reader import SYSTEM
from wetread.errors import InvalidInput, Unsupported
from wetread.record import lossless, resources
from wetread.record.search import query
from wetread.record.search.index import Extraction
from wetread.record.search.parameters import FULL_TEXT, SearchParameter, parameters_of
from wetread.record.subscriptions import criteria
from wetread.store.database import Connection, Database

ARCHIVE = Path(__file__).parents[2] / "data/fhir/examples.tar.xz"
TYPES = {
    *("Observation", "DiagnosticReport", "ImagingStudy", "Task", "ServiceRequest", "Patient", "Encounter"),
    *("RiskAssessment", "MolecularSequence", "ChargeItem", "Invoice", "Subscription", "Device", "Media"),
}
BASE = "https://wetread.example/fhir"
PREFIXES = ("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")


@pytest.fixture(scope="module")
async def stored(module_database: Database) -> dict[str, dict[str, Extraction]]:
    """By type and id: what the server holds, as a subscription sees it."""
    with tarfile.open(ARCHIVE) as archive:
        texts = [stream.read().decode("utf-8-sig") for m in archive if (stream := archive.extractfile(m))]
    found: dict[str, dict[str, Extraction]] = defaultdict(dict)
    async with module_database.transaction() as conn:
        for text in texts:
            if lossless.parse(text)["resourceType"] in TYPES:
                created, _ = await resources.create(conn, text, reader=SYSTEM)
                found[created.resource_type][created.id] = Extraction(created.resource())
    return found


async def _by_search(conn: Connection, resource_type: str, name: str, value: str) -> set[str]:
    wanted = await query.matching(conn, SYSTEM, resource_type, [(name, value)], BASE)
    select: LiteralString = "SELECT r.id FROM resource r WHERE NOT r.deleted AND r.resource_type = %s AND ("
    rows = await conn.execute(select + wanted.sql + ")", (resource_type, *wanted.args))
    return {row[0] for row in await rows.fetchall()}


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in ",|$\\" else c for c in text)


def _token(row: Any, dice: random.Random) -> Iterator[tuple[str, str]]:
    system, code, text = (_escaped(part) for part in row[:3])
    for modifier in ("", ":not"):
        yield modifier, dice.choice([f"{system}|{code}", code, f"|{code}", f"{system}|", f"{code},{system}|none"])
    if text:
        yield ":text", text.partition("\n")[2][:9] or text[:5].upper()


def _reference(row: Any, dice: random.Random) -> Iterator[tuple[str, str]]:
    target_type, target_id, url, system, code = (_escaped(part) for part in row[:5])
    local = f"{target_type}/{target_id}"
    yield "", url or dice.choice([target_id, local, f"{BASE}/{local}", f"{local}/_history/1"])
    if target_type:
        yield f":{dice.choice([target_type, 'Patient'])}", target_id or "none"
    if code:
        yield ":identifier", dice.choice([f"{system}|{code}", code])


def _string(row: Any, dice: random.Random) -> Iterator[tuple[str, str]]:
    folded, exact = _escaped(row[0]), _escaped(row[1])
    middle = row[0][len(row[0]) // 3 :][:6].strip()
    yield from [("", folded[:5].upper()), ("", exact), (":exact", exact), (":exact", folded)]
    if middle:
        yield ":contains", _escaped(middle)


def _uri(row: Any, dice: random.Random) -> Iterator[tuple[str, str]]:
    yield from [("", row[0]), (":below", row[0][: len(row[0]) // 2]), (":above", f"{row[0]}/more")]


def _date(row: Any, dice: random.Random) -> Iterator[tuple[str, str]]:
    moment = row[dice.randrange(2)].isoformat()
    yield "", dice.choice(PREFIXES) + moment[: dice.choice([4, 7, 10, len(moment)])].replace("+", "%2B")[:10]
    yield "", dice.choice(PREFIXES) + row[0].isoformat().replace("+00:00", "Z")


def _number(row: Any, dice: random.Random) -> Iterator[tuple[str, str]]:
    if row[0].is_finite():
        yield "", f"{dice.choice(PREFIXES)}{round(row[0], dice.randrange(4)):f}"


def _quantity(row: Any, dice: random.Random) -> Iterator[tuple[str, str]]:
    for modifier, number in _number(row, dice):
        yield (
            modifier,
            dice.choice([number, f"{number}|{row[2]}|{row[3]}", f"{number}||{row[4]}", f"{number}|{row[2]}|"]),
        )
        if row[3] == "mmol/L":
            yield "", f"{dice.choice(PREFIXES)}{row[0] * Decimal(1000)}|http://unitsofmeasure.org|umol/L"


ASK = {
    "token": _token,
    "reference": _reference,
    "string": _string,
    "uri": _uri,
    "date": _date,
    "number": _number,
    "quantity": _quantity,
}


def _asked(parameter: SearchParameter, held: dict[str, Extraction], dice: random.Random) -> Iterator[tuple[str, str]]:
    """Queries made of what the resources hold, so that most of them match something and miss something."""
    yield f"{parameter.code}:missing", dice.choice(["true", "false"])
    rows = sorted((r for e in held.values() for r in e.rows(parameter.code) if r[0] == parameter.code), key=str)
    for row in dice.sample(rows, min(4, len(rows))):
        for modifier, value in ASK[parameter.kind](row[1:], dice):
            if value.strip(" |"):
                yield f"{parameter.code}{modifier}", value


async def test_in_memory_every_simple_parameter_means_what_it_means_in_a_search(
    module_database: Database, stored: dict[str, dict[str, Extraction]]
) -> None:
    dice = random.Random(20261122)
    differ, kinds, matched = [], Counter[str](), 0
    async with module_database.transaction() as conn:
        for resource_type, held in sorted(stored.items()):
            for parameter in parameters_of(resource_type).values():
                if parameter.kind == "composite" or parameter.code in FULL_TEXT:
                    continue
                for name, value in _asked(parameter, held, dice):
                    try:
                        by_search = await _by_search(conn, resource_type, name, value)
                    except InvalidInput:
                        with pytest.raises(Unsupported):
                            criteria.Test.parse(resource_type, name, value, (BASE,))
                        continue
                    test = criteria.Test.parse(resource_type, name, value, (BASE,))
                    in_memory = {id_ for id_, entries in held.items() if test.passes(entries)}
                    kinds[test.kind] += 1
                    matched += bool(in_memory)
                    if in_memory != by_search:
                        differ.append((resource_type, name, value, in_memory ^ by_search))
    assert not differ
    assert kinds.keys() == ASK.keys()
    assert min(kinds.values()) >= 5
    assert sum(kinds.values()) > 800
    assert matched > sum(kinds.values()) / 2


@pytest.mark.parametrize(
    ("resource_type", "name", "value"),
    [
        ("Observation", "component-code-value-quantity", "http://loinc.org|8480-6$gt100"),
        ("Observation", "component-code-value-quantity", "http://loinc.org|8480-6$lt80"),
        ("Observation", "code-value-quantity", "http://loinc.org|15074-8$gt6"),
        ("Observation", "combo-code-value-concept", "http://loinc.org|8480-6$http://snomed.info/sct|1"),
        ("Observation", "code-value-string", "none$none"),
        ("Observation", "component-code-value-quantity:missing", "false"),
        ("Observation", "_lastUpdated", "gt2020"),
        ("Observation", "_lastUpdated", "lt2020,ap2020"),
        ("Observation", "_id:not", "none"),
    ],
)
async def test_so_do_composites_and_what_the_search_has_in_columns(
    module_database: Database,
    stored: dict[str, dict[str, Extraction]],
    resource_type: str,
    name: str,
    value: str,
) -> None:
    test = criteria.Test.parse(resource_type, name, value)
    async with module_database.transaction() as conn:
        by_search = await _by_search(conn, resource_type, name, value)
    assert {id_ for id_, entries in stored[resource_type].items() if test.passes(entries)} == by_search


async def test_an_id_finds_its_own_resource_alone(stored: dict[str, dict[str, Extraction]]) -> None:
    some = next(iter(stored["Patient"]))
    [test] = criteria.parsed("Patient", f"_id={some}")
    assert [id_ for id_, entries in stored["Patient"].items() if test.passes(entries)] == [some]


@pytest.mark.parametrize(
    ("name", "value", "values"),
    [
        ("patient", f"{BASE}/Patient/p1,p2", ("Patient/p1", "p2")),
        ("patient", "Patient/p1/_history/3", ("Patient/p1",)),
        ("patient", "https://other.example/Patient/p1", ("https://other.example/Patient/p1",)),
        ("patient:identifier", "urn:x|1", ("urn:x|1",)),
        ("code", "http://loinc.org|1-1,2-2", ("http://loinc.org|1-1", "2-2")),
        ("code:not", "http://loinc.org|", ("http://loinc.org|",)),
        ("value-string", r"a\,b", ("a,b",)),
    ],
)
def test_values_are_spelt_as_index_entries_spell_them(name: str, value: str, values: tuple[str, ...]) -> None:
    test = criteria.Test.parse("Observation", name, value, (BASE,))
    assert (test.param, test.modifier, test.values) == (*name.partition(":")[::2], values)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("colour", "red", "no search parameter 'colour'"),
        ("patient.name", "Ann", "chains"),
        ("subject:Patient.name", "Ann", "chains"),
        ("_has:Provenance:target:agent", "x", "chains"),
        ("_filter", "code eq x", "chains"),
        ("_list", "x", "chains"),
        ("_text", "word", "full text"),
        ("code:in", "http://example.org/vs", "list the codes"),
        ("code:below", "http://snomed.info/sct|1", "list the codes"),
        ("code:exact", "x", "modifier :exact"),
        ("status:missing", "perhaps", "true or false"),
        ("date", "someday", "FHIR date"),
        ("value-quantity", "many", "number"),
        ("patient", "", "empty reference"),
        ("code", "a|b|c", "expected code"),
        ("code", ",".join(map(str, range(501))), "500 values"),
    ],
)
def test_what_cannot_be_told_from_the_resource_is_refused_in_words(name: str, value: str, told: str) -> None:
    with pytest.raises(Unsupported, match=told) as refusal:
        criteria.Test.parse("Observation", name, value)
    assert refusal.value.http_status == 422


def test_a_type_that_is_not_stored_is_refused() -> None:
    with pytest.raises(Unsupported, match="no type"):
        criteria.Test.parse("AuditEvent", "date", "2026")
