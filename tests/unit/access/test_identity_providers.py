"""Login through an identity provider: what is believed of it, and what it cannot do."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from tests import identity_provider
from tests.identity_provider import CLIENT_ID, CLIENT_SECRET, Claims

from wetread.access.people import accounts, pending_logins, sessions
from wetread.access.people.accounts import Account
from wetread.access.people.sessions import Lifetime
from wetread.access.providers import identity_providers
from wetread.access.providers.documents import ProviderDocuments
from wetread.access.providers.identity_providers import IdentityProvider, Provider, Vouched
from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import InvalidInput, PeerUnavailable, Unauthorized, Unsupported
from wetread.store.database import Database
from wetread.wire.fetch import Fetch, UnusableAnswer, trusted

BROWSER = "the-cookie-of-one-browser"
TRUSTED = trusted()
CALLBACK = "https://wetread.test/login/provider/kc/callback"


class NotUnderWay(Exception):
    pass


class Login:
    """One provider, this server as its client, and a browser that goes between them."""

    def __init__(self, database: Database, peer: identity_provider.IdentityProvider, fetch: Fetch) -> None:
        self.database = database
        self.peer = peer
        self.clock = 1000.0
        self.fetch = fetch
        self.provider = Provider(
            name="kc",
            display_name="Keycloak",
            issuer=peer.issuer,
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            scopes=("profile",),
            groups_claim="groups",
            roles={"radiology": ("radiologist",), "physics": ("physicist",), "it": ("engineer", "administrator")},
        )
        self.documents = ProviderDocuments(peer.issuer, fetch, lambda: self.clock)

    @property
    def ours(self) -> IdentityProvider:
        return IdentityProvider(self.provider, CALLBACK, self.fetch, self.documents)

    async def begin(self, onward: str = "/worklist") -> str:
        metadata = await self.documents.metadata()
        async with self.database.transaction() as conn:
            return await self.ours.begin(conn, metadata, BROWSER, onward)

    async def at_provider(self, url: str) -> dict[str, str]:
        """The person logs in there: the query with which their browser comes back."""
        async with httpx.AsyncClient() as browser:
            answer = await browser.get(url)
        location = answer.headers["location"]
        assert location.startswith(f"{CALLBACK}?")
        return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}

    async def back(self, answer: dict[str, str], browser: str = BROWSER) -> Vouched:
        async with self.database.transaction() as conn:
            under_way = await identity_providers.take(conn, answer.get("state", ""), browser)
        if under_way is None:
            raise NotUnderWay
        return await self.ours.redeem(await self.documents.metadata(), under_way, answer)

    async def vouched(self) -> Vouched:
        return await self.back(await self.at_provider(await self.begin()))

    async def admitted(self, **claims: Any) -> Account | None:
        self.peer.person = {**self.peer.person, **claims}
        vouched = await self.vouched()
        async with self.database.transaction() as conn:
            return await self.ours.admit(conn, vouched.claims)


@pytest.fixture(scope="module")
async def standing() -> AsyncIterator[identity_provider.IdentityProvider]:
    async with identity_provider.running() as peer:
        yield peer


@pytest.fixture
def peer(standing: identity_provider.IdentityProvider) -> identity_provider.IdentityProvider:
    return standing.as_new()


@pytest.fixture
async def login(module_database: Database, peer: identity_provider.IdentityProvider) -> AsyncIterator[Login]:
    fetch = Fetch(AllowedEndpoints.parse(("127.0.0.0/8",)), TRUSTED)
    yield Login(module_database, peer, fetch)
    await fetch.close()


async def test_a_person_comes_in_with_the_roles_of_their_groups(login: Login) -> None:
    account = await login.admitted(groups=["radiology", "it", "football"])
    assert account is not None
    assert account.name == f"{login.peer.issuer}#u-1"
    assert (account.display_name, account.issuer, account.subject) == ("Rae Reader", login.peer.issuer, "u-1")
    assert account.roles == {"radiologist", "engineer", "administrator"}


async def test_the_browser_is_sent_with_pkce_state_and_nonce_and_no_secret(login: Login) -> None:
    url = await login.begin()
    asked = parse_qs(urlsplit(url).query)
    assert url.startswith(f"{login.peer.issuer}/authorize?")
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["scope"] == ["openid profile"]
    assert asked["redirect_uri"] == [CALLBACK]
    assert len(asked["state"][0]) >= 43
    assert len(asked["nonce"][0]) >= 43
    assert CLIENT_SECRET not in url
    assert parse_qs(urlsplit(await login.begin()).query)["state"] != asked["state"]


async def test_whoever_lost_the_group_lost_the_role_and_what_they_have_open(login: Login) -> None:
    account = await login.admitted(sub="u-leaver", groups=["radiology", "physics"])
    assert account is not None
    async with login.database.transaction() as conn:
        cookie = await sessions.begin(conn, account.name, Lifetime(timedelta(hours=1), timedelta(hours=1)))
    account = await login.admitted(sub="u-leaver", groups=["physics"])
    assert account is not None
    assert account.roles == {"physicist"}
    assert await login.admitted(sub="u-leaver", groups=[]) is None
    async with login.database.transaction() as conn:
        left = await accounts.by_subject(conn, login.peer.issuer, "u-leaver")
        assert left is not None
        assert left.roles == frozenset()
        assert await sessions.person(conn, cookie) is None


async def test_whoever_is_in_no_mapped_group_is_kept_out_and_leaves_no_account(login: Login) -> None:
    for groups in (["football"], [], "other", None, {"radiology": True}, [["radiology"]], 7):
        assert await login.admitted(sub="u-nobody", groups=groups) is None
    async with login.database.transaction() as conn:
        assert await accounts.by_subject(conn, login.peer.issuer, "u-nobody") is None
    login.provider = replace(login.provider, without_group=("analyst",))
    account = await login.admitted(sub="u-nobody", groups=["football"])
    assert account is not None
    assert account.roles == {"analyst"}


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["physics"]}}),
        ("https://wetread.example/groups", {"https://wetread.example/groups": ["physics"]}),
        ("role", {"role": "physics"}),
    ],
)
async def test_groups_may_stand_deeper_or_alone(path: str, claims: Claims, login: Login) -> None:
    login.provider = replace(login.provider, groups_claim=path)
    account = await login.admitted(sub="u-deep", **claims)
    assert account is not None
    assert account.roles == {"physicist"}


async def test_fhir_user_is_of_the_claim_that_the_operator_names(login: Login) -> None:
    login.provider = replace(login.provider, fhir_user_claim="fhirUser")
    account = await login.admitted(sub="u-fhir", fhirUser="Practitioner/123")
    assert account is not None
    assert account.fhir_user == "Practitioner/123"
    with pytest.raises(InvalidInput, match="fhirUser"):
        await login.admitted(sub="u-fhir", fhirUser="javascript:alert(1)")


async def test_a_provider_cannot_speak_for_a_local_person(login: Login) -> None:
    async with login.database.transaction() as conn:
        await accounts.add(conn, "rae", "Rae of this house", ["administrator"])
    account = await login.admitted(sub="rae", preferred_username="rae")
    assert account is not None
    assert account.name != "rae"
    assert account.roles == {"radiologist"}
    async with login.database.transaction() as conn:
        local = await accounts.named(conn, "rae")
    assert (local.roles, local.issuer) == ({"administrator"}, "")


@pytest.mark.parametrize("subject", ["", "x" * 256, "a\nb"])
async def test_a_subject_that_names_nobody_is_refused(subject: str, login: Login) -> None:
    with pytest.raises(Unauthorized):
        await login.admitted(sub=subject)


async def test_claims_of_the_userinfo_endpoint_are_taken_where_asked_for_and_of_this_person_only(login: Login) -> None:
    del login.peer.person["groups"]
    assert await login.admitted() is None
    login.provider = replace(login.provider, userinfo=True)
    account = await login.admitted()
    assert account is not None
    assert account.roles == {"physicist"}
    login.peer.sign = lambda claims: login.peer.signed({**claims, "sub": "u-other"})
    with pytest.raises(Unauthorized, match="another person"):
        await login.vouched()


# What an ID token must be (OpenID Connect Core 3.1.3.7)


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _unsigned(claims: Claims) -> str:
    return ".".join([_encoded(b'{"alg": "none"}'), _encoded(json.dumps(claims).encode()), ""])


def _by_public_key(peer: identity_provider.IdentityProvider, claims: Claims) -> str:
    """joserfc would not make this one."""
    text = ".".join([_encoded(b'{"alg": "HS256", "kid": "k1"}'), _encoded(json.dumps(claims).encode())])
    made = hmac.digest(peer.key.as_pem(private=False), text.encode(), "sha256")
    return f"{text}.{_encoded(made)}"


def _changed(token: str, claims: Claims) -> str:
    head, _, signature = token.split(".")
    return ".".join([head, _encoded(json.dumps(claims).encode()), signature])


FORGED: dict[str, Callable[[identity_provider.IdentityProvider, Claims], str]] = {
    "alg none": lambda peer, claims: _unsigned(claims),
    "HS256 with the public key as the secret": _by_public_key,
    "HS256 with the client secret": lambda peer, claims: jwt.encode(
        {"alg": "HS256"}, claims, OctKey.import_key(CLIENT_SECRET), algorithms=["HS256"]
    ),
    "another key under the same name": lambda peer, claims: jwt.encode(
        {"alg": "ES256", "kid": "k1"}, claims, ECKey.generate_key("P-256")
    ),
    "a key in the token itself": lambda peer, claims: jwt.encode(
        {"alg": "ES256", "jwk": (own := ECKey.generate_key("P-256")).as_dict(private=False)}, claims, own
    ),
    "a key of another kind under the same name": lambda peer, claims: jwt.encode(
        {"alg": "RS256", "kid": "k1"}, claims, RSAKey.generate_key(2048)
    ),
    "claims changed after signing": lambda peer, claims: _changed(peer.signed(claims), {**claims, "sub": "u-9"}),
    "no token at all": lambda peer, claims: "not.a.token",
    "a list for a header": lambda peer, claims: base64.urlsafe_b64encode(b"[]").decode() + ".e30.x",
    "without end": lambda peer, claims: peer.signed({**claims, "x": "x" * 70_000}),
}


@pytest.mark.parametrize("how", FORGED)
async def test_a_forged_token_is_refused(how: str, login: Login) -> None:
    login.peer.sign = lambda claims: FORGED[how](login.peer, claims)
    with pytest.raises(Unauthorized):
        await login.vouched()


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
@pytest.mark.parametrize("how", ["HS256 with the public key as the secret", "alg none"])
async def test_not_even_a_provider_that_publishes_a_shared_key_changes_that(how: str, login: Login) -> None:
    login.peer.published = [{"kty": "oct", "k": _encoded(login.peer.key.as_pem(private=False)), "kid": "k1"}]
    login.peer.sign = lambda claims: FORGED[how](login.peer, claims)
    with pytest.raises(Unauthorized):
        await login.vouched()


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://other.example.org"},
        {"iss": None},
        {"aud": "another-client"},
        {"aud": [CLIENT_ID, "another-client"]},
        {"aud": [CLIENT_ID, "another-client"], "azp": "another-client"},
        {"azp": "another-client"},
        {"aud": []},
        {"aud": None},
        {"exp": int(time.time()) - 120},
        {"exp": None},
        {"exp": "never"},
        {"iat": int(time.time()) + 600},
        {"nbf": int(time.time()) + 600},
        {"nonce": "of another login"},
        {"nonce": None},
        {"sub": None},
        {"sub": 7},
        {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
        {"at_hash": 7},
    ],
    ids=json.dumps,
)
async def test_a_signed_token_that_is_not_for_this_login_is_refused(wrong: Claims, login: Login) -> None:
    login.peer.sign = lambda claims: login.peer.signed(
        {name: value for name, value in {**claims, **wrong}.items() if value is not None}
    )
    with pytest.raises(Unauthorized):
        await login.vouched()


async def test_several_audiences_are_fine_where_the_token_was_made_for_us(login: Login) -> None:
    login.peer.person |= {"aud": [CLIENT_ID, "another-client"], "azp": CLIENT_ID}
    assert (await login.vouched()).claims["sub"] == "u-1"


# State: once, in one browser, for one provider


async def test_a_login_counts_once(login: Login) -> None:
    answer = await login.at_provider(await login.begin())
    await login.back(answer)
    with pytest.raises(NotUnderWay):
        await login.back(answer)


@pytest.mark.parametrize("browser", ["another-browser", ""])
async def test_a_state_of_another_browser_is_refused_and_spent(browser: str, login: Login) -> None:
    answer = await login.at_provider(await login.begin())
    with pytest.raises(NotUnderWay):
        await login.back(answer, browser)
    with pytest.raises(NotUnderWay):
        await login.back(answer)


@pytest.mark.parametrize("state", ["", "invented"])
async def test_a_state_that_was_never_given_out_is_refused(state: str, login: Login) -> None:
    answer = await login.at_provider(await login.begin())
    with pytest.raises(NotUnderWay):
        await login.back({**answer, "state": state})


async def test_another_kind_of_pending_login_is_no_state(login: Login) -> None:
    async with login.database.transaction() as conn:
        value = await pending_logins.put(conn, {"kind": "totp", "account": "rae"}, timedelta(minutes=1))
    with pytest.raises(NotUnderWay):
        await login.back({"state": value, "code": "x"})


async def test_a_code_of_another_login_is_refused_by_its_verifier(login: Login) -> None:
    """Code injection: the attacker's code in the victim's answer."""
    theirs = await login.at_provider(await login.begin())
    mine = await login.at_provider(await login.begin())
    with pytest.raises(UnusableAnswer, match="invalid_grant"):
        await login.back({**mine, "code": theirs["code"]})


async def test_an_answer_of_another_provider_is_refused(login: Login) -> None:
    login.peer.authorization = {"iss": "https://other.example.org"}
    with pytest.raises(Unauthorized, match="another identity provider"):
        await login.vouched()
    login.peer.authorization = {"iss": login.peer.issuer}
    await login.vouched()


async def test_a_provider_that_says_whose_its_answers_are_must_say_it(login: Login) -> None:
    login.peer.discovery = {"authorization_response_iss_parameter_supported": True}
    with pytest.raises(Unauthorized, match="another identity provider"):
        await login.vouched()


@pytest.mark.parametrize(
    ("error", "said"), [("access_denied", "access_denied"), ("<script>alert(1)</script>", "an unknown error")]
)
async def test_a_refusal_of_the_provider_is_told_in_words_that_are_ours(error: str, said: str, login: Login) -> None:
    answer = await login.at_provider(await login.begin())
    with pytest.raises(Unauthorized, match=f"did not let you in: {said}$"):
        await login.back({"state": answer["state"], "error": error, "error_description": "<b>"})


# Discovery and keys


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        ({"issuer": "https://other.example.org"}, UnusableAnswer),
        ({"token_endpoint": "http://169.254.169.254/latest/meta-data/"}, UnusableAnswer),
        ({"token_endpoint": "https://169.254.169.254/latest/meta-data/"}, Unsupported),
        ({"token_endpoint": "https://10.0.0.1/token"}, Unsupported),
        ({"jwks_uri": "https://[::ffff:169.254.169.254]/"}, Unsupported),
        ({"jwks_uri": "file:///etc/passwd"}, UnusableAnswer),
        ({"jwks_uri": ""}, UnusableAnswer),
        ({"authorization_endpoint": "javascript:alert(1)"}, UnusableAnswer),
        ({"authorization_endpoint": "http://idp.example.org/authorize"}, UnusableAnswer),
        ({"end_session_endpoint": "http://user@127.0.0.1/"}, UnusableAnswer),
    ],
    ids=str,
)
async def test_discovery_leads_nowhere_that_the_operator_did_not_allow(
    wrong: Claims, refusal: type[Exception], login: Login
) -> None:
    answer = await login.at_provider(await login.begin())
    login.peer.discovery = wrong
    login.clock += 24 * 3600
    with pytest.raises(refusal):
        await login.back(answer)


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/jwks", "/token", "/userinfo"])
async def test_no_redirect_of_the_provider_is_followed(path: str, login: Login) -> None:
    """Our secret, the code and a person's token would go along, and anything inside the house could be asked."""
    login.provider = replace(login.provider, userinfo=True)
    answer = await login.at_provider(await login.begin())
    login.peer.moved = {path: f"{login.peer.issuer}/elsewhere"}
    login.clock += 24 * 3600
    with pytest.raises(UnusableAnswer, match="307"):
        await login.back(answer)
    assert login.peer.times(path) >= 1
    assert login.peer.times("/elsewhere") == 0


async def test_documents_are_kept_as_long_as_the_provider_says(login: Login) -> None:
    login.peer.cache_control = "max-age=1000"
    for _ in range(3):
        await login.vouched()
    assert (login.peer.times("/.well-known/openid-configuration"), login.peer.times("/jwks")) == (1, 1)
    login.clock += 1001
    await login.vouched()
    assert (login.peer.times("/.well-known/openid-configuration"), login.peer.times("/jwks")) == (2, 2)


async def test_a_new_key_is_found_and_unknown_ones_do_not_make_a_storm(login: Login) -> None:
    await login.vouched()
    login.clock += 60
    login.peer.key = ECKey.generate_key("P-256", {"kid": "k2"})
    await login.vouched()
    assert login.peer.times("/jwks") == 2
    login.peer.sign = lambda claims: jwt.encode({"alg": "ES256", "kid": "invented"}, claims, login.peer.key)
    for _ in range(3):
        with pytest.raises(Unauthorized, match="does not publish"):
            await login.vouched()
    assert login.peer.times("/jwks") == 2


async def test_a_broken_key_does_not_spoil_the_others(login: Login) -> None:
    own = login.peer.key.as_dict(private=False)
    login.peer.published = [{"kty": "EC", "crv": "P-256"}, {"kty": "LATTICE"}, {"kty": "RSA", "n": 1}, own]  # type: ignore[list-item]
    await login.vouched()


async def test_without_its_secret_nobody_gets_in(login: Login) -> None:
    login.provider = replace(login.provider, client_secret="wrong")
    with pytest.raises(UnusableAnswer, match="invalid_client"):
        await login.vouched()


async def test_a_provider_that_is_away_is_no_refusal_and_is_not_waited_for_by_one_after_the_other() -> None:
    clock, tried = 1000.0, 0

    async def resolve(host: str, port: int) -> Sequence[str]:
        nonlocal tried
        tried += 1
        return ["127.0.0.1"]

    fetch = Fetch(AllowedEndpoints.parse(("127.0.0.0/8",)), TRUSTED, resolve)
    documents = ProviderDocuments("http://127.0.0.1:9", fetch, lambda: clock)
    for _ in range(3):
        with pytest.raises(PeerUnavailable):
            await documents.metadata()
    assert tried == 1
    clock += 6
    with pytest.raises(PeerUnavailable):
        await documents.metadata()
    assert tried == 2
    await fetch.close()


async def test_the_person_can_log_out_at_the_provider(login: Login) -> None:
    vouched = await login.vouched()
    async with login.database.transaction() as conn:
        value = await identity_providers.keep_for_logout(conn, "kc", vouched.id_token, timedelta(hours=1))
        assert await identity_providers.take_for_logout(conn, value) == ("kc", vouched.id_token)
        assert await identity_providers.take_for_logout(conn, value) is None
    url = login.ours.logout_url(await login.documents.metadata(), vouched.id_token, "https://wetread.test/login")
    assert url is not None
    assert url.startswith(f"{login.peer.issuer}/logout?")
    asked = parse_qs(urlsplit(url).query)
    assert asked["id_token_hint"] == [vouched.id_token]
    assert asked["post_logout_redirect_uri"] == ["https://wetread.test/login"]


async def test_a_provider_that_offers_no_logout_is_left_alone(login: Login) -> None:
    login.peer.discovery = {"end_session_endpoint": ""}
    assert login.ours.logout_url(await login.documents.metadata(), "x", "https://wetread.test/login") is None
