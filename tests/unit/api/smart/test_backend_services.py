"""Machines that come for themselves, by a key (SMART App Launch 2.2 backend-services.html,
client-confidential-asymmetric.html, RFC 7523)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from tests.smart_apps import BASE, FHIR, TOKEN, App, Key, Site

from wetread.access.clients import clients
from wetread.store.database import Database

EC, RSA = Key.ec(), Key.rsa()


@contextlib.asynccontextmanager
async def published(
    keys: Sequence[Key] = (), cache: str = "", body: bytes | None = None
) -> AsyncIterator[tuple[str, list[str]]]:
    """A JWKS at a URL on this machine, and who has asked for it."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[0])
        content = json.dumps({"keys": [key.jwk for key in keys]}).encode() if body is None else body
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        head += f"Cache-Control: {cache}\r\n" if cache else ""
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + content)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield f"http://127.0.0.1:{port}/jwks.json", asked


async def came(machine: App, assertion: str, scope: str | None = "system/*.rs") -> httpx.Response:
    return await machine.token(grant_type="client_credentials", scope=scope, client_assertion=assertion)


async def refused(machine: App, assertion: str) -> bool:
    """Whether the assertion is refused with the one error that there is for it."""
    answer = await came(machine, assertion)
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code in (400, 401) and answer.json()["error"] == "invalid_client"


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES384", "RS384"])
async def test_a_machine_gets_a_short_token_for_what_it_is_registered_for(site: Site, key: Key) -> None:
    machine = await site.backend(key, "system/Patient.rs system/Observation.rs", roles=["service"])
    answer = await came(machine, key.assertion(machine.client_id), "system/*.cruds")
    body = answer.json()
    assert answer.status_code == 200
    assert (body["token_type"], body["expires_in"]) == ("Bearer", 300)
    assert body["scope"] == "system/Patient.rs system/Observation.rs"
    assert "refresh_token" not in body
    reader = site.authority.tokens.verify(body["access_token"])
    assert (reader.principal, reader.client_id, reader.roles) == (machine.client_id, machine.client_id, {"service"})
    headers = {"Authorization": f"Bearer {body['access_token']}"}
    assert (await site.http.get("/fhir/Patient", headers=headers)).status_code == 200
    assert (await site.http.get("/fhir/Encounter", headers=headers)).status_code == 403


async def test_who_asks_in_the_words_of_smart_1_is_answered_in_them(site: Site) -> None:
    machine = await site.backend(EC, "system/*.cruds")
    body = (await came(machine, EC.assertion(machine.client_id), "system/Patient.read system/Task.*")).json()
    assert body["scope"] == "system/Patient.read system/Task.*"


async def test_a_constraint_of_the_registration_stays(site: Site) -> None:
    machine = await site.backend(EC, "system/Observation.rs?category=imaging")
    body = (await came(machine, EC.assertion(machine.client_id), "system/Observation.rs")).json()
    assert body["scope"] == "system/Observation.rs?category=imaging"


@pytest.mark.parametrize("scope", [None, "", "user/*.rs", "patient/*.rs", "openid", "system/Device.rs", "rubbish"])
async def test_other_scopes_are_refused(site: Site, scope: str | None) -> None:
    machine = await site.backend(EC, "system/Patient.rs user/*.rs patient/*.rs openid")
    answer = await came(machine, EC.assertion(machine.client_id), scope)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://elsewhere.example/oauth/token"},
        {"aud": FHIR},
        {"aud": BASE},
        {"aud": None},
        {"aud": [f"{TOKEN}/"]},
        {"aud": ["x"] * 1000 + [TOKEN]},
        {"aud": {"a": 1}},
        {"iss": "somebody-else"},
        {"iss": None},
        {"sub": None},
        {"sub": "somebody-else"},
        {"exp": None},
        {"exp": int(time.time()) - 120},
        {"exp": int(time.time()) + 3600},
        {"nbf": int(time.time()) + 3600},
        {"iat": int(time.time()) + 3600},
        {"jti": None},
        {"jti": ""},
        {"jti": "x" * 300},
        {"jti": "a\x00b"},
    ],
    ids=lambda claims: f"{next(iter(claims))}={str(next(iter(claims.values())))[:20]!r}",
)
async def test_an_assertion_with_a_wrong_claim_is_refused(site: Site, claims: dict[str, Any]) -> None:
    machine = await site.backend(EC)
    assert await refused(machine, EC.assertion(machine.client_id, **claims))


async def test_claims_of_the_wrong_type_are_refused(site: Site) -> None:
    machine = await site.backend(EC)
    for claims in (
        {"exp": "soon"},
        {"exp": True},
        {"exp": [1]},
        {"exp": 1e400},
        {"jti": 5},
        {"iss": 7},
        {"sub": ["x"]},
    ):
        text = json.dumps(
            {"iss": machine.client_id, "sub": machine.client_id, "aud": TOKEN, "exp": 1, "jti": "j", **claims}
        )
        assert await refused(machine, signed(EC, {"alg": "ES384", "kid": EC.kid}, text.encode()))


async def test_an_assertion_counts_once_in_all_processes(site: Site) -> None:
    machine = await site.backend(EC)
    assertion = EC.assertion(machine.client_id)
    answers = await asyncio.gather(*(came(machine, assertion) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400]
    assert await refused(machine, assertion)
    other = await site.backend(EC)
    jti = str(uuid.uuid4())
    for one in (machine, other):
        assert (await came(one, EC.assertion(one.client_id, jti=jti))).status_code == 200, "an id is of its issuer"


async def test_an_unsigned_or_wrongly_signed_assertion_is_refused(site: Site) -> None:
    machine, rsa_machine = await site.backend(EC), await site.backend(RSA)
    claims = jwt.decode(EC.assertion(machine.client_id), options={"verify_signature": False})
    rsa_claims = {**claims, "iss": rsa_machine.client_id, "sub": rsa_machine.client_id}
    public = RSA.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    good = EC.assertion(machine.client_id)
    head, body, _ = good.split(".")
    stranger = Key.ec(EC.kid)
    for assertion in (
        jwt.encode(claims, None, algorithm="none", headers={"kid": EC.kid}),
        part({"alg": "none", "kid": EC.kid}) + "." + part(claims) + ".",
        part({"alg": "NONE", "kid": EC.kid}) + "." + part(claims) + ".",
        f"{head}.{body}.",
        f"{head}.{part({**claims, 'scope': 'system/*.cruds'})}.{good.rpartition('.')[2]}",
        stranger.assertion(machine.client_id),
        Key(RSA.private, EC.kid, "RS384").assertion(machine.client_id),
        "not a jwt",
        "a.b.c",
        "....",
        part({"alg": "ES384", "kid": EC.kid}) + "." + base64.urlsafe_b64encode(b"[" * 20_000).decode() + ".x",
    ):
        assert await refused(machine, assertion)
    for algorithm, digest in (("HS256", "sha256"), ("HS384", "sha384")):
        signing = f"{part({'alg': algorithm, 'kid': RSA.kid})}.{part(rsa_claims)}"
        for secret in (public, json.dumps(RSA.jwk).encode(), b""):
            mac = hmac.new(secret, signing.encode(), digest).digest()
            assert await refused(rsa_machine, f"{signing}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")
    for algorithm in ("RS256", "RS512", "PS384"):
        assert await refused(rsa_machine, Key(RSA.private, RSA.kid, algorithm).assertion(rsa_machine.client_id))


async def test_the_key_is_found_by_its_id(site: Site) -> None:
    second = Key.ec("k2")
    machine = await site.backend(EC, jwks={"keys": [RSA.jwk, second.jwk, EC.jwk]})
    for key in (EC, second, RSA):
        assert (await came(machine, key.assertion(machine.client_id))).status_code == 200
    assert await refused(machine, Key(EC.private, "k2", "ES384").assertion(machine.client_id))
    assert await refused(machine, Key(EC.private, "unknown", "ES384").assertion(machine.client_id))
    assert await refused(machine, EC.assertion(machine.client_id, headers={"kid": None}))


async def test_of_two_keys_with_one_id_the_right_one_is_tried_too(site: Site) -> None:
    machine = await site.backend(EC, jwks={"keys": [Key.ec(EC.kid).jwk, {"kty": "EC", "kid": EC.kid}, EC.jwk]})
    assert (await came(machine, EC.assertion(machine.client_id))).status_code == 200


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits long")
async def test_a_short_rsa_key_is_refused(site: Site) -> None:
    short = Key.rsa("short", bits=1024)
    machine = await site.backend(short)
    assert await refused(machine, short.assertion(machine.client_id))


async def test_keys_at_a_url_are_kept_as_long_as_it_says(site: Site) -> None:
    async with published([EC], cache="max-age=300") as (url, asked):
        machine = await site.backend(EC, jwks_uri=url)
        for _ in range(3):
            assert (await came(machine, EC.assertion(machine.client_id))).status_code == 200
        assert len(asked) == 1
    for cache in ("no-store", "no-cache, max-age=300", ""):
        async with published([EC], cache=cache) as (url, asked):
            machine = await site.backend(EC, jwks_uri=url)
            for _ in range(3):
                assert (await came(machine, EC.assertion(machine.client_id))).status_code == 200
            assert len(asked) == 3


async def test_a_new_key_at_the_url_is_found_but_guessed_ids_make_no_storm(site: Site) -> None:
    keys = [EC]
    second = Key.ec("k2")
    async with published(keys, "max-age=300") as (url, asked):
        machine = await site.backend(EC, jwks_uri=url)
        assert (await came(machine, EC.assertion(machine.client_id))).status_code == 200
        keys.append(second)
        for _ in range(5):
            assert await refused(machine, Key.ec("guessed").assertion(machine.client_id))
        assert len(asked) <= 2
        kept = site.authority.client_keys._kept[url]
        kept.not_before = 0.0
        assert (await came(machine, second.assertion(machine.client_id))).status_code == 200


async def test_keys_that_may_be_kept_outlive_a_fault_of_their_url(site: Site) -> None:
    async with published([EC], "max-age=300") as (url, asked):
        machine = await site.backend(EC, jwks_uri=url)
        assert (await came(machine, EC.assertion(machine.client_id))).status_code == 200
    site.authority.client_keys._kept[url].not_before = 0.0
    assert await refused(machine, Key.ec("guessed").assertion(machine.client_id))
    assert (await came(machine, EC.assertion(machine.client_id))).status_code == 200
    assert len(asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"x" * 70_000,
        b'{"keys": [' + b"{}," * 20_000 + b"{}]}",
        b"not json",
        b"[]",
        b'{"keys": 5}',
        b'{"keys": [5]}',
        b"[" * 5000,
    ],
    ids=["oversized", "many", "text", "list", "number", "members", "deep"],
)
async def test_what_is_no_jwks_or_too_large_is_refused(site: Site, body: bytes) -> None:
    async with published(body=body) as (url, _):
        machine = await site.backend(EC, jwks_uri=url)
        assert await refused(machine, EC.assertion(machine.client_id))


async def test_a_url_that_is_not_allowed_or_does_not_answer_is_refused(site: Site) -> None:
    for url in ("https://169.254.169.254/jwks.json", "https://keys.example/jwks.json", "http://127.0.0.1:1/jwks.json"):
        machine = await site.backend(EC, jwks_uri=url)
        assert await refused(machine, EC.assertion(machine.client_id))


async def test_jku_is_the_registered_url_or_nothing(site: Site) -> None:
    by_value = await site.backend(EC)
    async with published([EC]) as (url, asked), published([Key.ec(EC.kid)]) as (other, asked_of_other):
        by_url = await site.backend(EC, jwks_uri=url)
        assert (await came(by_url, EC.assertion(by_url.client_id, headers={"jku": url}))).status_code == 200
        assert asked
        for machine, jku in ((by_url, other), (by_url, f"{url}#x"), (by_value, url), (by_value, ""), (by_url, None)):
            expected = jku is None
            answer = await came(machine, EC.assertion(machine.client_id, headers={"jku": jku}))
            assert (answer.status_code == 200) == expected
        assert not asked_of_other


async def test_who_is_registered_for_it_with_a_secret_comes_by_that(site: Site) -> None:
    machine = await site.register(
        "symmetric", grant_types=["client_credentials"], redirect_uris=[], scope="system/*.rs"
    )
    answer = await machine.token(grant_type="client_credentials", scope="system/Patient.rs user/*.rs")
    assert (answer.json()["scope"], answer.json()["expires_in"]) == ("system/Patient.rs", 300)
    app = await site.register("symmetric", scope="system/*.rs")
    answer = await app.token(grant_type="client_credentials", scope="system/*.rs")
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")
    public = await site.register(scope="system/*.rs")
    answer = await public.token(grant_type="client_credentials", scope="system/*.rs")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_only_who_is_registered_for_it_comes_for_itself(site: Site) -> None:
    app = await site.register("asymmetric", jwks={"keys": [EC.jwk]}, scope="system/*.rs")
    answer = await came(app, EC.assertion(app.client_id))
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")
    machine = await site.backend(EC)
    wrong_type = await machine.token(
        grant_type="client_credentials",
        scope="system/*.rs",
        client_assertion=EC.assertion(machine.client_id),
        client_assertion_type="urn:ietf:params:oauth:client-assertion-type:saml2-bearer",
    )
    assert wrong_type.json()["error"] == "invalid_client"
    other = await came(machine, EC.assertion((await site.backend(Key.ec("x"))).client_id))
    assert other.json()["error"] == "invalid_client"


async def test_a_machine_that_is_disabled_or_calls_from_elsewhere_gets_nothing(site: Site) -> None:
    machine, elsewhere = await site.backend(EC), await site.backend(EC, networks=["10.0.0.0/8"])
    assert await refused(elsewhere, EC.assertion(elsewhere.client_id))
    async with site.authority.database.transaction() as conn:
        await clients.disable(conn, machine.client_id)
    assert await refused(machine, EC.assertion(machine.client_id))


async def test_the_audit_has_the_assertion_without_its_signature(site: Site, database: Database) -> None:
    machine = await site.backend(EC)
    assertion = EC.assertion(machine.client_id)
    await came(machine, assertion)
    await came(machine, assertion)
    async with database.transaction() as conn:
        rows = await (
            await conn.execute(
                "SELECT outcome, body FROM audit_event WHERE kind = 'token-issued' AND principal = %s ORDER BY 1",
                (machine.client_id,),
            )
        ).fetchall()
    assert [outcome for outcome, _ in rows] == ["0", "4"]
    for _, body in rows:
        (query,) = [base64.b64decode(e["query"]).decode() for e in json.loads(body)["entity"] if "query" in e]
        signature = assertion.rpartition(".")[2]
        assert assertion.rpartition(".")[0] in query
        assert signature not in query + body


def part(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def signed(key: Key, header: dict[str, Any], payload: bytes) -> str:
    """By hand, since PyJWT makes no claims of the wrong type."""
    return jwt.api_jws.encode(payload, key.private, algorithm=key.algorithm, headers=header)
