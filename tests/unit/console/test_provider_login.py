"""The door through an identity provider, as a browser meets it."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests import identity_provider
from tests.identity_provider import CLIENT_ID, CLIENT_SECRET
from tests.read_studies import Site, audited, site

from wetread.access.clients import clients, registration
from wetread.access.oauth import grants
from wetread.access.people import accounts
from wetread.access.providers.documents import ProviderDocuments
from wetread.access.providers.identity_providers import IdentityProvider, Provider
from wetread.access.providers.logout_tokens import EVENT
from wetread.access.revocation import Revocations
from wetread.domain.endpoint import AllowedEndpoints
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database
from wetread.wire.fetch import Fetch, trusted

TRUSTED = trusted()
HERE = "http://wetread.test"


@pytest.fixture(scope="module")
async def standing() -> AsyncIterator[identity_provider.IdentityProvider]:
    async with identity_provider.running() as peer:
        yield peer


@pytest.fixture
def peer(standing: identity_provider.IdentityProvider) -> identity_provider.IdentityProvider:
    return standing.as_new()


@pytest.fixture
async def console(
    peer: identity_provider.IdentityProvider, database: Database, blobs: LocalBlobs
) -> AsyncIterator[Site]:
    """With one provider under two names: an answer of the one must not be taken for the other's."""
    fetch = Fetch(AllowedEndpoints.parse(("127.0.0.0/8",)), TRUSTED)
    providers: dict[str, IdentityProvider] = {}
    for name, label in (("kc", "Keycloak <b>"), ("other", "Other")):
        provider = Provider(
            name=name,
            display_name=label,
            issuer=peer.issuer,
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            scopes=("profile",),
            groups_claim="groups",
            roles={"radiology": ("radiologist",)},
            logout_ends_offline=name == "other",
        )
        documents = ProviderDocuments(peer.issuer, fetch)
        providers[name] = IdentityProvider(provider, f"{HERE}/login/provider/{name}/callback", fetch, documents)
    yield site(database, blobs, providers=providers, base_url=HERE)
    await fetch.close()


def browser_of(console: Site) -> httpx.AsyncClient:
    """A browser: this server in the process, everything else over the network; redirects by hand."""
    return httpx.AsyncClient(mounts={HERE: httpx.ASGITransport(console.app)}, base_url=HERE)


@pytest.fixture
async def browser(console: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with browser_of(console) as browser:
        yield browser


async def callback(browser: httpx.AsyncClient, start: str = "/login/provider/kc") -> str:
    """Where the provider sends the browser back to, after the person has logged in there."""
    begun = await browser.get(start)
    assert begun.status_code == 303
    return (await browser.get(begun.headers["location"])).headers["location"]


async def test_a_button_leads_through_the_provider_to_the_page_that_was_wanted(
    browser: httpx.AsyncClient, database: Database, peer: identity_provider.IdentityProvider
) -> None:
    page = await browser.get("/login", params={"next": "/worklist?x=a%26b&y=1"})
    link = "/login/provider/kc?next=/worklist%3Fx%3Da%2526b%26y%3D1"
    assert f'href="{link}">Sign in with Keycloak &lt;b&gt;</a>' in page.text
    answer = await browser.get(await callback(browser, link))
    assert (answer.status_code, answer.headers["location"]) == (303, "/worklist?x=a%26b&y=1")
    shown = await browser.get("/worklist")
    assert shown.status_code == 200
    assert "Rae Reader" in shown.text
    assert ("login", "0", f"{peer.issuer}#u-1", None) in await audited(database)


async def test_cookies_are_out_of_reach_and_the_session_is_new(browser: httpx.AsyncClient) -> None:
    browser.cookies.set("wetread_session", "planted", domain="wetread.test")
    answer = await browser.get(await callback(browser))
    put = {header.partition("=")[0]: header for header in answer.headers.get_list("set-cookie")}
    session = put["wetread_session"]
    assert "planted" not in session
    assert "HttpOnly" in session
    assert "SameSite=lax" in session
    assert "SameSite=strict" in put["wetread_provider_logout"]
    assert 'wetread_provider_login=""' in put["wetread_provider_login"]


@pytest.mark.parametrize(
    "goal", ["https://evil.example.org/", "//evil.example.org", "/\\evil.example.org", "javascript:alert(1)", "/login"]
)
async def test_nobody_is_sent_on_to_another_site(goal: str, browser: httpx.AsyncClient) -> None:
    url = str(httpx.URL("/login/provider/kc", params={"next": goal}))
    answer = await browser.get(await callback(browser, url))
    assert answer.headers["location"] == "/worklist"


async def test_an_answer_counts_once_and_in_its_browser_only(
    console: Site, browser: httpx.AsyncClient, database: Database
) -> None:
    """Login CSRF: an attacker's answer must not sign a victim in as the attacker."""
    answer = await callback(browser)
    async with browser_of(console) as victim:
        await callback(victim)
        refused = await victim.get(answer)
        assert refused.status_code == 401
        assert "wetread_session" not in victim.cookies
    assert (await browser.get(answer)).status_code == 401
    assert [row for row in await audited(database) if row[0] == "login"] == [("login", "4", "anonymous", None)] * 2


async def test_a_used_answer_opens_nothing(browser: httpx.AsyncClient) -> None:
    answer = await callback(browser)
    assert (await browser.get(answer)).status_code == 303
    browser.cookies.delete("wetread_session")
    assert (await browser.get(answer)).status_code == 401
    assert "wetread_session" not in browser.cookies


async def test_an_answer_is_for_the_provider_that_was_chosen(browser: httpx.AsyncClient) -> None:
    answer = (await callback(browser)).replace("/kc/", "/other/")
    assert (await browser.get(answer)).status_code == 401


async def test_whoever_has_no_group_is_told_so_and_stays_out(
    browser: httpx.AsyncClient, database: Database, peer: identity_provider.IdentityProvider
) -> None:
    peer.person["groups"] = ["catering"]
    refused = await browser.get(await callback(browser))
    assert refused.status_code == 403
    assert "in no group" in refused.text
    assert (await browser.get("/worklist")).status_code == 303
    assert ("login", "4", f"{peer.issuer}#u-1", None) in await audited(database)


async def test_a_person_who_is_disabled_here_stays_out(
    browser: httpx.AsyncClient, database: Database, peer: identity_provider.IdentityProvider
) -> None:
    await browser.get(await callback(browser))
    async with database.transaction() as conn:
        await accounts.disable(conn, f"{peer.issuer}#u-1")
    assert (await browser.get("/worklist")).status_code == 303
    assert (await browser.get(await callback(browser))).status_code == 403


async def test_a_provider_that_does_not_answer_is_told_as_such_and_audited(
    browser: httpx.AsyncClient, database: Database, peer: identity_provider.IdentityProvider
) -> None:
    peer.discovery = {"issuer": "https://other.example.org"}
    assert (await browser.get("/login/provider/kc")).status_code == 502
    assert (await browser.get("/login/provider/nobody")).status_code == 404
    assert [row[:2] for row in await audited(database)] == [("login", "8"), ("login", "4")]


async def test_what_a_provider_sends_is_shown_as_text_and_audited_without_code_or_state(
    browser: httpx.AsyncClient, database: Database
) -> None:
    begun = await browser.get("/login/provider/kc")
    [state] = parse_qs(urlsplit(begun.headers["location"]).query)["state"]
    query = {"state": state, "error": "access_denied", "error_description": "<script>alert(1)</script>"}
    refused = await browser.get("/login/provider/kc/callback", params=query)
    assert refused.status_code == 401
    assert "access_denied" in refused.text
    assert "script>" not in refused.text
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT audit_event::text FROM audit_event")
        assert not [row for row in await rows.fetchall() if state in row[0]]


async def test_signing_out_goes_on_to_the_provider(
    browser: httpx.AsyncClient, peer: identity_provider.IdentityProvider
) -> None:
    await browser.get(await callback(browser))
    assert (await browser.get("/logout/provider")).headers["location"] == "/worklist"
    page = await browser.get("/worklist")
    [token] = {part.partition('"')[0] for part in page.text.split('name="form_token" value="')[1:]}
    out = await browser.post("/logout", data={"form_token": token})
    assert out.headers["location"] == "/logout/provider"
    onward = await browser.get("/logout/provider")
    url = onward.headers["refresh"].removeprefix("0; url=")
    assert url.startswith(f"{peer.issuer}/logout?id_token_hint=")
    assert parse_qs(urlsplit(url).query)["post_logout_redirect_uri"] == [f"{HERE}/login"]
    assert "Keycloak" in onward.text
    assert (await browser.get("/logout/provider")).headers["location"] == "/login"
    assert (await browser.get("/worklist")).status_code == 303


def logout_token(peer: identity_provider.IdentityProvider, **changed: Any) -> str:
    """A good one for the person of the provider, but for what is given; a claim of None is left out."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": peer.issuer,
        "aud": CLIENT_ID,
        "iat": now,
        "exp": now + 120,
        "jti": secrets.token_hex(8),
        "sub": "u-1",
        "events": {EVENT: {}},
        **changed,
    }
    return peer.signed({name: value for name, value in claims.items() if value is not None})


async def told(browser: httpx.AsyncClient, token: str, provider: str = "kc") -> httpx.Response:
    return await browser.post(f"/login/provider/{provider}/backchannel-logout", data={"logout_token": token})


async def is_in(browser: httpx.AsyncClient) -> bool:
    return (await browser.get("/worklist")).status_code == 200


async def test_the_provider_ends_one_login_or_all_of_a_person(
    console: Site, database: Database, peer: identity_provider.IdentityProvider
) -> None:
    peer.person["sid"] = "at home"
    async with browser_of(console) as home, browser_of(console) as ward, browser_of(console) as others:
        await home.get(await callback(home))
        peer.person["sid"] = "on the ward"
        await ward.get(await callback(ward))
        peer.person |= {"sub": "u-2", "sid": "at home"}
        await others.get(await callback(others))
        answer = await told(ward, logout_token(peer, sid="at home"))
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert [await is_in(each) for each in (home, ward, others)] == [False, True, True]
        assert (await told(ward, logout_token(peer))).status_code == 200
        assert [await is_in(each) for each in (home, ward, others)] == [False, False, True]
        assert (await told(ward, logout_token(peer, sub=None, sid="at home"))).status_code == 200
        assert not await is_in(others)
        assert (await told(ward, logout_token(peer, sub="nobody"))).status_code == 200
    assert [row[:3] for row in await audited(database) if row[0] == "logout"] == [
        *([("logout", "0", f"{peer.issuer}#u-1")] * 2),
        ("logout", "0", f"{peer.issuer}#u-2"),
        ("logout", "0", "anonymous"),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://other.example"},
        {"aud": "another-client"},
        {"aud": None},
        {"iat": None},
        {"iat": int(time.time()) - 3600, "exp": None},
        {"iat": int(time.time()) + 3600},
        {"exp": int(time.time()) - 600},
        {"jti": None},
        {"jti": 7},
        {"sub": None},
        {"sub": ["u-1"]},
        {"sid": "x\n"},
        {"nonce": "n"},
        {"events": None},
        {"events": [EVENT]},
        {"events": {EVENT: True}},
        {"events": {"http://schemas.openid.net/event/other": {}}},
    ],
)
async def test_a_logout_that_is_not_the_providers_for_us_now_ends_nothing(
    browser: httpx.AsyncClient, peer: identity_provider.IdentityProvider, changed: dict[str, Any]
) -> None:
    await browser.get(await callback(browser))
    answer = await told(browser, logout_token(peer, **changed))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert await is_in(browser)


async def test_forged_tokens_and_id_tokens_end_nothing(
    browser: httpx.AsyncClient, peer: identity_provider.IdentityProvider
) -> None:
    await browser.get(await callback(browser))
    good = logout_token(peer)
    head, body, signature = good.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    stranger = identity_provider.IdentityProvider(peer.issuer)
    id_token = peer.signed(peer.claims("n", "a"))
    forged = (f"{none}.{body}.", f"{head}.{body}.{signature[:-4]}AAAA", logout_token(stranger), id_token, "", "x.y.z")
    for token in forged:
        assert (await told(browser, token)).status_code == 400
    assert (await told(browser, good, "nobody")).status_code == 400
    assert await is_in(browser)
    assert (await told(browser, good)).status_code == 200
    await browser.get(await callback(browser))
    assert (await told(browser, good)).status_code == 400, "a token counts once"
    assert await is_in(browser)


@pytest.mark.parametrize(
    ("provider", "events", "goes_on"),
    [
        ("kc", {EVENT: {}}, True),
        ("other", {EVENT: {}}, False),
        ("kc", {EVENT: {}, "revoke_offline_access": True}, False),
        ("kc", {EVENT: {}, "revoke_offline_access": "no"}, True),
    ],
)
async def test_what_was_given_for_longer_ends_where_either_side_says_so(
    browser: httpx.AsyncClient,
    database: Database,
    peer: identity_provider.IdentityProvider,
    provider: str,
    events: dict[str, Any],
    goes_on: bool,
) -> None:
    await browser.get(await callback(browser))
    grant = await offline_grant(database, f"{peer.issuer}#u-1")
    assert (await told(browser, logout_token(peer, events=events), provider)).status_code == 200
    async with database.transaction() as conn:
        assert (await grants.by_id(conn, grant.id) is not None) == goes_on


async def offline_grant(database: Database, name: str) -> grants.Grant:
    wanted = registration.checked(name="App", kind="public", scope="openid", redirect_uris=["https://a.example/b"])
    async with database.transaction() as conn:
        if await clients.by_id(conn, "app") is None:
            await clients.add(conn, "app", wanted)
        wish = grants.Wish("app", name, None, "offline_access", {}, datetime.now(UTC), "")
        return await grants.begin(conn, wish, timedelta(days=90))


async def test_who_has_not_come_by_the_provider_for_long_has_given_nothing_any_more(
    browser: httpx.AsyncClient, database: Database, peer: identity_provider.IdentityProvider
) -> None:
    await browser.get(await callback(browser))
    own = f"{peer.issuer}#u-1"
    async with database.transaction() as conn:
        await accounts.add(conn, "local", "Local", ["radiologist"])
    found = [await offline_grant(database, name) for name in (own, "local")]
    revocations, month = Revocations(), timedelta(days=30)

    async def ended(days_ago: int) -> int:
        async with database.transaction() as conn:
            await conn.execute("UPDATE account SET signed_in_at = now() - make_interval(days => %s)", (days_ago,))
            return await grants.end_unseen(conn, revocations, month)

    assert await ended(40) == 0, "what was given yesterday is as good as a login"
    async with database.transaction() as conn:
        await conn.execute("UPDATE authorization_grant SET created_at = now() - interval '40 days'")
    assert await ended(20) == 0
    assert await ended(31) == 1
    async with database.transaction() as conn:
        assert [await grants.by_id(conn, grant.id) is not None for grant in found] == [False, True]
    assert revocations.end([f"grant:{found[0].id}"], time.time())
