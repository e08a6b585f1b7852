"""A SMART app under test: it registers, people let it in, and it speaks with the endpoints as any app would.

Its JWTs are PyJWT's, which shares no code with ours.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from zoneinfo import ZoneInfo

import httpx
import jwt
from argon2 import PasswordHasher
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import FastAPI
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.requests import Request
from starlette.responses import Response

from wetread.access import secrets as client_secrets
from wetread.access.clients import clients, registration
from wetread.access.clients.assertions import ClientKeys
from wetread.access.clients.known import KnownClients
from wetread.access.oauth import launches
from wetread.access.oauth.authorization_requests import AuthorizationRequests
from wetread.access.oauth.core import Authority
from wetread.access.oauth.request import Asked, parameters
from wetread.access.oauth.signing_keys import SigningKeys
from wetread.access.people import accounts, sessions
from wetread.access.people.attempts import LockOut
from wetread.access.people.passwords import Passwords
from wetread.access.people.sessions import Lifetime, Signed
from wetread.access.people.totp import Seeds
from wetread.access.tokens import Tokens, signing_key
from wetread.api import credentials, fhir, problem
from wetread.api.smart import discovery, endpoints
from wetread.api.smart.cors import Cors, Preflights
from wetread.console import pages
from wetread.console.sign_in import People
from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import WetreadError
from wetread.record.audit import audit
from wetread.store.database import Database
from wetread.wire.fetch import Fetch

BASE = "https://wetread.example"
FHIR = f"{BASE}/fhir"
TOKEN = f"{BASE}/oauth/token"
BACK = "https://app.example/back"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPE = "launch/patient openid fhirUser offline_access patient/*.rs user/*.rs"
LOGIN = Lifetime(timedelta(hours=8), timedelta(hours=1))


async def _nobody_is_told(*_: object) -> None:
    pass


@contextlib.asynccontextmanager
async def smart_site(database: Database, key_folder: Path, base: str = BASE) -> AsyncIterator[Site]:
    """The authorization server with its pages, and FHIR behind it; `base` is its address."""
    https = base.startswith("https:")
    fetch = Fetch(AllowedEndpoints.parse(["127.0.0.0/8"]))
    tokens = Tokens(signing_key(key_folder / "token.key"), "urn:wetread:server")
    keys = SigningKeys(key_folder / "id_token.keys")
    authority = Authority(database, tokens, keys, ClientKeys(fetch), base, f"{base}/fhir")
    authenticate = credentials.authenticator(
        credentials.Credentials(database, tokens, KnownClients(database, remembered_s=0), https)
    )
    people = People(
        Passwords(hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)),
        Seeds(bytes(32)),
        LockOut(after=3, first=timedelta(seconds=30), most=timedelta(minutes=15)),
        LOGIN,
        frozenset(),
    )
    app = FastAPI()
    app.add_middleware(Preflights, database=database)
    app.add_middleware(Cors, database=database)
    app.include_router(discovery.router(authority))
    app.include_router(endpoints.router(authority, authenticate))
    app.include_router(fhir.router(database, authenticate, audit.write_many, f"{base}/fhir", on_write=_nobody_is_told))
    console = pages.Console(
        database,
        tokens,
        authenticate,
        people,
        credentials.COOKIE,
        ZoneInfo("Europe/Berlin"),
        demo=False,
        https=https,
        authority=authority,
    )
    app.include_router(pages.router(console))

    @app.exception_handler(WetreadError)
    async def on_error(request: Request, error: WetreadError) -> Response:
        return problem.problem(error)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as http:
        yield Site(authority, app, http)
    await fetch.close()


@dataclass(frozen=True)
class Key:
    """A key pair of a client."""

    private: Any
    kid: str
    algorithm: str

    @classmethod
    def ec(cls, kid: str = "k1") -> Key:
        return cls(ec.generate_private_key(ec.SECP384R1()), kid, "ES384")

    @classmethod
    def rsa(cls, kid: str = "r1", bits: int = 2048) -> Key:
        return cls(rsa.generate_private_key(65537, bits), kid, "RS384")

    @property
    def jwk(self) -> dict[str, Any]:
        of = ECAlgorithm if self.algorithm == "ES384" else RSAAlgorithm
        return {**json.loads(of.to_jwk(self.private.public_key())), "kid": self.kid, "use": "sig"}

    def assertion(self, client_id: str, headers: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A good one, but for what is given; a claim or header of None is left out."""
        now = int(time.time())
        all_claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": TOKEN,
            "exp": now + 240,
            "jti": str(uuid.uuid4()),
            **claims,
        }
        kept = {name: value for name, value in all_claims.items() if value is not None}
        header = {name: value for name, value in {"kid": self.kid, **(headers or {})}.items() if value is not None}
        return jwt.encode(kept, self.private, algorithm=self.algorithm, headers=header)


@dataclass(frozen=True)
class Pkce:
    verifier: str
    challenge: str

    @classmethod
    def new(cls) -> Pkce:
        verifier = secrets.token_urlsafe(48)
        digest = hashlib.sha256(verifier.encode()).digest()
        return cls(verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode())


@dataclass(frozen=True)
class Site:
    authority: Authority
    app: FastAPI
    http: httpx.AsyncClient

    def browser(self, cookie: str = "") -> httpx.AsyncClient:
        """A person's; with the cookie of a login that was made before."""
        cookies = {sessions.cookie_name(https=True): cookie} if cookie else {}
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=BASE, cookies=cookies)

    def operator(self) -> dict[str, str]:
        """Headers of who may do everything."""
        issued = self.authority.tokens.issue("op", "system/*.cruds", ("administrator",), timedelta(minutes=5))
        return {"Authorization": f"Bearer {issued.token}"}

    async def put(self, **resource: Any) -> None:
        path = f"/fhir/{resource['resourceType']}/{resource['id']}"
        answer = await self.http.put(path, json=resource, headers=self.operator())
        assert answer.status_code in (200, 201), answer.text

    async def register(self, kind: str = "public", **wanted: Any) -> App:
        """An app, or a machine where `grant_types` say so."""
        client_id = f"c{uuid.uuid4().hex[:12]}"
        asked = {
            "name": "Nodule viewer",
            "redirect_uris": [BACK],
            "launch_uri": "https://app.example/launch",
            "grant_types": ["authorization_code", "refresh_token"],
            "scope": f"launch online_access launch/encounter profile {SCOPE}",
            **wanted,
        }
        async with self.authority.database.transaction() as conn:
            await clients.add(conn, client_id, registration.checked(kind=kind, **asked))
            secret = ""
            if kind == "symmetric":
                secret = (await client_secrets.make(conn, client_id, timedelta(days=1))).text
        return App(self, client_id, secret)

    async def backend(self, key: Key, scope: str = "system/*.rs", **wanted: Any) -> App:
        asked = {"redirect_uris": [], "launch_uri": "", "grant_types": ["client_credentials"], "scope": scope, **wanted}
        if not {"jwks", "jwks_uri"} & wanted.keys():
            asked["jwks"] = {"keys": [key.jwk]}
        return await self.register("asymmetric", **asked)

    async def person(self, *roles: str, fhir_user: str = "Practitioner/ana") -> tuple[str, Signed]:
        """Somebody who is signed in, with the value of their cookie."""
        name = f"p{uuid.uuid4().hex[:12]}"
        async with self.authority.database.transaction() as conn:
            await accounts.add(conn, name, "Ana Example", roles or ("administrator",), fhir_user=fhir_user)
            cookie = await sessions.begin(conn, name, LOGIN)
            signed = await sessions.person(conn, cookie)
        assert signed is not None
        return cookie, signed


@dataclass(frozen=True)
class App:
    site: Site
    client_id: str
    secret: str

    def request(self, pkce: Pkce, **changed: Any) -> dict[str, str]:
        """The parameters of an authorization request; one of None is left out."""
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": BACK,
            "scope": SCOPE,
            "state": "a state/ü+&=",
            "aud": FHIR,
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
            **changed,
        }
        return {name: value for name, value in asked.items() if value is not None}

    async def authorized(
        self,
        signed: Signed,
        pkce: Pkce,
        *,
        patient: str = "pat1",
        approved: set[str] | None = None,
        **changed: Any,
    ) -> dict[str, str]:
        """What the app gets back at its redirect URI. Raises Refusal."""
        pairs = parameters(urlencode(self.request(pkce, **changed)).encode())
        asked = Asked("GET", f"{BASE}/oauth/authorize", pairs)
        requests = AuthorizationRequests(self.site.authority)
        async with self.site.authority.database.transaction() as conn:
            request = await requests.read(conn, asked, signed)
            chosen = {"patient": patient, "need_patient_banner": True} if patient and request.wants_patient else {}
            context = {**(request.launch or {}), **chosen}
            _, location = await requests.approve(
                conn, request, signed, context, set(request.words) if approved is None else approved
            )
        return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}

    async def launched(self, account_name: str | None = None, **context: Any) -> str:
        async with self.site.authority.database.transaction() as conn:
            return await launches.begin(conn, self.client_id, account_name, launches.context(**context))

    async def token(self, headers: Mapping[str, str] | None = None, **form: str | None) -> httpx.Response:
        """The token endpoint, with this client's name where it is public; parameters of None are left out."""
        if not self.secret and "client_assertion" not in form:
            form = {"client_id": self.client_id, **form}
        if "client_assertion" in form:
            form = {"client_assertion_type": ASSERTION, **form}
        sent = {name: value for name, value in form.items() if value is not None}
        sent_headers = dict(headers or {})
        if self.secret and "client_secret" not in form and "Authorization" not in sent_headers:
            pair = base64.b64encode(f"{self.client_id}:{self.secret}".encode()).decode()
            sent_headers["Authorization"] = f"Basic {pair}"
        return await self.site.http.post("/oauth/token", data=sent, headers=sent_headers)

    async def exchange(self, code: str, pkce: Pkce, **form: str | None) -> httpx.Response:
        return await self.token(
            **{
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": BACK,
                "code_verifier": pkce.verifier,
                **form,
            }
        )

    async def tokens(self, signed: Signed, **wanted: Any) -> dict[str, Any]:
        """All the way to a token response."""
        pkce = Pkce.new()
        came_back = await self.authorized(signed, pkce, **wanted)
        answer = await self.exchange(came_back["code"], pkce)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def refreshed(self, refresh_token: str, **form: str | None) -> httpx.Response:
        return await self.token(**{"grant_type": "refresh_token", "refresh_token": refresh_token, **form})
