"""A next link is for the reader that got it, on servers of the same site."""

from __future__ import annotations

import httpx
import pytest
from tests.unit.api.conftest import Calls

from wetread.record.cursors import Cursors
from wetread.store.database import Database

OBSERVER = {"Authorization": "Bearer observations"}
ROW = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}


async def next_of(client: httpx.AsyncClient, url: str) -> str:
    page = (await client.get(url)).json()
    return next(str(link["url"]) for link in page["link"] if link["relation"] == "next")


@pytest.mark.parametrize(
    "url", ["Observation?_count=1", "Observation?_count=1&_sort=-date", "Observation/_history?_count=1"]
)
async def test_a_cursor_of_another_reader_or_server_is_refused_with_an_outcome(
    database: Database, calls: Calls, url: str
) -> None:
    site = Cursors(b"1" * 32)
    async with calls(database, cursors=site) as client, calls(database, cursors=site) as sister:
        for _ in range(3):
            assert (await client.post("Observation", json=ROW)).status_code == 201
        following = await next_of(client, url)
        assert (await client.get(following)).status_code == 200
        assert (await sister.get(following)).status_code == 200
        async with calls(database, cursors=Cursors(b"2" * 32)) as stranger:
            refused = [await client.get(following, headers=OBSERVER), await stranger.get(following)]
    for answer in refused:
        assert answer.status_code == 400
        issue = answer.json()["issue"][0]
        assert (issue["code"], issue["expression"]) == ("invalid", ["http._cursor"])


async def test_a_cursor_goes_with_its_search_alone(database: Database, calls: Calls) -> None:
    async with calls(database) as client:
        for _ in range(2):
            await client.post("Observation", json=ROW)
        following = await next_of(client, "Observation?_count=1&status=final")
        assert (await client.get(following.replace("_count=1", "_count=5"))).status_code == 200
        assert (await client.get(following.replace("status=final", "status=amended"))).status_code == 400
        assert (await client.get(following.replace("Observation?", "Patient?"))).status_code == 400


async def test_a_search_in_a_bundle_gives_cursors_of_the_site(database: Database, calls: Calls) -> None:
    batch = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [{"request": {"method": "GET", "url": "Observation?_count=1"}}],
    }
    async with calls(database, cursors=Cursors(b"1" * 32)) as client:
        for _ in range(2):
            await client.post("Observation", json=ROW)
        found = (await client.post("", json=batch)).json()["entry"][0]["resource"]
        following = next(link["url"] for link in found["link"] if link["relation"] == "next")
        assert len((await client.get(following)).json()["entry"]) == 1
