"""People log in through the hospital's own identity provider: OpenID Connect Core 1.0, authorization code flow with
PKCE (RFC 7636), state and nonce. What is under way stands in the database, so any process can finish it, once."""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from authlib.common.urls import add_params_to_uri
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from wetread.access.people import accounts, pending_logins, sessions
from wetread.access.people.accounts import Account
from wetread.access.providers import id_tokens, logout_tokens
from wetread.access.providers.documents import Metadata, ProviderDocuments
from wetread.access.providers.logout_tokens import LoggedOut
from wetread.access.secrets import digest
from wetread.errors import PeerUnavailable, Unauthorized
from wetread.store.database import Connection
from wetread.wire.fetch import Answer, Fetch, UnusableAnswer

_KIND = "provider"
_LOGOUT_KIND = "provider-logout"
_LIFETIME = timedelta(minutes=10)
_LIMIT_BYTES = 256 * 1024
_TIMEOUT_S = 10.0
_MOST_SUBJECT = 255  # OpenID Connect Core 2: sub
_ERROR = re.compile(r"[a-z_]{1,40}")  # RFC 6749 4.1.2.1


@dataclass(frozen=True, slots=True)
class Provider:
    """An identity provider as the operator describes it. `name` stands in addresses, `display_name` on the button.

    `roles` says which roles a group gives; `groups_claim` where the groups stand, `realm_access.roles` being `roles`
    inside `realm_access`. `without_group` are the roles of a person in none of these groups; empty keeps them out.
    `fhir_user_claim` holds the person's reference, like Practitioner/123; empty: none. `userinfo` asks for the claims
    at the userinfo endpoint, too. `prompt` is OpenID Connect's: `login` asks for the password every time. With
    `logout_ends_offline` a logout that the provider tells of ends also what the person gave to apps for longer.
    """

    name: str
    display_name: str
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...]
    groups_claim: str
    roles: Mapping[str, tuple[str, ...]]
    without_group: tuple[str, ...] = ()
    fhir_user_claim: str = ""
    userinfo: bool = False
    prompt: str = ""
    logout_ends_offline: bool = False


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A login that a browser began here. `onward` is the page of ours that it wants to see after."""

    provider: str
    nonce: str
    verifier: str
    onward: str


@dataclass(frozen=True, slots=True)
class Vouched:
    """What the provider says of a person: `claims` of the ID token, which is `id_token`."""

    claims: Mapping[str, Any]
    id_token: str = field(repr=False)


class IdentityProvider:
    """This server as a client of one provider. `redirect_uri` is of this provider alone, so that the answer of another
    cannot be taken for its own (RFC 9700 4.4.2.2)."""

    def __init__(self, provider: Provider, redirect_uri: str, fetch: Fetch, documents: ProviderDocuments) -> None:
        self.provider = provider
        self.documents = documents
        self._redirect_uri = redirect_uri
        self._fetch = fetch

    async def begin(self, conn: Connection, metadata: Metadata, browser: str, onward: str) -> str:
        """Where to send the browser, which holds the random value `browser` in a cookie."""
        nonce, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        state = await pending_logins.put(
            conn,
            {
                "kind": _KIND,
                "provider": self.provider.name,
                "browser": digest(browser).hex(),
                "nonce": nonce,
                "verifier": verifier,
                "onward": onward,
            },
            _LIFETIME,
        )
        url: str = prepare_grant_uri(
            metadata.authorization_endpoint,
            self.provider.client_id,
            "code",
            redirect_uri=self._redirect_uri,
            scope=" ".join(dict.fromkeys(("openid", *self.provider.scopes))),
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
            prompt=self.provider.prompt or None,
        )
        return url

    async def redeem(self, metadata: Metadata, under_way: UnderWay, answer: Mapping[str, str]) -> Vouched:
        """From the provider's authorization response, as its query came, to what it says of the person.

        Raises Unauthorized (refused by the provider, or its answer is not good), PeerUnavailable, UnusableAnswer.
        """
        self._require_issuer(metadata, answer)
        if "error" in answer:
            known = answer["error"] if _ERROR.fullmatch(answer["error"]) else "an unknown error"
            raise Unauthorized(f"the identity provider did not let you in: {known}")
        code = answer.get("code", "")
        if not code:
            raise Unauthorized("the identity provider sent no code; sign in once more")
        tokens = await self._tokens(metadata, code, under_way.verifier)
        access_token = _text(tokens, "access_token")
        claims = await id_tokens.verified(
            _text(tokens, "id_token"),
            self.documents,
            issuer=self.provider.issuer,
            client_id=self.provider.client_id,
            nonce=under_way.nonce,
            access_token=access_token,
        )
        if self.provider.userinfo and metadata.userinfo_endpoint:
            claims = {**await self._userinfo(metadata, access_token, claims["sub"]), **claims}
        return Vouched(claims, _text(tokens, "id_token"))

    async def admit(self, conn: Connection, claims: Mapping[str, Any]) -> Account | None:
        """The person's account, with the roles of the groups that they are in now; None where no group gives one. A
        role that is gone is gone at once: for whom none is left, what they have open is ended, too.

        Look at `disabled_at` before letting them in. Raises Unauthorized (a subject that is none), and InvalidInput
        where the claim for fhirUser holds no reference.
        """
        issuer, subject = self.provider.issuer, claims["sub"]
        if not 0 < len(subject) <= _MOST_SUBJECT or not subject.isprintable():
            raise Unauthorized("the identity provider's name for you is none")
        roles = roles_of(self.provider, claims)
        before = await accounts.by_subject(conn, issuer, subject)
        if not roles:
            if before is not None:
                await accounts.set_roles(conn, before.name, ())
                await sessions.end_all(conn, before.name)
            return None
        display_name = _string(claims, "name") or _string(claims, "preferred_username")
        fhir_user = _string(claims, self.provider.fhir_user_claim) if self.provider.fhir_user_claim else ""
        if before is not None and not before.roles <= roles:
            await accounts.set_roles(conn, before.name, roles)
        return await accounts.vouched(conn, issuer, subject, display_name, roles, fhir_user)

    async def logged_out(self, token: str) -> LoggedOut:
        """Who the provider says is signed out there. Raises Unauthorized, PeerUnavailable, UnusableAnswer."""
        return await logout_tokens.verified(
            token, self.documents, issuer=self.provider.issuer, client_id=self.provider.client_id
        )

    def logout_url(self, metadata: Metadata, id_token: str, onward: str) -> str | None:
        """Where the person ends their session at the provider, too (OpenID Connect RP-Initiated Logout 1.0, 2); None
        where it offers none. `onward` is this server's page after it."""
        if not metadata.end_session_endpoint:
            return None
        hint = {"id_token_hint": id_token, "client_id": self.provider.client_id, "post_logout_redirect_uri": onward}
        url: str = add_params_to_uri(metadata.end_session_endpoint, list(hint.items()))
        return url

    def _require_issuer(self, metadata: Metadata, answer: Mapping[str, str]) -> None:
        """RFC 9207 2.4: an answer that says whose it is must say this provider."""
        if answer.get("iss", "" if metadata.names_issuer else self.provider.issuer) != self.provider.issuer:
            raise Unauthorized("the answer is of another identity provider than the one you chose; sign in once more")

    async def _tokens(self, metadata: Metadata, code: str, verifier: str) -> Mapping[str, Any]:
        body = prepare_token_request(
            "authorization_code", redirect_uri=self._redirect_uri, code=code, code_verifier=verifier
        )
        url, headers, body = self._authenticated(metadata, body)
        answer = await self._fetch.send(
            "POST",
            url,
            headers=[*headers.items(), ("Content-Type", "application/x-www-form-urlencoded")],
            content=body.encode(),
            limit_bytes=_LIMIT_BYTES,
            timeout_s=_TIMEOUT_S,
        )
        return _answered(answer, "token endpoint")

    def _authenticated(self, metadata: Metadata, body: str) -> tuple[str, dict[str, str], str]:
        """The token request with our secret. In HTTP Basic both halves are form-encoded (RFC 6749 2.3.1)."""
        client_id, secret = self.provider.client_id, self.provider.client_secret
        if not secret:
            auth = ClientAuth(client_id, None, "none")
        elif metadata.secret_in_body:
            auth = ClientAuth(client_id, secret, "client_secret_post")
        else:
            auth = ClientAuth(quote(client_id, safe=""), quote(secret, safe=""), "client_secret_basic")
        url, headers, content = auth.prepare("POST", metadata.token_endpoint, {}, body)
        return url, headers, content

    async def _userinfo(self, metadata: Metadata, access_token: str, subject: str) -> Mapping[str, Any]:
        answer = await self._fetch.send(
            "GET",
            metadata.userinfo_endpoint,
            headers=[("Authorization", f"Bearer {access_token}"), ("Accept", "application/json")],
            limit_bytes=_LIMIT_BYTES,
            timeout_s=_TIMEOUT_S,
        )
        claims = _answered(answer, "userinfo endpoint")
        # OpenID Connect Core 5.3.2: without this, another person's claims could be put in.
        if claims.get("sub") != subject:
            raise Unauthorized("the identity provider's userinfo is of another person")
        return claims


async def take(conn: Connection, state: str, browser: str) -> UnderWay | None:
    """The login that this state stands for, which it does once, and in the browser that began it only; None else. Let
    the transaction stand in both cases: a state that another browser came with is spent."""
    kept = await pending_logins.take(conn, state) if state else None
    if kept is None or kept.get("kind") != _KIND:
        return None
    if not browser or not hmac.compare_digest(kept["browser"], digest(browser).hex()):
        return None
    return UnderWay(kept["provider"], kept["nonce"], kept["verifier"], kept["onward"])


async def keep_for_logout(conn: Connection, provider: str, id_token: str, lifetime: timedelta) -> str:
    """The random value for a cookie by which the person can later log out at the provider."""
    return await pending_logins.put(conn, {"kind": _LOGOUT_KIND, "provider": provider, "id_token": id_token}, lifetime)


async def take_for_logout(conn: Connection, value: str) -> tuple[str, str] | None:
    """The provider's name and the ID token, once; None where there is none."""
    kept = await pending_logins.take(conn, value) if value else None
    if kept is None or kept.get("kind") != _LOGOUT_KIND:
        return None
    return kept["provider"], kept["id_token"]


def roles_of(provider: Provider, claims: Mapping[str, Any]) -> frozenset[str]:
    """The roles that the person's groups give."""
    found = _inside(claims, provider.groups_claim)
    groups = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    roles = {role for group in groups if isinstance(group, str) for role in provider.roles.get(group, ())}
    return frozenset(roles or provider.without_group)


def _string(claims: Mapping[str, Any], path: str) -> str:
    value = _inside(claims, path)
    return value if isinstance(value, str) else ""


def _inside(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by a way through objects with dots: a name that has dots itself (a URI) comes first."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _answered(answer: Answer, what: str) -> Mapping[str, Any]:
    if answer.status >= 500 or answer.status == 429:
        raise PeerUnavailable(f"the identity provider's {what} answered {answer.status}")
    try:
        content = json.loads(answer.content)
    except (ValueError, RecursionError):
        content = None
    if answer.status != 200 or not isinstance(content, dict):
        error = content.get("error") if isinstance(content, dict) else None
        known = error if isinstance(error, str) and _ERROR.fullmatch(error) else "no error that it names"
        raise UnusableAnswer(f"the identity provider's {what} answered {answer.status}: {known}")
    return content


def _text(tokens: Mapping[str, Any], key: str) -> str:
    value = tokens.get(key)
    if not isinstance(value, str) or not value or not (value.isascii() and value.isprintable()):
        raise UnusableAnswer(f"the identity provider's token endpoint sent no usable {key}")
    return value
