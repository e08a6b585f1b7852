"""The ways to a token (RFC 6749 4.1, 4.4 and 6), with PKCE (RFC 7636) and the id_token (OpenID Connect Core 3.1)."""

from __future__ import annotations

import time
from datetime import UTC, timedelta
from typing import Any

from authlib.oauth2.rfc6749 import (
    AuthorizationCodeMixin,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Request,
)
from authlib.oauth2.rfc6749 import grants as authlib_grants
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core.grants import OpenIDCode

from wetread.access.clients.registration import is_resource_scope
from wetread.access.oauth import grants
from wetread.access.oauth.core import AUTHENTICATED, CODE_LIFETIME, INTROSPECT, Authority, Behind, OAuthClient
from wetread.access.oauth.negotiation import joined, negotiated
from wetread.access.oauth.signing_keys import ALGORITHM
from wetread.access.oauth.waiting import wait_for
from wetread.access.rights import narrowed
from wetread.domain.reader import Scope
from wetread.errors import InvalidInput

_ID_TOKEN_LIVES_S = 3600


class _IssuedCode(AuthorizationCodeMixin):  # type: ignore[misc]
    """A code that a client brought back, in Authlib's words."""

    def __init__(self, code: grants.Code, behind: Behind) -> None:
        self.code_challenge = code.code_challenge
        self.code_challenge_method = "S256"
        self.behind = behind
        self._redirect_uri = code.redirect_uri

    def get_redirect_uri(self) -> str:
        return self._redirect_uri

    def get_scope(self) -> str:
        return self.behind.grant.scope

    def get_nonce(self) -> str:
        return self.behind.grant.nonce

    def get_auth_time(self) -> int:
        return int(self.behind.grant.authenticated_at.astimezone(UTC).timestamp())

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


class CodeGrant(authlib_grants.AuthorizationCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ("none", *AUTHENTICATED)
    wish: grants.Wish
    """What the person has given, and for how long; set where a code is to be made."""
    lifetime: timedelta

    @staticmethod
    def validate_authorization_redirect_uri(request: OAuth2Request, client: OAuthClient) -> str:
        """Character by character (RFC 9700 4.1.3). Raises InvalidRequestError."""
        redirect_uri = request.payload.redirect_uri
        if not redirect_uri or not client.check_redirect_uri(redirect_uri):
            raise InvalidRequestError("redirect_uri is none that this app has registered.")
        return str(redirect_uri)

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        conn, data = self.server.conn, request.payload.data
        grant = wait_for(grants.begin, conn, self.wish, self.lifetime)
        wait_for(grants.give_code, conn, code, grant.id, data["redirect_uri"], data["code_challenge"], CODE_LIFETIME)

    def query_authorization_code(self, code: str, client: OAuthClient) -> _IssuedCode | None:
        """Used from now on. One that comes again ends what was given for it (RFC 6749 4.1.2)."""
        authority: Authority = self.server.authority
        found = wait_for(grants.take_code, self.server.conn, code, client.get_client_id())
        if found is None:
            return None
        behind = self.server.behind(found.grant_id)
        if not found.is_good or behind is None:
            revocations, kept = authority.tokens.revocations, authority.lifetimes.access
            wait_for(grants.revoke, self.server.conn, revocations, found.grant_id, kept)
            return None
        return _IssuedCode(found, behind)

    def delete_authorization_code(self, authorization_code: _IssuedCode) -> None:
        """It was used up when it was asked for, and stays on record to be known when it comes again."""

    def authenticate_user(self, authorization_code: _IssuedCode) -> Behind:
        return authorization_code.behind


class Pkce(CodeChallenge):  # type: ignore[misc]
    """S256 for every client, public or not (SMART App Launch 2.2 app-launch.html#considerations-for-pkce-support)."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)
    CODE_CHALLENGE_METHODS = {"S256": CodeChallenge.CODE_CHALLENGE_METHODS["S256"]}  # noqa: RUF012

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        """Raises InvalidRequestError."""
        data = grant.request.payload.data
        if not data.get("code_challenge") or data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("PKCE is needed: code_challenge with code_challenge_method=S256.")
        super().validate_code_challenge(grant, redirect_uri)


class OpenId(OpenIDCode):  # type: ignore[misc]
    """The id_token of SMART App Launch 2.2 scopes-and-launch-context.html#scopes-for-requesting-identity-data."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(require_nonce=False)
        self._authority = authority

    def exists_nonce(self, nonce: str, request: OAuth2Request) -> bool:
        return False  # the client compares it; a code brings it once

    def get_client_algorithm(self, client: OAuthClient) -> str:
        return ALGORITHM

    def get_encode_header(self, client: OAuthClient) -> dict[str, Any]:
        return {"alg": ALGORITHM, "kid": self._authority.signing_keys.current().kid, "typ": "JWT"}

    def resolve_client_private_key(self, client: OAuthClient) -> Any:
        return self._authority.signing_keys.current()

    def get_client_claims(self, client: OAuthClient) -> dict[str, Any]:
        return {
            "iss": self._authority.issuer,
            "aud": client.get_client_id(),
            "exp": int(time.time()) + _ID_TOKEN_LIVES_S,
        }

    def generate_user_info(self, user: Behind, scope: str) -> dict[str, Any]:
        words, account = scope.split(), user.account
        claims = {"sub": account.name}
        if "fhirUser" in words and account.fhir_user:
            claims["fhirUser"] = f"{self._authority.fhir_base}/{account.fhir_user}"
        if "profile" in words:
            claims["name"] = account.display_name
        return claims


class _IssuedRefreshToken:
    def __init__(self, text: str, token: grants.RefreshToken, behind: Behind) -> None:
        self.text = text
        self.scope = token.scope
        self.behind = behind

    def check_client(self, client: OAuthClient) -> bool:
        return self.behind.grant.client_id == client.get_client_id()

    def get_scope(self) -> str:
        return self.scope


class RefreshGrant(authlib_grants.RefreshTokenGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ("none", *AUTHENTICATED)
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_token_endpoint_client(self) -> OAuthClient:
        """A public client need not name itself: SMART's request has no client_id, and the token is bound to its client
        (SMART App Launch 2.2 app-launch.html#refresh-access-token). Raises InvalidClientError."""
        form = self.request.form
        names_itself = "Authorization" in self.request.headers or {"client_id", "client_assertion"} & set(form)
        if not names_itself and "refresh_token" in form:
            owned = wait_for(grants.owner_of_refresh_token, self.server.conn, form["refresh_token"])
            client: OAuthClient | None = self.server.query_client(owned[1]) if owned else None
            if client is not None and client.check_endpoint_auth_method("none", "token"):
                return client
        found: OAuthClient = super().authenticate_token_endpoint_client()
        return found

    def authenticate_refresh_token(self, refresh_token: str) -> _IssuedRefreshToken | None:
        """One that comes a second time was stolen, or its successor was: the whole grant ends (RFC 9700 4.14.2)."""
        client_id = self.request.client.get_client_id()
        found = wait_for(grants.refresh_token, self.server.conn, refresh_token, client_id)
        if found is None or found.is_expired:
            return None
        if found.was_used:
            authority: Authority = self.server.authority
            revocations, kept = authority.tokens.revocations, authority.lifetimes.access
            wait_for(grants.revoke, self.server.conn, revocations, found.grant_id, kept)
            return None
        behind = self.server.behind(found.grant_id)
        return _IssuedRefreshToken(refresh_token, found, behind) if behind else None

    def authenticate_user(self, refresh_token: _IssuedRefreshToken) -> Behind:
        return refresh_token.behind

    def revoke_old_credential(self, refresh_token: _IssuedRefreshToken) -> None:
        wait_for(grants.use_refresh_token, self.server.conn, refresh_token.text)

    def issue_token(self, user: Behind, refresh_token: _IssuedRefreshToken) -> Any:
        # The new refresh token carries what the old one did (RFC 6749 6), the access token what was asked for now.
        return self.generate_token(user=user, scope=self.request.payload.scope or refresh_token.scope)

    def _validate_token_scope(self, token: _IssuedRefreshToken) -> None:
        """What is within a scope that was given counts as given: patient/Observation.rs of patient/*.rs. Raises
        InvalidScopeError."""
        given = token.get_scope().split()
        held = [Scope.parse(word) for word in given if is_resource_scope(word)]
        for word in (self.request.payload.scope or "").split():
            if word not in given and not _is_within(word, held):
                raise InvalidScopeError("A scope was asked for that was not given.")


class BackendGrant(authlib_grants.ClientCredentialsGrant):  # type: ignore[misc]
    """SMART App Launch 2.2 backend-services.html: a client comes for itself, by its key; or, where the operator has
    registered it so, by a secret (RFC 6749 4.4)."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTHENTICATED

    def validate_requested_scope(self) -> None:
        """Narrows the request's scope to what the client was registered for. Raises InvalidScopeError."""
        registered = self.request.client.registered
        asked = (self.request.payload.scope or "").split()
        self.request.scope = joined(negotiated(asked, registered, None, ("system",), (INTROSPECT,)).values())
        if not self.request.scope:
            raise InvalidScopeError("None of these scopes can be given to this client; ask for system/ scopes.")

    def create_token_response(self) -> tuple[int, Any, Any]:
        token = self.generate_token(scope=self.request.scope, include_refresh_token=False)
        return 200, token, self.TOKEN_RESPONSE_HEADER


def _is_within(word: str, held: list[Scope]) -> bool:
    try:
        wish = Scope.parse(word)
    except InvalidInput:
        return False
    return wish in narrowed((wish,), held)
