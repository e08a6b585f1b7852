"""History of one resource, of a type and of everything (FHIR R4 http.html 3.1.0.15)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from wetread.record.search import search
from wetread.store.database import Database

JSON = {"Content-Type": "application/fhir+json"}


@pytest.fixture
def client(fhir_client: httpx.AsyncClient) -> httpx.AsyncClient:
    return fhir_client


async def put(client: httpx.AsyncClient, path: str, **more: Any) -> httpx.Response:
    resource_type, _, id_ = path.partition("/")
    basics: dict[str, Any] = {"Basic": {"code": {"text": "x"}}}
    resource = {"resourceType": resource_type, "id": id_, **basics.get(resource_type, {}), **more}
    return await client.put(path, json=resource, headers=JSON)


def told(bundle: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(e["request"]["method"], e["request"]["url"], e["response"]["etag"]) for e in bundle.get("entry", [])]


async def pages(client: httpx.AsyncClient, url: str | None) -> list[list[tuple[str, str, str]]]:
    found = []
    while url:
        page = (await client.get(url)).json()
        found.append(told(page))
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
    return found


async def test_every_interaction_stands_in_the_order_in_which_it_was_done(client: httpx.AsyncClient) -> None:
    posted = (await client.post("Patient", json={"resourceType": "Patient"}, headers=JSON)).json()["id"]
    await put(client, "Basic/b")
    await put(client, "Patient/p")
    await put(client, "Patient/p", active=True)
    await client.delete("Patient/p")
    await put(client, "Patient/p", active=False)
    everything = [
        ("PUT", "Patient/p", 'W/"4"'),
        ("DELETE", "Patient/p", 'W/"3"'),
        ("PUT", "Patient/p", 'W/"2"'),
        ("PUT", "Patient/p", 'W/"1"'),
        ("PUT", "Basic/b", 'W/"1"'),
        ("POST", "Patient", 'W/"1"'),
    ]
    system = (await client.get("_history")).json()
    assert (system["resourceType"], system["type"]) == ("Bundle", "history")
    assert told(system) == everything
    statuses = [e["response"]["status"] for e in system["entry"]]
    assert statuses == ["201", "204", "200", "201", "201", "201"]  # what comes after a deletion is made anew
    assert ["resource" in e for e in system["entry"]] == [True, False, True, True, True, True]
    assert system["entry"][-1]["fullUrl"].endswith(f"/fhir/Patient/{posted}")
    assert told((await client.get("Patient/_history")).json()) == [e for e in everything if e[1] != "Basic/b"]
    assert told((await client.get("Basic/_history")).json()) == [everything[4]]
    assert told((await client.get("Patient/p/_history")).json()) == everything[:4]


@pytest.mark.parametrize("level", ["", "Patient/"])
async def test_the_pages_together_are_the_whole_while_others_write(client: httpx.AsyncClient, level: str) -> None:
    for number in range(7):
        await put(client, f"Patient/p{number}")
    whole = told((await client.get(f"{level}_history")).json())
    first = (await client.get(f"{level}_history?_count=3")).json()
    await asyncio.gather(*(put(client, f"Patient/p{number}", active=True) for number in range(7)))
    links = {link["relation"]: link["url"] for link in first["link"]}
    assert links["self"].endswith(f"/{level}_history?_count=3")
    rest = await pages(client, links["next"])
    assert [len(page) for page in rest] == [3, 1]
    assert [*told(first), *(entry for page in rest for entry in page)] == whole
    assert len(told((await client.get(f"{level}_history")).json())) == 14


async def test_since_and_at_pick_by_time(client: httpx.AsyncClient) -> None:
    moments = []
    for active in (True, False):
        version = (await put(client, "Patient/p", active=active)).json()
        moments.append(version["meta"]["lastUpdated"])
        await asyncio.sleep(0.005)
    await client.delete("Patient/p")
    first, second = moments
    for path in ("_history", "Patient/_history", "Patient/p/_history"):
        assert [e[2] for e in told((await client.get(path, params={"_since": second})).json())] == ['W/"3"', 'W/"2"']
        assert told((await client.get(path, params={"_since": "2999"})).json()) == []
        assert [e[2] for e in told((await client.get(path, params={"_at": first})).json())] == ['W/"1"']
        year = f"{datetime.now(UTC):%Y}"
        assert len(told((await client.get(path, params={"_at": year})).json())) == 3
        before = (datetime.fromisoformat(first) - timedelta(days=1)).isoformat()
        assert told((await client.get(path, params={"_at": before})).json()) == []
        paged = await pages(client, f"{path}?_count=1&_since={first.replace('+', '%2B')}")
        assert [len(page) for page in paged] == [1, 1, 1]


async def test_a_history_can_be_cut_to_elements(client: httpx.AsyncClient) -> None:
    await put(client, "Patient/p", birthDate="1970-01-01", gender="female")
    entry = (await client.get("Patient/p/_history?_elements=gender")).json()["entry"][0]
    assert entry["resource"]["gender"] == "female"
    assert "birthDate" not in entry["resource"]
    assert entry["resource"]["meta"]["tag"][0]["code"] == "SUBSETTED"
    assert (await client.get("Patient/p/_history?_summary=count")).json()["total"] == 1


async def test_a_history_shows_the_types_that_the_reader_may_search(client: httpx.AsyncClient) -> None:
    await put(client, "Patient/p")
    await put(client, "Observation/o", status="final", code={"text": "x"})
    observer = {"Authorization": "Bearer observations"}
    assert [e[1] for e in told((await client.get("_history", headers=observer)).json())] == ["Observation/o"]
    assert (await client.get("Patient/_history", headers=observer)).status_code == 403
    assert (await client.get("Patient/p/_history", headers=observer)).status_code == 403


async def test_a_history_is_audited_under_each_patient_that_it_shows(
    client: httpx.AsyncClient, database: Database
) -> None:
    await put(client, "Patient/p")
    await put(client, "Patient/q")
    await client.get("_history")
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT patient_id FROM audit_event WHERE kind = 'history-system' ORDER BY 1")
        assert [row[0] async for row in rows] == ["p", "q"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("Patient/none/_history", 404),
        ("Nonsense/_history", 404),
        ("_history?_count=many", 400),
        ("_history?_since=soon", 400),
        ("Patient/_history?_at=soon", 400),
        ("Patient/_history?_cursor=x", 400),
    ],
)
async def test_what_a_history_cannot_give(shared_fhir_client: httpx.AsyncClient, path: str, status: int) -> None:
    answer = await shared_fhir_client.get(path)
    assert (answer.status_code, answer.json()["resourceType"]) == (status, "OperationOutcome")


async def test_a_history_that_takes_too_long_is_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "TIME_LIMIT_S", 0.0)
    answer = await client.get("_history")
    assert answer.status_code == 422
    assert answer.json()["issue"][0]["code"] == "too-costly"
