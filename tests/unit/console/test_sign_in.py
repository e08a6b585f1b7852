"""Signing in with the operator's token of `wetread token`, and out again."""

from __future__ import annotations

import httpx
import pytest
from tests.forms import send
from tests.read_studies import Site, audited, site

from wetread.access.people import sessions
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database

TOKEN_FORM = "/login/token"


async def test_a_valid_token_opens_the_worklist(visitor: httpx.AsyncClient, console: Site, database: Database) -> None:
    form = await visitor.get("/login")
    assert form.status_code == 200
    assert '<label for="token">' in form.text

    answer = await send(visitor, form, TOKEN_FORM, token=f" {console.token('radiologist')}\n")

    assert (answer.status_code, answer.headers["location"]) == (303, "/worklist")
    [cookie] = [line for line in answer.headers.get_list("set-cookie") if line.startswith("wetread_token=")]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    assert "max-age" not in cookie.lower()
    page = await visitor.get("/worklist")
    assert page.status_code == 200
    assert "Signed in as dr-demo" in page.text
    assert [row[:3] for row in await audited(database)] == [
        ("page-viewed", "0", "anonymous"),
        ("login", "0", "dr-demo"),
        ("page-viewed", "0", "dr-demo"),
    ]


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c", "\x00"])
async def test_anything_else_is_refused_and_never_shown_again(
    visitor: httpx.AsyncClient, database: Database, token: str
) -> None:
    answer = await send(visitor, await visitor.get("/login"), TOKEN_FORM, token=token)
    assert answer.status_code == 401
    assert "Not signed in" in answer.text
    assert not token or token not in answer.text
    assert "set-cookie" not in answer.headers
    assert [row[:3] for row in await audited(database)][1:] == [("login", "4", "anonymous")]


async def test_a_token_of_another_server_is_refused(
    visitor: httpx.AsyncClient, database: Database, blobs: LocalBlobs
) -> None:
    foreign = site(database, blobs).token("radiologist")
    assert (await send(visitor, await visitor.get("/login"), TOKEN_FORM, token=foreign)).status_code == 401


async def test_a_form_without_end_is_cut_off(visitor: httpx.AsyncClient) -> None:
    assert (await send(visitor, await visitor.get("/login"), TOKEN_FORM, token="x" * 20_000)).status_code == 413


async def test_another_sites_form_signs_nobody_in_or_out(visitor: httpx.AsyncClient, console: Site) -> None:
    page = await visitor.get("/login")
    visitor.headers["Sec-Fetch-Site"] = "cross-site"
    answer = await send(visitor, page, TOKEN_FORM, token=console.token("radiologist"))
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    answer = await visitor.post("/logout")
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_the_cookie_is_secure_where_clients_come_by_https(database: Database, blobs: LocalBlobs) -> None:
    behind_tls = site(database, blobs, https=True)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(behind_tls.app), base_url="https://wetread.test"
    ) as visitor:
        answer = await send(visitor, await visitor.get("/login"), TOKEN_FORM, token=behind_tls.token("radiologist"))
    assert answer.status_code == 303
    assert all("Secure" in line for line in answer.headers.get_list("set-cookie"))


async def test_signing_out_forgets_the_cookie(radiologist: httpx.AsyncClient, database: Database) -> None:
    answer = await send(radiologist, await radiologist.get("/worklist"), "/logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert any(
        line.startswith('wetread_token=""') and "Max-Age=0" in line for line in answer.headers.get_list("set-cookie")
    )
    assert [row[:3] for row in await audited(database)][1:] == [("logout", "0", "dr-demo")]


async def test_signing_out_works_after_the_token_has_expired(visitor: httpx.AsyncClient, database: Database) -> None:
    visitor.cookies.set("wetread_token", "expired")
    answer = await visitor.post("/logout", data={"form_token": sessions.form_token("expired", "sign out")})
    assert answer.status_code == 303
    assert [row[:3] for row in await audited(database)] == [("logout", "0", "anonymous")]
