"""What operators measure of subscriptions, as Prometheus scrapes it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from tests.subscribers import Subscriber, failed_criterion, subscribed

from wetread.api import health, subscription_metrics
from wetread.domain.reader import SYSTEM, Reader
from wetread.store.database import Database


@pytest.fixture
async def scrape(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with scraping(database, ()) as client:
        yield client


@asynccontextmanager
async def scraping(database: Database, sockets: Collection[str]) -> AsyncIterator[httpx.AsyncClient]:
    async def authenticate(_: Request) -> Reader:
        return SYSTEM

    app = FastAPI()
    app.include_router(health.router(database, authenticate, sockets))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://wetread.example") as client:
        yield client


async def told(scrape: httpx.AsyncClient) -> dict[str, float]:
    """The samples of subscriptions, by name and label."""
    text = (await scrape.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("wetread_subscription")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_totals_tell_what_was_numbered_delivered_and_waits(scrape: httpx.AsyncClient, database: Database) -> None:
    await subscribed(database, Subscriber("well", numbered=7, delivered=7))
    await subscribed(database, Subscriber("slow", numbered=9, delivered=4, age_s=3600))
    await subscribed(database, Subscriber("broken", "error", numbered=5, delivered=2, age_s=90_000, failures=12))
    await subscribed(database, Subscriber("ended", "off", numbered=4, delivered=1, age_s=99_000))
    await subscribed(database, Subscriber("closed", numbered=1, delivered=0, age_s=99_000, kind="websocket"))
    found = await told(scrape)
    assert {state: found[f'wetread_subscriptions{{state="{state}"}}'] for state in ("active", "error", "off")} == {
        "active": 3,
        "error": 1,
        "off": 1,
    }
    assert found["wetread_subscription_events_numbered_total"] == 26
    assert found["wetread_subscription_events_delivered_total"] == 14
    assert found['wetread_subscription_events_pending{state="active"}'] == 6
    assert found['wetread_subscription_events_pending{state="error"}'] == 3
    assert found["wetread_subscriptions_failing"] == 1
    assert found["wetread_subscription_oldest_pending_seconds"] == pytest.approx(3600, abs=30)


async def test_each_one_has_its_lag_and_its_failures(scrape: httpx.AsyncClient, database: Database) -> None:
    await subscribed(database, Subscriber("slow", numbered=9, delivered=4, age_s=60, failures=3))
    await subscribed(database, Subscriber("ended", "off", numbered=4, delivered=1))
    found = await told(scrape)
    assert found['wetread_subscription_pending{subscription="slow"}'] == 5
    assert found['wetread_subscription_delivered_total{subscription="slow"}'] == 4
    assert found['wetread_subscription_failures{subscription="slow"}'] == 3
    assert found['wetread_subscription_lag_seconds{subscription="slow"}'] == pytest.approx(60, abs=30)
    assert not any("ended" in name for name in found)


async def test_what_a_topic_could_not_be_decided_for_is_counted(scrape: httpx.AsyncClient, database: Database) -> None:
    assert not any("topic" in name for name in await told(scrape))
    await failed_criterion(database, "https://hospital.example/topics/own", times=2)
    await failed_criterion(database, "https://hospital.example/topics/own")
    found = await told(scrape)
    assert found['wetread_subscription_topic_undecided_total{topic="https://hospital.example/topics/own"}'] == 3


async def test_open_websockets_are_counted(database: Database) -> None:
    sockets = {"one", "two"}
    async with scraping(database, sockets) as scrape:
        lines = (await scrape.get("/metrics")).text.splitlines()
    assert "wetread_websockets_open 2.0" in lines


async def test_the_documents_name_them_all(scrape: httpx.AsyncClient, database: Database) -> None:
    await subscribed(database, Subscriber("slow", numbered=9, delivered=4))
    await failed_criterion(database, "https://hospital.example/topics/own")
    page = (Path(__file__).parents[3] / "docs" / "subscriptions.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(wetread_subscription\w+)`", page)) == {
        name.partition("{")[0] for name in await told(scrape)
    }


async def test_of_very_many_the_worst_have_series_of_their_own(
    scrape: httpx.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_metrics, "MOST", 2)
    for number in range(5):
        await subscribed(database, Subscriber(f"s{number}", numbered=number, delivered=0))
    await subscribed(database, Subscriber("broken", "error", numbered=1, delivered=1))
    found = await told(scrape)
    assert {name for name in found if name.startswith("wetread_subscription_pending{")} == {
        'wetread_subscription_pending{subscription="broken"}',
        'wetread_subscription_pending{subscription="s4"}',
    }
    assert found['wetread_subscriptions{state="active"}'] == 5
