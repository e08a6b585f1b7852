"""The headers of an endpoint, which may hold its password: they go out with what is sent, and are read by nobody."""

from __future__ import annotations

from typing import Any

import pytest

from wetread.store.database import Database

from .subscribed import Site, subscription

SECRET = "Bearer of-the-ehr"
HEADERS = [f"Authorization: {SECRET}", "X-Ward: 7 east", "X-Ward: 8 west"]
SHOWN = ["Authorization: ***", "X-Ward: ***", "X-Ward: ***"]


@pytest.fixture
def site(database: Database) -> Site:
    return Site(database)


def form(*header: str, **channel: Any) -> dict[str, Any]:
    made = subscription()
    return {**made, "channel": {**made["channel"], "header": list(header or HEADERS), **channel}}


async def sent(site: Site, subscription_id: str) -> list[tuple[str, str]]:
    """The headers that notifications go out with."""
    async with site.database.transaction() as conn:
        found = await conn.execute("SELECT channel FROM subscription_state WHERE id = %s", (subscription_id,))
        row = await found.fetchone()
    assert row is not None
    return [(name, value) for name, value in row[0]["headers"]]


async def put(site: Site, who: str, subscription_id: str, body: dict[str, Any]) -> int:
    async with site.caller(who) as client:
        return (await client.put(f"Subscription/{subscription_id}", json={**body, "id": subscription_id})).status_code


KEPT = [("Authorization", SECRET), ("X-Ward", "7 east"), ("X-Ward", "8 west")]


@pytest.mark.parametrize("who", ["ehr", "all"])
async def test_nobody_reads_them(site: Site, who: str) -> None:
    subscription_id = await site.subscribed("ehr", form())
    async with site.caller(who) as client:
        for path in ("", "/_history/1", "/_history/2", "/_history"):
            answer = await client.get(f"Subscription/{subscription_id}{path}")
            assert answer.status_code == 200
            assert SECRET not in answer.text, path
        assert (await client.get(f"Subscription/{subscription_id}")).json()["channel"]["header"] == SHOWN
        found = await client.get("Subscription", params={"_id": subscription_id})
        assert found.json()["entry"][0]["resource"]["channel"]["header"] == SHOWN


async def test_they_stand_in_no_resource_and_go_out_with_what_is_sent(site: Site) -> None:
    subscription_id = await site.subscribed("ehr", form())
    await put(site, "ehr", subscription_id, {**form(), "status": "active"})  # which is shown as requested
    async with site.database.transaction() as conn:
        for table in ("resource", "resource_version"):
            found = await conn.execute(f"SELECT FROM {table} WHERE body LIKE %s", (f"%{SECRET}%",))
            assert found.rowcount == 0, table
    assert await sent(site, subscription_id) == KEPT


async def test_written_back_as_they_were_read_they_stay(site: Site) -> None:
    subscription_id = await site.subscribed("ehr", form())
    async with site.caller("ehr") as client:
        read = (await client.get(f"Subscription/{subscription_id}")).json()
        read["reason"] = "another"
        assert (await client.put(f"Subscription/{subscription_id}", json=read)).status_code == 200
        patch = [{"op": "replace", "path": "/reason", "value": "a third"}]
        headers = {"Content-Type": "application/json-patch+json"}
        answer = await client.patch(f"Subscription/{subscription_id}", json=patch, headers=headers)
        assert answer.status_code == 200
        assert SECRET not in answer.text
    assert await sent(site, subscription_id) == KEPT


async def test_written_anew_they_are_replaced_one_by_one(site: Site) -> None:
    subscription_id = await site.subscribed("ehr", form())
    assert await put(site, "ehr", subscription_id, form("X-Ward: ***", "authorization: Bearer new")) == 200
    assert await sent(site, subscription_id) == [("X-Ward", "7 east"), ("authorization", "Bearer new")]
    assert await put(site, "ehr", subscription_id, form("X-Ward: 9")) == 200
    assert await sent(site, subscription_id) == [("X-Ward", "9")]


@pytest.mark.parametrize(
    "body",
    [form(*SHOWN, endpoint="http://127.0.0.2:9/hook"), form(*SHOWN, "X-Ward: ***"), form("X-Other: ***")],
    ids=["to another endpoint", "one too many", "of another name"],
)
async def test_what_is_not_known_is_refused_rather_than_sent(site: Site, body: dict[str, Any]) -> None:
    subscription_id = await site.subscribed("ehr", form())
    assert await put(site, "all", subscription_id, body) == 422
    assert await sent(site, subscription_id) == KEPT
    async with site.caller("ehr") as client:
        assert (await client.post("Subscription", json=body)).status_code == 422


async def test_a_deleted_subscription_leaves_none_behind(site: Site) -> None:
    subscription_id = await site.subscribed("ehr", form())
    async with site.caller("ehr") as client:
        assert (await client.delete(f"Subscription/{subscription_id}")).status_code in (200, 204)
    assert await sent(site, subscription_id) == []
    assert await put(site, "ehr", subscription_id, form(*SHOWN)) == 422
