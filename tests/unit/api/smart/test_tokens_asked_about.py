"""Asking about tokens (RFC 7662) and giving them back (RFC 7009)."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import httpx
import pytest
from tests.smart_apps import ASSERTION, BASE, FHIR, App, Key, Site

from wetread.access.people import accounts
from wetread.access.tokens import Basis
from wetread.errors import Unauthorized

EC = Key.ec()
INACTIVE = {"active": False}


async def told(site: Site, token: str, **how: Any) -> httpx.Response:
    form = {"token": token, **how.pop("form", {})}
    return await site.http.post("/oauth/introspect", data=form, **how)


def proof(app: App) -> dict[str, Any]:
    return {"auth": (app.client_id, app.secret)}


async def test_a_client_learns_what_its_token_opens(site: Site) -> None:
    app = await site.register("symmetric")
    _, signed = await site.person()
    given = await app.tokens(signed)
    body = (await told(site, given["access_token"], **proof(app))).json()
    assert body["active"] is True
    assert (body["scope"], body["client_id"], body["patient"]) == (given["scope"], app.client_id, "pat1")
    assert (body["iss"], body["sub"], body["aud"]) == (BASE, signed.account.name, FHIR)
    assert body["fhirUser"] == f"{FHIR}/Practitioner/ana"
    assert abs(body["exp"] - time.time() - given["expires_in"]) < 30
    for member in ("need_patient_banner", "smart_style_url"):
        assert body[member] == given[member]
    refresh = (await told(site, given["refresh_token"], **proof(app))).json()
    assert (refresh["active"], refresh["scope"]) == (True, given["scope"])


async def test_nobody_but_its_client_learns_anything_of_a_token(site: Site) -> None:
    app, other = await site.register("symmetric"), await site.register("symmetric")
    _, signed = await site.person()
    given = await app.tokens(signed)
    assert (await told(site, given["access_token"], **proof(other))).json() == INACTIVE
    assert (await told(site, given["refresh_token"], **proof(other))).json() == INACTIVE
    public = await site.register()
    for how in ({}, {"form": {"client_id": public.client_id}}, {"auth": (app.client_id, "wrong")}):
        answer = await told(site, given["access_token"], **how)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_who_has_the_scope_for_it_asks_about_the_tokens_of_all(site: Site) -> None:
    machine = await site.backend(EC, "introspect system/Patient.rs")
    app = await site.register()
    _, signed = await site.person()
    given = await app.tokens(signed)

    async def bearer(scope: str) -> dict[str, str]:
        answer = await machine.token(
            grant_type="client_credentials", scope=scope, client_assertion=EC.assertion(machine.client_id)
        )
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    body = (await told(site, given["access_token"], headers=await bearer("introspect"))).json()
    assert (body["active"], body["client_id"]) == (True, app.client_id)
    for headers in (await bearer("system/Patient.rs"), {"Authorization": "Bearer x"}):
        answer = await told(site, given["access_token"], headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_what_counts_no_more_is_inactive_and_nothing_else_is_told(site: Site) -> None:
    app = await site.register("symmetric")
    _, signed = await site.person()
    given = await app.tokens(signed)
    tokens = site.authority.tokens
    expired = tokens.issue("x", "user/*.rs", (), timedelta(seconds=-1), Basis(app.client_id)).token
    await app.refreshed(given["refresh_token"])
    for token in (expired, given["refresh_token"], "rubbish", "a.b.c", "\u00e9"):
        assert (await told(site, token, **proof(app))).json() == INACTIVE
    async with site.authority.database.transaction() as conn:
        await accounts.disable(conn, signed.account.name)
    assert (await told(site, given["access_token"], **proof(app))).json() == INACTIVE
    missing = await site.http.post("/oauth/introspect", data={}, **proof(app))
    assert (missing.status_code, missing.json()["error"]) == (400, "invalid_request")


async def test_a_client_proves_itself_by_its_key_here_too(site: Site) -> None:
    machine = await site.backend(EC)
    own = await machine.token(
        grant_type="client_credentials", scope="system/*.rs", client_assertion=EC.assertion(machine.client_id)
    )
    form = {"client_assertion_type": ASSERTION, "client_assertion": EC.assertion(machine.client_id)}
    assert (await told(site, own.json()["access_token"], form=form)).json()["active"] is True


async def revoked(site: Site, token: str, **how: Any) -> httpx.Response:
    return await site.http.post("/oauth/revoke", data={"token": token, **how.pop("form", {})}, **how)


async def test_a_refresh_token_that_is_given_back_ends_all_of_its_grant(site: Site) -> None:
    app = await site.register("symmetric")
    _, signed = await site.person()
    given = await app.tokens(signed)
    assert (await revoked(site, given["refresh_token"], **proof(app))).status_code == 200
    with pytest.raises(Unauthorized):
        site.authority.tokens.verify(given["access_token"])
    assert (await app.refreshed(given["refresh_token"])).json()["error"] == "invalid_grant"


async def test_an_access_token_that_is_given_back_ends_alone_and_at_once(site: Site) -> None:
    app = await site.register()
    _, signed = await site.person()
    given = await app.tokens(signed)
    headers = {"Authorization": f"Bearer {given['access_token']}"}
    assert (await site.http.get("/fhir/Patient", headers=headers)).status_code == 200
    answer = await revoked(site, given["access_token"], form={"client_id": app.client_id, "token_type_hint": "odd"})
    assert answer.status_code == 200
    assert (await site.http.get("/fhir/Patient", headers=headers)).status_code == 401
    assert (await app.refreshed(given["refresh_token"])).status_code == 200


async def test_nobody_ends_the_token_of_another(site: Site) -> None:
    app, other = await site.register(), await site.register("symmetric")
    _, signed = await site.person()
    given = await app.tokens(signed)
    for token in (given["access_token"], given["refresh_token"]):
        assert (await revoked(site, token, **proof(other))).json()["error"] == "invalid_grant"
        assert (await revoked(site, token)).json()["error"] == "invalid_client"
    site.authority.tokens.verify(given["access_token"])
    assert (await app.refreshed(given["refresh_token"])).status_code == 200


async def test_a_token_that_there_is_not_is_as_good_as_given_back(site: Site) -> None:
    app = await site.register()
    for token in ("rubbish", "a.b.c", "\u00e9"):
        assert (await revoked(site, token, form={"client_id": app.client_id})).status_code == 200


async def test_who_asks_about_all_tokens_does_so_from_where_it_may_call(site: Site) -> None:
    for networks, expected in ((["10.9.0.0/16"], 401), (["127.0.0.0/8"], 200)):
        machine = await site.backend(EC, "introspect", networks=networks)
        bearer = site.authority.tokens.issue(
            machine.client_id, "introspect", (), timedelta(minutes=5), Basis(machine.client_id)
        ).token
        answer = await told(site, bearer, headers={"Authorization": f"Bearer {bearer}"})
        assert answer.status_code == expected
