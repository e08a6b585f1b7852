"""From a person's consent to tokens (RFC 6749 4.1 and 6, RFC 7636, SMART App Launch 2.2 app-launch.html)."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from tests.smart_apps import BACK, BASE, FHIR, SCOPE, App, Key, Pkce, Site

from wetread.access.clients import clients
from wetread.access.oauth.authorization_requests import Refusal
from wetread.access.people import accounts, sessions
from wetread.errors import Unauthorized
from wetread.store.database import Database

KINDS = ("public", "symmetric", "asymmetric")


async def app_of(site: Site, kind: str) -> tuple[App, Key]:
    key = Key.ec()
    return await site.register(kind, **({"jwks": {"keys": [key.jwk]}} if kind == "asymmetric" else {})), key


@pytest.mark.parametrize("kind", KINDS)
async def test_a_code_becomes_tokens_for_what_the_person_gave(site: Site, kind: str) -> None:
    app, key = await app_of(site, kind)
    _, signed = await site.person()
    pkce = Pkce.new()
    came_back = await app.authorized(signed, pkce)
    assert (came_back["state"], came_back["iss"]) == ("a state/ü+&=", BASE)
    proof = {"client_assertion": key.assertion(app.client_id)} if kind == "asymmetric" else {}
    answer = await app.exchange(came_back["code"], pkce, **proof)
    body = answer.json()
    assert answer.status_code == 200
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 3600, SCOPE)
    assert (body["patient"], body["need_patient_banner"]) == ("pat1", True)
    assert (await site.http.get(body["smart_style_url"])).json()["color_background"]
    reader = site.authority.tokens.verify(body["access_token"])
    assert (reader.principal, reader.client_id, reader.patient_id) == (signed.account.name, app.client_id, "pat1")
    assert reader.roles == frozenset()
    assert [str(scope) for scope in reader.scopes] == ["patient/*.rs", "user/*.rs"]


async def test_the_id_token_is_verified_by_the_published_key_and_names_the_person(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    body = await app.tokens(signed, nonce="n-1")
    configuration = (await site.http.get("/.well-known/openid-configuration")).json()
    published = (await site.http.get(configuration["jwks_uri"])).json()
    header = jwt.get_unverified_header(body["id_token"])
    (key,) = [jwt.PyJWK(jwk) for jwk in published["keys"] if jwk["kid"] == header["kid"]]
    claims = jwt.decode(
        body["id_token"],
        key,
        algorithms=["RS256"],
        audience=app.client_id,
        issuer=configuration["issuer"],
        options={"require": ["iss", "sub", "aud", "exp", "iat", "auth_time", "nonce"]},
    )
    assert (claims["sub"], claims["nonce"]) == (signed.account.name, "n-1")
    assert claims["fhirUser"] == f"{FHIR}/Practitioner/ana"
    assert claims["auth_time"] == int(signed.authenticated_at.timestamp())


async def test_no_fhir_user_is_told_of_who_has_none(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person(fhir_user="")
    body = await app.tokens(signed)
    assert "fhirUser" not in body["scope"].split()
    assert "fhirUser" not in jwt.decode(body["id_token"], options={"verify_signature": False})


async def test_without_openid_there_is_no_id_token(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    assert "id_token" not in await app.tokens(signed, scope="user/*.rs")


@pytest.mark.parametrize("verifier", [None, "", "x" * 43, "too-short", "CHALLENGE"])
async def test_a_code_without_its_verifier_is_refused_for_every_kind_of_client(
    site: Site, verifier: str | None
) -> None:
    for kind in KINDS:
        app, key = await app_of(site, kind)
        _, signed = await site.person()
        pkce = Pkce.new()
        code = (await app.authorized(signed, pkce))["code"]
        given = pkce.challenge if verifier == "CHALLENGE" else verifier
        proof = {"client_assertion": key.assertion(app.client_id)} if kind == "asymmetric" else {}
        answer = await app.exchange(code, pkce, code_verifier=given, **proof)
        assert answer.status_code == 400
        assert answer.json()["error"] in ("invalid_request", "invalid_grant")
        again = {"client_assertion": key.assertion(app.client_id)} if kind == "asymmetric" else {}
        assert (await app.exchange(code, pkce, **again)).json()["error"] == "invalid_grant", "it was used up"


@pytest.mark.parametrize(
    "changed",
    [
        {"code_challenge": None},
        {"code_challenge": "", "code_challenge_method": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": "s256"},
        {"code_challenge": "short"},
    ],
)
async def test_a_request_without_s256_gets_no_code(site: Site, changed: dict[str, str | None]) -> None:
    for kind in KINDS:
        app, _ = await app_of(site, kind)
        _, signed = await site.person()
        with pytest.raises(Refusal) as refused:
            await app.authorized(signed, Pkce.new(), **changed)
        assert refused.value.location.startswith(f"{BACK}?error=invalid_request")
        assert "code=" not in refused.value.location


@pytest.mark.parametrize(
    "aud", [None, "https://elsewhere.example/fhir", f"{FHIR}.evil.example", BASE, f"{FHIR}/Patient"]
)
async def test_a_request_meant_for_another_server_gets_no_code(site: Site, aud: str | None) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    with pytest.raises(Refusal) as refused:
        await app.authorized(signed, Pkce.new(), aud=aud)
    assert refused.value.location.startswith(f"{BACK}?error=invalid_request")


@pytest.mark.parametrize(
    "redirect_uri",
    [
        None,
        f"{BACK}/",
        f"{BACK}x",
        f"{BACK}?next=1",
        f"{BACK}#fragment",
        f"{BACK}/../other",
        "https://APP.example/back",
        "https://app.example./back",
        "https://app.example:443/back",
        "https://app.example@evil.example/back",
        "https://user@app.example/back",
        "https://app.example.evil.example/back",
        "http://app.example/back",
        "https://app.example/%62ack",
        'https://app.example/back"',
        "javascript:alert(1)",
    ],
)
async def test_nobody_is_sent_to_an_address_that_is_not_the_registered_one(
    site: Site, redirect_uri: str | None
) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    with pytest.raises(Refusal) as refused:
        await app.authorized(signed, Pkce.new(), redirect_uri=redirect_uri)
    assert (refused.value.error, refused.value.location) == ("invalid_request", "")


async def test_nobody_is_sent_anywhere_for_a_client_that_is_not_there_or_disabled(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    async with site.authority.database.transaction() as conn:
        await clients.disable(conn, app.client_id)
    for client_id in (app.client_id, "nobody", None):
        with pytest.raises(Refusal) as refused:
            await app.authorized(signed, Pkce.new(), client_id=client_id)
        assert (refused.value.error, refused.value.location) == ("invalid_client", "")


@pytest.mark.parametrize("response_type", [None, "token", "code id_token", 'code"\\', "id_token"])
async def test_only_a_code_is_given(site: Site, response_type: str | None) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    with pytest.raises(Refusal) as refused:
        await app.authorized(signed, Pkce.new(), response_type=response_type)
    assert refused.value.location.startswith(f"{BACK}?error=unsupported_response_type")
    assert f"state={quote('a state/ü+&=', safe='').replace('%20', '+')}" in refused.value.location


@pytest.mark.parametrize("name", ["request", "request_uri"])
async def test_a_request_object_is_refused_and_not_passed_over(site: Site, name: str) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    with pytest.raises(Refusal) as refused:
        await app.authorized(signed, Pkce.new(), **{name: "https://app.example/request"})
    assert refused.value.location.startswith(f"{BACK}?error={name}_not_supported")


@pytest.mark.parametrize("mode", ["fragment", "form_post", "query.jwt"])
async def test_a_response_mode_that_is_not_kept_is_refused_and_not_passed_over(site: Site, mode: str) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    with pytest.raises(Refusal) as refused:
        await app.authorized(signed, Pkce.new(), response_mode=mode)
    assert refused.value.location.startswith(f"{BACK}?error=invalid_request&")
    assert "code" in await app.authorized(signed, Pkce.new(), response_mode="query")


@pytest.mark.parametrize("endpoint", ["token", "introspect", "revoke"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_the_endpoints_take_a_post_and_say_so(site: Site, endpoint: str, method: str) -> None:
    answer = await site.http.request(method, f"/oauth/{endpoint}?grant_type=authorization_code&code=x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.headers["cache-control"] == "no-store"
    assert method == "HEAD" or answer.json()["error"] == "invalid_request"


async def test_a_client_without_the_grant_gets_no_code(site: Site) -> None:
    key = Key.ec()
    app = await site.backend(key, redirect_uris=[BACK])
    _, signed = await site.person()
    with pytest.raises(Refusal) as refused:
        await app.authorized(signed, Pkce.new())
    assert refused.value.error == "unauthorized_client"


async def test_a_code_that_comes_again_ends_all_that_was_given_for_it(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    pkce = Pkce.new()
    code = (await app.authorized(signed, pkce))["code"]
    body = (await app.exchange(code, pkce)).json()
    site.authority.tokens.verify(body["access_token"])
    again = await app.exchange(code, pkce)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    with pytest.raises(Unauthorized):
        site.authority.tokens.verify(body["access_token"])
    assert (await app.refreshed(body["refresh_token"])).json()["error"] == "invalid_grant"


async def test_two_who_bring_the_same_code_at_once_do_not_both_get_tokens(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    pkce = Pkce.new()
    code = (await app.authorized(signed, pkce))["code"]
    answers = await asyncio.gather(*(app.exchange(code, pkce) for _ in range(4)))
    good = [answer.json()["access_token"] for answer in answers if answer.status_code == 200]
    assert len(good) == 1
    with pytest.raises(Unauthorized):
        site.authority.tokens.verify(good[0])


async def test_a_code_is_worth_nothing_to_another_client_and_is_not_used_up_by_it(site: Site) -> None:
    app, _ = await app_of(site, "public")
    other, _ = await app_of(site, "public")
    _, signed = await site.person()
    pkce = Pkce.new()
    code = (await app.authorized(signed, pkce))["code"]
    assert (await other.exchange(code, pkce)).json()["error"] == "invalid_grant"
    assert (await app.exchange(code, pkce)).status_code == 200


async def test_a_code_is_bound_to_its_redirect_uri(site: Site) -> None:
    app = await site.register("public", redirect_uris=[BACK, f"{BACK}/two"])
    _, signed = await site.person()
    for redirect_uri in (f"{BACK}/two", None):
        pkce = Pkce.new()
        code = (await app.authorized(signed, pkce))["code"]
        answer = await app.exchange(code, pkce, redirect_uri=redirect_uri)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_a_code_does_not_live_long(site: Site, database: Database) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    pkce = Pkce.new()
    code = (await app.authorized(signed, pkce))["code"]
    async with database.transaction() as conn:
        await conn.execute("UPDATE authorization_code SET expires_at = expires_at - interval '61 s'")
    assert (await app.exchange(code, pkce)).json()["error"] == "invalid_grant"


async def test_a_confidential_client_must_prove_itself(site: Site) -> None:
    app, _ = await app_of(site, "symmetric")
    _, signed = await site.person()
    pkce = Pkce.new()
    code = (await app.authorized(signed, pkce))["code"]
    wrong = base64.b64encode(f"{app.client_id}:wrong".encode()).decode()
    for headers, form in [
        ({"Authorization": f"Basic {wrong}"}, {}),
        ({"Authorization": "Basic \xff\xfe"}, {}),
        ({"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:x").decode()}, {}),
        ({"Authorization": "Basic"}, {"client_id": app.client_id}),
        ({"Authorization": "none"}, {"client_id": app.client_id}),
        ({}, {"client_id": app.client_id, "client_secret": "wrong"}),
    ]:
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = await app.token(raw, grant_type="authorization_code", code=code, **form)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["error"]) in [(400, "invalid_client"), (401, "invalid_client")]
    answer = await app.exchange(code, pkce, client_id=app.client_id, client_secret=app.secret)
    assert answer.status_code == 200, "client_secret_post is as good as Basic"


async def test_a_client_proves_itself_in_one_way_and_as_one(site: Site) -> None:
    app, _ = await app_of(site, "symmetric")
    other, _ = await app_of(site, "public")
    pair = base64.b64encode(f"{app.client_id}:{app.secret}".encode()).decode()
    both = await app.token(
        {"Authorization": f"Basic {pair}"}, grant_type="refresh_token", refresh_token="x", client_secret=app.secret
    )
    assert both.json()["error"] == "invalid_client"
    as_other = await app.token(grant_type="refresh_token", refresh_token="x", client_id=other.client_id)
    assert as_other.json()["error"] == "invalid_client"


@pytest.mark.parametrize(
    "body",
    [
        b"grant_type=authorization_code&grant_type=refresh_token&client_id=x",
        b"grant_type=%ff",
        b"&".join(b"a%d=1" % n for n in range(100)),
        b"grant_type=authorization_code&pad=" + b"x" * 70_000,
        b"\xff",
    ],
)
async def test_a_malformed_request_is_an_oauth_error(site: Site, body: bytes) -> None:
    answer = await site.http.post(
        "/oauth/token", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_a_body_that_is_no_form_and_a_grant_that_there_is_not_are_refused(site: Site) -> None:
    assert (await site.http.post("/oauth/token", json={"grant_type": "x"})).json()["error"] == "invalid_request"
    for grant in ("password", "implicit", 'x"\\\n', ""):
        answer = await site.http.post("/oauth/token", data={"grant_type": grant, "client_id": "x"})
        assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


async def test_a_refresh_token_is_changed_for_a_new_one_with_the_same_rights(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    first = await app.tokens(signed)
    second = (await app.refreshed(first["refresh_token"])).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert (second["scope"], second["patient"], second["expires_in"]) == (first["scope"], "pat1", 3600)
    assert site.authority.tokens.verify(second["access_token"]).patient_id == "pat1"


async def test_a_refresh_token_that_comes_again_ends_the_grant(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    first = await app.tokens(signed)
    second = (await app.refreshed(first["refresh_token"])).json()
    stolen = await app.refreshed(first["refresh_token"])
    assert (stolen.status_code, stolen.json()["error"]) == (400, "invalid_grant")
    assert (await app.refreshed(second["refresh_token"])).json()["error"] == "invalid_grant"
    with pytest.raises(Unauthorized):
        site.authority.tokens.verify(second["access_token"])


async def test_a_public_app_need_not_name_itself_to_refresh_and_others_must_prove_themselves(site: Site) -> None:
    """fhirclient.js sends no client_id, and SMART's table of the request has none."""
    for kind, status in (("public", 200), ("symmetric", 401)):
        app, _ = await app_of(site, kind)
        _, signed = await site.person()
        form = {"grant_type": "refresh_token", "refresh_token": (await app.tokens(signed))["refresh_token"]}
        assert (await site.http.post("/oauth/token", data=form)).status_code == status
    unknown = {"grant_type": "refresh_token", "refresh_token": "invented"}
    assert (await site.http.post("/oauth/token", data=unknown)).json()["error"] == "invalid_client"


async def test_two_refreshes_at_once_are_a_theft(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    first = await app.tokens(signed)
    answers = await asyncio.gather(*(app.refreshed(first["refresh_token"]) for _ in range(3)))
    assert [answer.status_code for answer in answers].count(200) == 1


async def test_a_refresh_token_is_worth_nothing_to_another_client(site: Site) -> None:
    app, _ = await app_of(site, "public")
    other, _ = await app_of(site, "public")
    _, signed = await site.person()
    body = await app.tokens(signed)
    assert (await other.refreshed(body["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await app.refreshed(body["refresh_token"])).status_code == 200


async def test_at_a_refresh_less_may_be_asked_for_but_never_more(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    body = await app.tokens(signed, scope="launch/patient offline_access patient/Observation.rs")
    for more in (
        "patient/*.rs",
        "user/Observation.rs",
        "patient/Observation.cruds",
        "patient/Observation.rs openid",
        "x",
    ):
        answer = await app.refreshed(body["refresh_token"], scope=more)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope"), more
    less = (await app.refreshed(body["refresh_token"], scope="patient/Observation.r")).json()
    assert less["scope"] == "patient/Observation.r"
    assert [str(s) for s in site.authority.tokens.verify(less["access_token"]).scopes] == ["patient/Observation.r"]
    all_again = (await app.refreshed(less["refresh_token"])).json()
    assert all_again["scope"] == body["scope"]


async def test_without_offline_or_online_access_there_is_no_refresh_token(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    assert "refresh_token" not in await app.tokens(signed, scope="user/*.rs")


async def test_online_access_ends_with_the_login_and_offline_access_does_not(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    online = await app.tokens(signed, scope="online_access user/*.rs")
    offline = await app.tokens(signed, scope="offline_access user/*.rs")
    online = (await app.refreshed(online["refresh_token"])).json()
    async with site.authority.database.transaction() as conn:
        await sessions.end(conn, signed.account.name, signed.digest)
        await site.authority.tokens.revocations.refresh(conn)
    assert (await app.refreshed(online["refresh_token"])).json()["error"] == "invalid_grant"
    with pytest.raises(Unauthorized):
        site.authority.tokens.verify(online["access_token"])
    site.authority.tokens.verify(offline["access_token"])
    assert (await app.refreshed(offline["refresh_token"])).status_code == 200


async def test_offline_access_has_its_end_too(site: Site, database: Database) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    body = await app.tokens(signed)
    async with database.transaction() as conn:
        await conn.execute("UPDATE refresh_token SET expires_at = clock_timestamp()")
    assert (await app.refreshed(body["refresh_token"])).json()["error"] == "invalid_grant"


async def test_who_has_lost_a_role_or_the_account_refreshes_to_less_or_nothing(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person("administrator")
    body = await app.tokens(signed, scope="offline_access user/Patient.rs user/AuditEvent.rs")
    assert "user/AuditEvent.rs" in body["scope"].split()
    async with site.authority.database.transaction() as conn:
        await accounts.set_roles(conn, signed.account.name, ["radiologist"])
    less = (await app.refreshed(body["refresh_token"])).json()
    assert less["scope"] == "offline_access user/Patient.rs"
    async with site.authority.database.transaction() as conn:
        await accounts.disable(conn, signed.account.name)
    assert (await app.refreshed(less["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_disabled_client_refreshes_nothing(site: Site) -> None:
    app, _ = await app_of(site, "public")
    _, signed = await site.person()
    body = await app.tokens(signed)
    async with site.authority.database.transaction() as conn:
        await clients.disable(conn, app.client_id)
    assert (await app.refreshed(body["refresh_token"])).json()["error"] == "invalid_client"


async def test_the_audit_has_each_issue_and_refusal_without_what_could_be_used_again(
    site: Site, database: Database
) -> None:
    app, _ = await app_of(site, "symmetric")
    _, signed = await site.person()
    pkce = Pkce.new()
    code = (await app.authorized(signed, pkce))["code"]
    body = (await app.exchange(code, pkce)).json()
    await app.exchange(code, pkce)
    async with database.transaction() as conn:
        rows = await (
            await conn.execute(
                "SELECT outcome, body FROM audit_event WHERE kind = 'token-issued' AND principal = %s ORDER BY 1",
                (app.client_id,),
            )
        ).fetchall()
    assert [row[0] for row in rows] == ["0", "4"]
    for _, text in rows:
        queries = [base64.b64decode(e["query"]).decode() for e in _json(text)["entity"] if "query" in e]
        assert queries[0].startswith("grant_type=authorization_code&code=sha256")
        for hidden in (code, pkce.verifier, app.secret, body["access_token"], body["refresh_token"]):
            assert hidden not in text + queries[0]
    first = _json(rows[0][1])
    assert signed.account.name in rows[0][1]
    assert first["meta"]["profile"] == ["https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.IUA.71"]


def _json(text: str) -> dict[str, Any]:
    return dict(json.loads(text))
