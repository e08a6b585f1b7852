"""Authlib's authorization server on our tables: who a client is, and what a token holds.

One core lives for one request, on the request's own connection. It runs in a thread (see `waiting`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from authlib.oauth2.rfc6749 import AuthorizationServer, ClientMixin, InvalidClientError, OAuth2Request

from wetread.access import secrets
from wetread.access.clients import clients
from wetread.access.clients.assertions import ClientAssertion, ClientKeys
from wetread.access.clients.clients import Client
from wetread.access.oauth import grants
from wetread.access.oauth.grants import Grant
from wetread.access.oauth.negotiation import joined, negotiated
from wetread.access.oauth.request import Answer
from wetread.access.oauth.signing_keys import SigningKeys
from wetread.access.oauth.waiting import wait_for
from wetread.access.people import sessions
from wetread.access.people.accounts import Account, by_name
from wetread.access.rights import of_roles
from wetread.access.tokens import Basis, Issued, Tokens
from wetread.store.database import Connection, Database

AUTHENTICATED = ["client_secret_basic", "client_secret_post", "private_key_jwt"]
"""How a confidential client proves itself."""
CODE_LIFETIME = timedelta(minutes=1)
BACKEND_LIFETIME = timedelta(seconds=300)
"""SMART App Launch 2.2 backend-services.html#issue-access-token: short-lived, at most five minutes."""
INTROSPECT = "introspect"
"""Our own scope: it lets a client ask about the tokens of all."""
CONTEXT_WORDS = frozenset({"openid", "profile", "fhirUser", "offline_access", "online_access"})


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Of an access token, and of a grant that outlives its login or ends with it."""

    access: timedelta = timedelta(hours=1)
    offline: timedelta = timedelta(days=90)
    online: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Authority:
    """What the authorization server stands on. `issuer` is the server's address as the world knows it, `fhir_base` that
    of its FHIR face; no slash at the end of either."""

    database: Database
    tokens: Tokens
    signing_keys: SigningKeys
    client_keys: ClientKeys
    issuer: str
    fhir_base: str
    lifetimes: Lifetimes = Lifetimes()

    def url(self, endpoint: str) -> str:
        """Of `authorize`, `token`, `introspect`, `revoke`, `launch` or `jwks.json`."""
        return f"{self.issuer}/oauth/{endpoint}"


@dataclass(frozen=True, slots=True)
class Behind:
    """The person behind a token, and what they gave."""

    account: Account
    grant: Grant


@dataclass(frozen=True, slots=True)
class Given:
    """A token that was issued, for the audit."""

    client_id: str
    issued: Issued
    scope: str
    behind: Behind | None


class OAuthClient(ClientMixin):  # type: ignore[misc]
    """A registered client in Authlib's words."""

    def __init__(self, registered: Client, conn: Connection) -> None:
        self.registered = registered
        self._conn = conn

    def get_client_id(self) -> str:
        return self.registered.client_id

    def get_default_redirect_uri(self) -> None:
        return None  # SMART App Launch 2.2 app-launch.html#obtain-authorization-code: the request names it

    def get_allowed_scope(self, scope: str | None) -> str:
        return scope or ""  # what comes of it is settled with the person's rights, in `negotiation`

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self.registered.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        return wait_for(secrets.check, self._conn, self.registered.client_id, client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        allowed = {
            "public": ("none",),
            "symmetric": ("client_secret_basic", "client_secret_post"),
            "asymmetric": ("private_key_jwt",),
        }
        return method in allowed[self.registered.kind]

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and self.check_grant_type("authorization_code")

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.registered.grant_types


class Core(AuthorizationServer):  # type: ignore[misc]
    def __init__(
        self, authority: Authority, conn: Connection, network: str | None, keys: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__()
        self.authority = authority
        self.conn = conn
        self.network = network
        self.given: Given | None = None
        assertion = ClientAssertion(conn, authority.url("token"), keys)
        self.register_client_auth_method("private_key_jwt", assertion)
        self.register_token_generator("default", self._token)

    def query_client(self, client_id: str) -> OAuthClient | None:
        """None also for one that may not call from where it calls; a `network` of None asks nothing of that."""
        found = wait_for(clients.by_id, self.conn, client_id, held=True) if "\x00" not in client_id else None
        if found is None or (self.network is not None and not found.admits(self.network)):
            return None
        return OAuthClient(found, self.conn)

    def authenticate_client(self, request: OAuth2Request, methods: list[str], endpoint: str = "token") -> Any:
        """Raises InvalidClientError, also where a client proves itself in two ways at once (RFC 6749 2.3)."""
        form = request.form
        ways = [
            request.headers.get("Authorization", "").lower().startswith("basic "),
            "client_secret" in form,
            "client_assertion" in form,
        ]
        if sum(ways) > 1:
            raise InvalidClientError(description="A client authenticates in one way.")
        if any(ways):
            methods = [method for method in methods if method != "none"]
        try:
            client = super().authenticate_client(request, methods, endpoint)
        except ValueError as error:  # a Basic header that is not Base64 of UTF-8
            raise InvalidClientError(description="The credentials cannot be read.", status_code=401) from error
        if form.get("client_id", client.get_client_id()) != client.get_client_id():
            raise InvalidClientError(description="client_id is another client's.")
        return client

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        """A signed token is kept nowhere; refresh tokens are kept when they are made."""

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def create_oauth2_request(self, request: OAuth2Request) -> OAuth2Request:
        return request

    def handle_response(self, status: int, body: Any, headers: Sequence[tuple[str, str]]) -> Answer:
        return Answer(status, body, tuple(headers))

    def behind(self, grant_id: str) -> Behind | None:
        """Who stands behind a grant; None where either counts no more, or the login that it is bound to is over."""
        grant = wait_for(grants.by_id, self.conn, grant_id)
        if grant is None:
            return None
        # Held: a token must not say what the person could do before a change that ended their tokens.
        account = wait_for(by_name, self.conn, grant.account_name, held=True)
        if account is None or account.disabled_at is not None:
            return None
        if grant.session_digest is not None:
            open_ones = wait_for(sessions.open_ones, self.conn, grant.account_name)
            if not any(session.digest == grant.session_digest for session in open_ones):
                return None
        return Behind(account, grant)

    def _token(
        self,
        grant_type: str,
        client: OAuthClient,
        user: Behind | None = None,
        scope: str | None = None,
        expires_in: int | None = None,
        include_refresh_token: bool = True,
    ) -> dict[str, Any]:
        """The token response of RFC 6749 5.1, with the launch context of SMART App Launch 2.2
        scopes-and-launch-context.html#launch-context-arrives-with-your-access_token."""
        if user is None:
            return self._own_token(client, scope or "")
        return self._persons_token(client, user, scope or "", include_refresh_token)

    def _own_token(self, client: OAuthClient, scope: str) -> dict[str, Any]:
        registered = client.registered
        issued = self.authority.tokens.issue(
            registered.client_id, scope, sorted(registered.roles), BACKEND_LIFETIME, Basis(registered.client_id)
        )
        self.given = Given(registered.client_id, issued, scope, None)
        return _response(issued, scope)

    def _persons_token(
        self, client: OAuthClient, behind: Behind, scope: str, include_refresh_token: bool
    ) -> dict[str, Any]:
        account, grant = behind.account, behind.grant
        # The person may have lost rights since, and the client too.
        words = {*CONTEXT_WORDS, *(word for word in grant.scope.split() if word.startswith("launch"))}
        held = of_roles(sorted(account.roles))
        now = joined(negotiated(scope.split(), client.registered, held, ("patient", "user"), words).values())
        basis = Basis(
            client.get_client_id(),
            str(grant.context.get("patient", "")),
            grant.id,
            account.name,
            grant.session_digest.hex() if grant.session_digest else "",
            account.fhir_user,
        )
        # No roles: they open what is not FHIR, and a person does not give that to an app by a scope.
        issued = self.authority.tokens.issue(account.name, now, (), self.authority.lifetimes.access, basis)
        self.given = Given(client.get_client_id(), issued, now, behind)
        answer = {**_response(issued, now), **grant.context}
        if include_refresh_token and {"offline_access", "online_access"} & set(grant.scope.split()):
            answer["refresh_token"] = wait_for(grants.give_refresh_token, self.conn, grant)
        return answer


def _response(issued: Issued, scope: str) -> dict[str, Any]:
    return {
        "access_token": issued.token,
        "token_type": "Bearer",
        "expires_in": issued.expires_s,
        "scope": scope,
    }
