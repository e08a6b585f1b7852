"""What the site stores of code systems is read once for each version, and a write counts at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wetread.domain.reader import SYSTEM
from wetread.record import resources
from wetread.record.terminology import code_system, definitions
from wetread.record.terminology.code_system import CodeSystem
from wetread.record.terminology.stored import Kept
from wetread.store.database import Connection, Database

URL = "https://site.example/scanners"


def codes(*names: str, id_: str = "scanners", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "CodeSystem",
        "id": id_,
        "status": "active",
        "content": "complete",
        "url": URL,
        "concept": [{"code": name} for name in names],
        **more,
    }


def supplement(id_: str, code: str, german: str) -> dict[str, Any]:
    concept = {"code": code, "designation": [{"language": "de", "value": german}]}
    content = codes(id_=id_, url=f"{URL}-{id_}", content="supplement", supplements=URL)
    return {**content, "concept": [concept]}


async def held(conn: Connection, version: str = "") -> set[str] | None:
    found = await definitions.code_system_of(conn, URL, version)
    return set(found.concepts) if found else None


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The urls of the code systems that were built from their texts."""
    urls: list[str] = []
    read = code_system.read

    def counted(definition: Any, additions: Any = ()) -> CodeSystem:
        urls.append(definition["url"])
        return read(definition, additions)

    monkeypatch.setattr(code_system, "read", counted)
    return urls


async def test_each_version_is_built_once(database: Database, built: list[str]) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, codes("ct"))
    for _ in range(3):
        async with database.statements() as conn:
            assert await held(conn) == {"ct"}
    assert built == [URL]


async def test_a_write_counts_in_its_transaction_and_then_for_all(database: Database, built: list[str]) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, codes("ct"))
    async with database.statements() as other:
        assert await held(other) == {"ct"}
        async with database.transaction() as conn:
            await resources.put(conn, codes("ct", "mr"))
            assert await held(conn) == {"ct", "mr"}
            assert await held(other) == {"ct"}
        assert await held(other) == {"ct", "mr"}
    assert built == [URL, URL]


async def test_what_was_rolled_back_is_not_taken_for_the_version_that_took_its_number(database: Database) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, codes("ct"))
    async with database.statements() as conn, conn.transaction(force_rollback=True):
        first = await resources.put(conn, codes("never"))
        assert await held(conn) == {"never"}
    async with database.transaction() as conn:
        assert await held(conn) == {"ct"}
        second = await resources.put(conn, codes("ct", "mr"))
        await conn.execute("UPDATE resource SET last_updated = %s", (first.last_updated,))
        assert second.version_id == first.version_id
        assert await held(conn) == {"ct", "mr"}


async def test_what_is_deleted_is_not_held(database: Database) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, codes("ct"))
        assert await held(conn) == {"ct"}
        await resources.delete(conn, SYSTEM, "CodeSystem", "scanners")
        assert await held(conn) is None


async def test_a_supplement_counts_at_once(database: Database) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, codes("ct", "mr"))
        before = await definitions.code_system_of(conn, URL)
        assert before is not None
        assert not before.concepts["ct"].designations
        await resources.put(conn, supplement("german", "ct", "Computertomograph"))
        after = await definitions.code_system_of(conn, URL)
        assert after is not None
        assert after.concepts["ct"].designations[0]["value"] == "Computertomograph"


async def test_of_two_stored_versions_each_is_held(database: Database) -> None:
    async with database.transaction() as conn:
        await resources.put(conn, codes("ct", version="1.0", id_="one"))
        await resources.put(conn, codes("ct", "mr", version="2.0", id_="two"))
        assert await held(conn) == {"ct", "mr"}
        assert await held(conn, "1.0") == {"ct"}
        assert await held(conn, "3.0") is None
        assert await held(conn, "1.0") == {"ct"}


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(min_value=0, max_value=12)), max_size=40))
def test_what_is_kept_is_never_larger_than_allowed_and_the_last_asked_for_stays(asked: list[tuple[str, int]]) -> None:
    kept: Kept[str, int] = Kept(20)
    sizes: dict[str, int] = {}
    for key, size in asked:
        kept.keep(key, size, size)
        sizes[key] = size
        assert kept.get(key) == size
        there = [k for k in sizes if kept.get(k) is not None]
        assert sum(sizes[k] for k in there) <= 20
        assert kept.get(key) == size
    kept.keep("too large", 1, 21)
    assert kept.get("too large") is None
