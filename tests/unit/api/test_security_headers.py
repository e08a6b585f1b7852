"""Every answer carries the headers that fence it in."""

from __future__ import annotations

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wetread.api.forwarded import Forwarded
from wetread.api.security_headers import SecurityHeaders
from wetread.api.turned_away import TurnedAway
from wetread.domain.networks import networks
from wetread.store.database import Database

NOWHERE = Database("postgresql://nobody@127.0.0.1:1/none")


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    own = {"Cache-Control": "public, max-age=300", "Content-Security-Policy": "default-src 'self'"}
    await Response("x", headers=own if scope["path"] == "/own" else {})(scope, receive, send)


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = SecurityHeaders(Forwarded(plain, networks(["127.0.0.1/32"]), (), TurnedAway(NOWHERE)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://wetread.test")


async def test_what_every_answer_carries(client: httpx.AsyncClient) -> None:
    headers = (await client.get("/")).headers
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "camera=()" in headers["permissions-policy"]
    assert "server" not in headers


async def test_what_a_door_says_itself_stays(client: httpx.AsyncClient) -> None:
    headers = (await client.get("/own")).headers
    assert headers.get_list("cache-control") == ["public, max-age=300"]
    assert headers.get_list("content-security-policy") == ["default-src 'self'"]


async def test_https_is_to_stay_https_also_behind_a_proxy(client: httpx.AsyncClient) -> None:
    assert "strict-transport-security" not in (await client.get("/")).headers
    assert "max-age=31536000" in (await client.get("https://wetread.test/")).headers["strict-transport-security"]
    forwarded = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}
    assert "strict-transport-security" in (await client.get("/", headers=forwarded)).headers
