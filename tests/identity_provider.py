"""A small OpenID Connect provider on a real socket, which the tests can also make misbehave. It is ours, so it proves
nothing about other people's providers: tests/conformance/test_keycloak.py does.

It follows OpenID Connect Core 1.0 3.1 as a provider: codes count once, for the redirect URI and PKCE verifier that they
were asked with; whoever comes to its login page is `person`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT_ID, CLIENT_SECRET = "wetread", "s3cret/+with signs"

Claims = dict[str, Any]


@dataclass
class IdentityProvider:
    """`person` are the claims of who logs in. `sign` makes the ID token; `discovery` and `authorization` are changed
    before they leave; a path in `moved` redirects."""

    issuer: str = ""
    person: Claims = field(default_factory=lambda: {"sub": "u-1", "name": "Rae Reader", "groups": ["radiology"]})
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "k1"}))
    published: list[dict[str, Any]] | None = None
    sign: Callable[[Claims], str] | None = None
    discovery: Claims = field(default_factory=dict)
    authorization: dict[str, str] = field(default_factory=dict)
    cache_control: str = ""
    moved: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    access_tokens: set[str] = field(default_factory=set)

    def as_new(self) -> IdentityProvider:
        """Behaving again, and with nothing that it was asked before."""
        vars(self).update(vars(IdentityProvider(self.issuer)))
        return self

    def times(self, path: str) -> int:
        return self.asked.count(path)

    def claims(self, nonce: str, access_token: str) -> Claims:
        half = hashlib.sha256(access_token.encode()).digest()[:16]
        now = int(time.time())
        own = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": nonce}
        return {**own, "at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode(), **self.person}

    def signed(self, claims: Claims) -> str:
        return jwt.encode({"alg": "ES256", "kid": self.key.kid}, claims, self.key)

    @property
    def app(self) -> Starlette:
        routes = [
            Route("/.well-known/openid-configuration", self._discovery),
            Route("/jwks", self._jwks),
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
            Route("/userinfo", self._userinfo),
            Route("/logout", self._logout),
        ]
        return Starlette(routes=routes)

    def _json(self, request: Request, content: Any, status: int = 200) -> Response:
        self.asked.append(request.url.path)
        if request.url.path in self.moved:
            return RedirectResponse(self.moved[request.url.path], 307)
        headers = {"Cache-Control": self.cache_control} if self.cache_control else {}
        return JSONResponse(content, status, headers)

    async def _discovery(self, request: Request) -> Response:
        at = {name: f"{self.issuer}/{path}" for name, path in _PATHS.items()}
        return self._json(request, {"issuer": self.issuer, **at, **self.discovery})

    async def _jwks(self, request: Request) -> Response:
        own = [{**self.key.as_dict(private=False), "use": "sig"}]
        return self._json(request, {"keys": own if self.published is None else self.published})

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        if (asked["client_id"], asked["response_type"], asked["code_challenge_method"]) != (CLIENT_ID, "code", "S256"):
            return JSONResponse({"error": "invalid_request"}, 400)
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        answer = {"code": code, "state": asked["state"], **self.authorization}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 302)

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        scheme, _, basic = request.headers.get("authorization", "").partition(" ")
        client, _, secret = base64.b64decode(basic).decode().partition(":")
        if scheme != "Basic" or (unquote(client), unquote(secret)) != (CLIENT_ID, CLIENT_SECRET):
            return self._json(request, {"error": "invalid_client"}, 401)
        asked = self.codes.pop(form["code"], {})
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        fits = asked.get("code_challenge") == challenge.decode() and asked["redirect_uri"] == form["redirect_uri"]
        if not fits or form["grant_type"] != "authorization_code":
            return self._json(request, {"error": "invalid_grant"}, 400)
        access_token = secrets.token_urlsafe(16)
        self.access_tokens.add(access_token)
        id_token = (self.sign or self.signed)(self.claims(asked["nonce"], access_token))
        return self._json(request, {"access_token": access_token, "token_type": "Bearer", "id_token": id_token})

    async def _userinfo(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.access_tokens:
            return self._json(request, {"error": "invalid_token"}, 401)
        return self._json(request, {"sub": "u-1", "groups": ["physics"], **self.person})

    async def _logout(self, request: Request) -> Response:
        """OpenID Connect RP-Initiated Logout 1.0, 2: of the person whom the hint names."""
        jwt.decode(request.query_params["id_token_hint"], self.key)
        self.asked.append(request.url.path)
        return RedirectResponse(request.query_params["post_logout_redirect_uri"], 302)


_PATHS = {
    "authorization_endpoint": "authorize",
    "token_endpoint": "token",
    "jwks_uri": "jwks",
    "userinfo_endpoint": "userinfo",
    "end_session_endpoint": "logout",
}


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[IdentityProvider]:
    door = socket.create_server(("127.0.0.1", 0))
    provider = IdentityProvider(f"http://127.0.0.1:{door.getsockname()[1]}")
    server = uvicorn.Server(uvicorn.Config(provider.app, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[door]))
    yield provider
    server.should_exit = True
    await serving
