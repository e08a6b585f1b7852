"""From a request's credential to a Reader: tokens, API keys, cookies, and where each counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from fastapi import FastAPI, Request
from joserfc.jwk import ECKey
from starlette.responses import Response

from wetread.access import secrets
from wetread.access.clients import clients, registration
from wetread.access.clients.known import KnownClients
from wetread.access.people import accounts, sessions
from wetread.access.people.sessions import Lifetime
from wetread.access.tokens import Basis, Tokens
from wetread.api import credentials, problem
from wetread.errors import WetreadError
from wetread.store.database import Database

HOUR = timedelta(hours=1)
TOKENS = Tokens(ECKey.generate_key("P-256", private=True), "urn:test")


def _app(database: Database, *, https: bool = False) -> FastAPI:
    app = FastAPI()
    known = KnownClients(database, remembered_s=0)
    authenticate = credentials.authenticator(credentials.Credentials(database, TOKENS, known, https))

    @app.api_route("/door", methods=["GET", "HEAD", "POST", "PUT", "DELETE"])
    async def door(request: Request) -> dict[str, object]:
        reader = await authenticate(request)
        return {"who": reader.principal, "scopes": [str(s) for s in reader.scopes], "roles": sorted(reader.roles)}

    @app.exception_handler(WetreadError)
    async def on_error(request: Request, error: WetreadError) -> Response:
        return problem.problem(error)

    return app


@pytest.fixture
async def caller(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """Calls from 10.1.2.3."""
    machine = registration.checked(
        name="RIS", kind="symmetric", scope="system/*.rs", roles=["service"], networks=["10.1.0.0/16"]
    )
    async with database.transaction() as conn:
        await accounts.add(conn, "maria", "Maria", ["radiologist"])
        await clients.add(conn, "ris", machine)
    async with _calling(_app(database), "10.1.2.3") as client:
        yield client


def _calling(app: FastAPI, host: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(host, 50000)), base_url="http://wetread.test")


async def _key(database: Database) -> str:
    async with database.transaction() as conn:
        return (await secrets.make_api_key(conn, "ris", HOUR)).text


async def _session(database: Database) -> str:
    async with database.transaction() as conn:
        return await sessions.begin(conn, "maria", Lifetime(HOUR, HOUR))


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_an_api_key_is_a_bearer_token_of_its_client(caller: httpx.AsyncClient, database: Database) -> None:
    key = await _key(database)
    for method in ("GET", "POST", "DELETE"):
        answer = await caller.request(method, "/door", headers=_bearer(key))
        assert answer.json() == {"who": "ris", "scopes": ["system/*.rs"], "roles": ["service"]}


async def test_keys_and_tokens_of_a_client_count_from_its_networks(
    caller: httpx.AsyncClient, database: Database
) -> None:
    key = await _key(database)
    token = TOKENS.issue("ris", "system/*.rs", (), HOUR, Basis(client_id="ris")).token
    async with _calling(_app(database), "10.2.0.1") as outside:
        for given in (key, token):
            assert (await caller.get("/door", headers=_bearer(given))).status_code == 200
            assert (await outside.get("/door", headers=_bearer(given))).status_code == 403
            forged = {**_bearer(given), "X-Forwarded-For": "10.1.2.3", "Forwarded": "for=10.1.2.3"}
            assert (await outside.get("/door", headers=forged)).status_code == 403


async def test_a_token_of_a_disabled_client_opens_nothing(caller: httpx.AsyncClient, database: Database) -> None:
    for_itself = TOKENS.issue("ris", "system/*.rs", (), HOUR, Basis(client_id="ris")).token
    for_maria = TOKENS.issue("maria", "user/*.rs", (), HOUR, Basis(client_id="ris", account="maria")).token
    unknown = TOKENS.issue("x", "system/*.rs", (), HOUR, Basis(client_id="nobody")).token
    assert (await caller.get("/door", headers=_bearer(unknown))).status_code == 401
    assert (await caller.get("/door", headers=_bearer(for_maria))).json()["who"] == "maria"
    async with database.transaction() as conn:
        await clients.disable(conn, "ris")
    for token in (for_itself, for_maria, await _key(database)):
        assert (await caller.get("/door", headers=_bearer(token))).status_code == 401


async def test_a_session_reads_with_the_persons_rights_and_changes_nothing(
    caller: httpx.AsyncClient, database: Database
) -> None:
    caller.cookies.set("wetread_session", await _session(database))
    answer = await caller.get("/door")
    assert answer.json()["who"] == "maria"
    assert "user/Observation.rs" in answer.json()["scopes"]
    assert answer.json()["roles"] == ["radiologist"]
    assert (await caller.head("/door")).status_code == 200
    for method in ("POST", "PUT", "DELETE"):
        assert (await caller.request(method, "/door")).status_code == 401


async def test_another_sites_page_cannot_use_the_cookie_but_by_a_link(
    caller: httpx.AsyncClient, database: Database
) -> None:
    caller.cookies.set("wetread_session", await _session(database))
    for site, mode, status in (
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
        ("cross-site", "navigate", 200),
        ("cross-site", "no-cors", 401),
        ("cross-site", "cors", 401),
        ("same-site", "cors", 401),
    ):
        answer = await caller.get("/door", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode})
        assert answer.status_code == status, (site, mode)


async def test_a_session_comes_by_its_cookie_and_a_cookie_by_its_host_with_https(
    caller: httpx.AsyncClient, database: Database
) -> None:
    value = await _session(database)
    assert (await caller.get("/door", headers=_bearer(value))).status_code == 401
    assert (await caller.get("/door", params={"access_token": value})).status_code == 401
    async with _calling(_app(database, https=True), "10.1.2.3") as client:
        client.cookies.set("wetread_session", value)
        assert (await client.get("/door")).status_code == 401, "another host of the domain could have set this one"
        client.cookies.set("__Host-wetread_session", value)
        assert (await client.get("/door")).status_code == 200


async def test_anything_else_opens_nothing(caller: httpx.AsyncClient) -> None:
    for header in ("", "Bearer", "Bearer ", "Basic cmlzOnNlY3JldA==", "Bearer wtr_", "Bearer a.b.c"):
        assert (await caller.get("/door", headers={"Authorization": header})).status_code == 401, header
