"""Asking about tokens (RFC 7662) and taking them back (RFC 7009)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from authlib.oauth2.rfc6749 import InvalidClientError, InvalidRequestError, OAuth2Request
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint

from wetread.access.oauth import grants
from wetread.access.oauth.core import AUTHENTICATED, INTROSPECT, Authority, Behind, Core, OAuthClient
from wetread.access.oauth.waiting import wait_for
from wetread.access.tokens import Verified
from wetread.errors import Unauthorized


@dataclass(frozen=True, slots=True)
class _Token:
    """An access token that counts (`verified`), or a refresh token that does."""

    client_id: str
    grant_id: str
    scope: str
    expires_at: int
    behind: Behind | None
    verified: Verified | None

    def check_client(self, client: OAuthClient) -> bool:
        return bool(self.client_id) and self.client_id == client.get_client_id()

    def is_expired(self) -> bool:
        return False  # one that is counts no more, and is not found

    def is_revoked(self) -> bool:
        return False


class _Anybody:
    """Who was let in by a bearer token, and may ask about the tokens of every client."""


class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    """By the client of a token, or by who brings a bearer token with the scope `introspect`
    (SMART App Launch 2.2 token-introspection.html#authorization-for-introspection-requests)."""

    CLIENT_AUTH_METHODS = AUTHENTICATED

    def authenticate_endpoint_client(self, request: OAuth2Request) -> Any:
        """Raises InvalidClientError."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return super().authenticate_endpoint_client(request)
        authority: Authority = self.server.authority
        try:
            verified = authority.tokens.verified(given.strip())
        except Unauthorized as error:
            raise InvalidClientError(description="The bearer token does not count.", status_code=401) from error
        if verified.basis.client_id and self.server.query_client(verified.basis.client_id) is None:
            raise InvalidClientError(description="The bearer token's client may not call from here.", status_code=401)
        if INTROSPECT not in verified.scope.split():
            raise InvalidClientError(description="The bearer token lacks the scope introspect.", status_code=401)
        return _Anybody()

    def check_params(self, request: OAuth2Request, client: Any) -> None:
        """Raises InvalidRequestError. A hint is only that (RFC 7662 2.1)."""
        _require_token(request)

    def query_token(self, token_string: str, token_type_hint: str | None) -> _Token | None:
        return _found(self.server, token_string)

    def check_permission(self, token: _Token, client: Any, request: OAuth2Request) -> bool:
        return isinstance(client, _Anybody) or token.check_client(client)

    def introspect_token(self, token: _Token) -> dict[str, Any]:
        """RFC 7662 2.2, with launch context and identity (token-introspection.html#required-fields)."""
        authority: Authority = self.server.authority
        told: dict[str, Any] = {
            "active": True,
            "scope": token.scope,
            "client_id": token.client_id,
            "exp": token.expires_at,
            "iss": authority.issuer,
            **(token.behind.grant.context if token.behind else {}),
        }
        if token.verified:
            told |= {
                "token_type": "Bearer",
                "sub": token.verified.reader.principal,
                "iat": token.verified.issued_at,
                "aud": authority.fhir_base,
                "jti": token.verified.token_id,
            }
            if token.verified.basis.fhir_user and "fhirUser" in token.scope.split():
                told["fhirUser"] = f"{authority.fhir_base}/{token.verified.basis.fhir_user}"
        return told


class Revocation(RevocationEndpoint):  # type: ignore[misc]
    """A refresh token falls with all that was given on its grant (RFC 7009 2.1), an access token alone."""

    CLIENT_AUTH_METHODS = ("none", *AUTHENTICATED)
    ended: _Token | None = None

    def check_params(self, request: OAuth2Request, client: Any) -> None:
        """Raises InvalidRequestError."""
        _require_token(request)

    def query_token(self, token_string: str, token_type_hint: str | None) -> _Token | None:
        return _found(self.server, token_string)

    def revoke_token(self, token: _Token, request: OAuth2Request) -> None:
        authority: Authority = self.server.authority
        revocations, kept = authority.tokens.revocations, authority.lifetimes.access
        if token.verified:
            wait_for(revocations.revoke, self.server.conn, "token", token.verified.token_id, kept)
        else:
            wait_for(grants.revoke, self.server.conn, revocations, token.grant_id, kept)
        self.ended = token


def _require_token(request: OAuth2Request) -> None:
    if "token" not in request.form:
        raise InvalidRequestError("The parameter token is missing.")


def _found(core: Core, text: str) -> _Token | None:
    try:
        verified = core.authority.tokens.verified(text)
    except Unauthorized:
        return _refresh_token(core, text)
    basis = verified.basis
    behind = core.behind(basis.grant_id) if basis.grant_id else None
    if basis.grant_id and behind is None:
        return None
    return _Token(basis.client_id, basis.grant_id, verified.scope, verified.expires_at, behind, verified)


def _refresh_token(core: Core, text: str) -> _Token | None:
    owned = wait_for(grants.owner_of_refresh_token, core.conn, text)
    if owned is None:
        return None
    token, client_id = owned
    behind = None if token.was_used or token.is_expired else core.behind(token.grant_id)
    if behind is None:
        return None
    return _Token(client_id, token.grant_id, token.scope, int(token.expires_at.timestamp()), behind, None)


def facts(token: _Token) -> Mapping[str, str]:
    """What the audit says of a token that was taken back."""
    return {"grant": token.grant_id, "token": token.verified.token_id if token.verified else "refresh token"}
