"""The page of an app can read why it is refused, also where no door has seen its request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.smart_apps import Site

from wetread import app as composition
from wetread.settings import load
from wetread.store.database import Database

APP, STRANGER = {"Origin": "https://app.example"}, {"Origin": "https://evil.example"}
SHARED = "access-control-allow-origin"


@asynccontextmanager
async def server(database: Database, folder: Path, http: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    """The whole HTTP listener with these settings."""
    settings = load(None, {"data_dir": folder, "http": http})
    async with composition.house(settings, database.url, ["http"]) as built:
        transport: Any = httpx.ASGITransport(composition.front(built).app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://wetread.test") as client:
            yield client


@pytest.fixture(autouse=True)
async def registered(site: Site) -> None:
    await site.register(redirect_uris=["https://app.example/back"])


@pytest.mark.parametrize(
    ("http", "headers", "status"),
    [
        ({"allow": ["192.0.2.0/24"]}, {}, 403),
        ({"trusted_proxies": ["127.0.0.0/8"]}, {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.2"}, 400),
    ],
)
async def test_before_it_came_to_a_door(
    database: Database, tmp_path: Path, http: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    async with server(database, tmp_path, http) as client:
        for path in ("/fhir/Patient", "/oauth/token"):
            own = await client.get(path, headers={**headers, **APP})
            assert (own.status_code, own.headers[SHARED]) == (status, APP["Origin"])
            strange = await client.get(path, headers={**headers, **STRANGER})
            assert (strange.status_code, SHARED in strange.headers) == (status, False)
        assert SHARED not in (await client.get("/worklist", headers={**headers, **APP})).headers


async def test_because_it_asks_too_much(database: Database, tmp_path: Path) -> None:
    async with server(database, tmp_path, {"limits": {"refused_per_minute": 3}}) as client:
        answers = [await client.get("/fhir/Patient/1", headers=APP) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [401] * 3 + [429] * 2
        assert all(answer.headers[SHARED] == APP["Origin"] for answer in answers)
        assert "retry-after" in answers[-1].headers
        assert "Retry-After" in answers[-1].headers["access-control-expose-headers"]
        strange = await client.get("/fhir/Patient/1", headers=STRANGER)
        assert (strange.status_code, SHARED in strange.headers) == (429, False)


async def test_a_page_may_not_ask_what_its_network_may_not(database: Database, tmp_path: Path) -> None:
    asked = {**APP, "Access-Control-Request-Method": "GET"}
    async with server(database, tmp_path, {"allow": ["192.0.2.0/24"]}) as client:
        assert (await client.options("/fhir/Patient", headers=asked)).status_code == 403
    async with server(database, tmp_path, {}) as client:
        assert (await client.options("/fhir/Patient", headers=asked)).status_code == 204


async def test_because_it_cannot_be_recorded(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise OSError

    async with server(database, tmp_path, {}) as client:
        monkeypatch.setattr("wetread.record.audit.audit.write", fails)
        answer = await client.get("/oauth/jwks.json", headers=STRANGER)
        assert (answer.status_code, answer.headers[SHARED]) == (503, "*")
