"""A page ends when what is on it is long; the pages together are the whole all the same."""

from __future__ import annotations

import base64
import json
import os
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from tests.unit.record.searching import BASE, entries, next_page, put, resource, to

from wetread.domain.reader import SYSTEM
from wetread.errors import TooCostly
from wetread.record import events, history
from wetread.record.page import MOST_BYTES, PAGE_BYTES
from wetread.record.search.search import SearchRequest, search
from wetread.store.database import Connection, Database

MEGABYTE = base64.b64encode(os.urandom(786_432)).decode()


def scan(number: int, **more: Any) -> dict[str, Any]:
    return resource("Binary", f"b{number:02}", contentType="application/x", data=MEGABYTE, **more)


def document(number: int, *scans: int) -> dict[str, Any]:
    content = [{"attachment": {"title": "x"}}]
    about = [to(f"Binary/b{scan:02}") for scan in scans]
    return resource("DocumentReference", f"d{number}", status="current", content=content, context={"related": about})


@pytest.fixture(scope="module")
async def long(module_database: Database) -> Database:
    """Eleven Binary resources of 1 MB, and documents that refer to 3, to 3 and to all of them."""
    async with module_database.transaction() as conn:
        await put(conn, *(scan(number) for number in range(11)))
        await put(conn, document(0, 0, 1, 2), document(1, 2, 3, 4), document(2))
    async with module_database.transaction() as conn:
        await events.settle(conn)
    return module_database


async def walk(conn: Connection, resource_type: str, params: list[tuple[str, str]]) -> list[tuple[list[str], set[str]]]:
    """The matches and the included of each page, none of which is longer than it may be."""
    asked: list[tuple[str, str]] | None = params
    pages = []
    while asked is not None:
        page = await search(conn, SYSTEM, SearchRequest(resource_type, asked, BASE, strict=True))
        assert len(page.body) < PAGE_BYTES + len(MEGABYTE) + 10_000
        pages.append((entries(page, "match"), set(entries(page, "include"))))
        asked = next_page(page)
    return pages


@pytest.mark.parametrize("sort", ["", "_lastUpdated", "-_lastUpdated", "-_id"])
async def test_a_search_has_more_pages_where_resources_are_long(long: Database, sort: str) -> None:
    async with long.transaction() as conn:
        pages = await walk(conn, "Binary", [("_count", "1000"), *([("_sort", sort)] if sort else [])])
    ids = [id_ for page, _ in pages for id_ in page]
    assert [len(page) for page, _ in pages] == [4, 4, 3]
    assert ids == sorted(ids, reverse=sort.startswith("-"))
    assert len(set(ids)) == 11


async def test_a_page_counts_what_it_includes(long: Database) -> None:
    params = [("_include", "DocumentReference:related")]
    async with long.transaction() as conn:
        pages = await walk(conn, "DocumentReference", params)
    assert pages == [(["d0"], {"b00", "b01", "b02"}), (["d1", "d2"], {"b02", "b03", "b04"})]


async def test_one_match_may_include_more_than_a_page_but_not_without_end(
    long: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with long.transaction() as conn:
        await put(conn, document(9, *range(11)))
        asked = [("_id", "d9"), ("_include", "DocumentReference:related")]
        whole = await search(conn, SYSTEM, SearchRequest("DocumentReference", asked, BASE))
        assert PAGE_BYTES < len(whole.body) < MOST_BYTES
        assert len(entries(whole, "include")) == 11
        monkeypatch.setattr("wetread.record.search.search.MOST_BYTES", 8 * 1024 * 1024)
        with pytest.raises(TooCostly):
            await search(conn, SYSTEM, SearchRequest("DocumentReference", asked, BASE))
        await conn.execute("DELETE FROM resource WHERE id = 'd9'")


async def test_pages_that_hold_still_are_cut_where_what_was_changed_is_long(database: Database) -> None:
    async with database.transaction() as conn:
        await put(conn, *(scan(number) for number in range(9)))
    async with database.transaction() as conn:
        first = await search(conn, SYSTEM, SearchRequest("Binary", [("_sort", "_lastUpdated"), ("_count", "3")], BASE))
    seen = entries(first, "match")
    async with database.transaction() as conn:
        await put(conn, *(scan(number, meta={"tag": [{"code": "new"}]}) for number in (8, 3, 5, 0)))
    asked = next_page(first)
    async with database.transaction() as conn:
        while asked is not None:
            asked = [("_count", "100") if name == "_count" else (name, value) for name, value in asked]
            page = await search(conn, SYSTEM, SearchRequest("Binary", asked, BASE))
            assert len(page.body) < PAGE_BYTES + len(MEGABYTE) + 10_000
            seen += entries(page, "match")
            asked = next_page(page)
    assert seen == [f"b{number:02}" for number in range(9)]


@pytest.mark.parametrize("level", ["system", "type", "resource"])
async def test_a_history_has_more_pages_where_versions_are_long(long: Database, level: str) -> None:
    async with long.transaction() as conn:
        if level == "resource":
            await put(conn, *(scan(50, meta={"tag": [{"code": f"t{version}"}]}) for version in range(6)))
        asked: list[tuple[str, str]] | None = [("_count", "1000")]
        found = []
        while asked is not None:
            match level:
                case "system":
                    page = await history.of_system(conn, SYSTEM, asked, BASE)
                case "type":
                    page = await history.of_type(conn, SYSTEM, "Binary", asked, BASE)
                case _:
                    page = await history.of_resource(conn, SYSTEM, "Binary", "b50", asked, BASE)
            assert len(page.body) < PAGE_BYTES + len(MEGABYTE) + 10_000
            content = json.loads(page.body)
            found.append([entry["resource"]["id"] for entry in content["entry"]])
            links = {link["relation"]: link["url"] for link in content["link"]}
            asked = parse_qsl(urlsplit(links["next"]).query) if "next" in links else None
        await conn.execute("DELETE FROM resource WHERE id = 'b50'")
    sizes, ids = [len(page) for page in found], [id_ for page in found for id_ in page]
    if level == "resource":
        assert (sizes, set(ids)) == ([4, 2], {"b50"})
    else:
        assert ids[-11:] == [f"b{number:02}" for number in range(10, -1, -1)]
        assert len(ids) == len(set(ids)) == (14 if level == "system" else 11)
        assert max(sizes) <= 7
