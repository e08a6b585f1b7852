"""An app asks a person for access: from the request to the code (RFC 6749 4.1.1, SMART App Launch 2.2
app-launch.html#obtain-authorization-code).

Each step, up to the person's answer, brings the whole request again and it is checked again; nothing is kept between.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from authlib.common.urls import add_params_to_uri
from authlib.oauth2.rfc6749 import InsecureTransportError, InvalidRequestError, OAuth2Error

from wetread.access.clients.clients import Client
from wetread.access.oauth import launches
from wetread.access.oauth.core import CONTEXT_WORDS, Authority, Core
from wetread.access.oauth.grant_types import CodeGrant, OpenId, Pkce
from wetread.access.oauth.grants import Wish
from wetread.access.oauth.negotiation import joined, negotiated, resource_scopes
from wetread.access.oauth.request import Answer, Asked, as_authlib
from wetread.access.oauth.waiting import in_thread
from wetread.access.people.accounts import Account
from wetread.access.people.sessions import Signed
from wetread.access.rights import of_roles
from wetread.store.database import Connection

_FRESH = timedelta(minutes=5)
"""A login of this age answers `prompt=login` (OpenID Connect Core 3.1.2.1)."""
_JUST_NOW = timedelta(seconds=30)
"""The shortest `max_age`: less, and no login would ever do."""


class Refusal(Exception):
    """The request is refused. With a `location` the browser is sent there, to tell the app; without one the address of
    the app is not to be trusted, and the person is told (RFC 6749 4.1.2.1)."""

    def __init__(self, error: str, description: str, location: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.location = location


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A request that may be put before a person. `launch` is the context that an EHR launch brings, None where the app
    was started by itself."""

    asked: Asked
    client: Client
    redirect_uri: str
    words: tuple[str, ...]
    launch: Mapping[str, Any] | None
    wants_login_after: datetime | None
    """A login before this time does not do."""

    @property
    def wants_patient(self) -> bool:
        """Whether a patient has to be chosen (scopes-and-launch-context.html#patient-specific-scopes)."""
        known = self.launch is not None and "patient" in self.launch
        asks = any(word.startswith(("launch/patient", "launch/encounter", "patient/")) for word in self.words)
        return asks and not known

    @property
    def wants_encounter(self) -> bool:
        known = self.launch is not None and "patient" in self.launch
        return "launch/encounter" in self.words and not known

    def needs_login(self, signed: Signed) -> bool:
        return self.wants_login_after is not None and signed.authenticated_at < self.wants_login_after

    def offer(self, account: Account, context: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
        """Each word asked for, with what of it this person can give in this context."""
        words = set(CONTEXT_WORDS)
        if not account.fhir_user:
            words.discard("fhirUser")
        if self.launch is not None:
            words.add("launch")
        words |= {f"launch/{name}" for name in ("patient", "encounter") if name in context}
        for member in context.get("fhirContext", ()):
            words.add(f"launch/{str(member.get('reference', '')).partition('/')[0].lower()}")
        levels = ("user", "patient") if "patient" in context else ("user",)
        return negotiated(self.words, self.client, of_roles(sorted(account.roles)), levels, words)


class AuthorizationRequests:
    def __init__(self, authority: Authority) -> None:
        self.authority = authority

    async def read(self, conn: Connection, asked: Asked, signed: Signed | None) -> AuthorizationRequest:
        """Raises Refusal."""
        core = self._core(conn, asked)

        def check() -> tuple[Client, str]:
            client, redirect_uri = self._trusted(core, asked)
            if asked.one("response_type") != "code":
                raise self._redirected(redirect_uri, asked, "unsupported_response_type", "response_type is code.")
            if asked.one("response_mode") not in (
                "",
                "query",
            ):  # OAuth 2.0 Multiple Response Type Encoding Practices 2.1
                raise self._redirected(redirect_uri, asked, "invalid_request", "response_mode is query.")
            for name in ("request", "request_uri"):  # OpenID Connect Core 6.1, 6.2: never passed over
                if asked.one(name):
                    error = f"{name}_not_supported"
                    raise self._redirected(redirect_uri, asked, error, f"{name} is not taken; send the parameters.")
            try:
                core.get_consent_grant(as_authlib(asked), signed)
            except OAuth2Error as error:
                raise self._redirected(redirect_uri, asked, error.error, error.get_error_description()) from error
            return client, redirect_uri

        client, redirect_uri = await in_thread(check)
        if asked.one("aud").rstrip("/") != self.authority.fhir_base:
            raise self._redirected(
                redirect_uri, asked, "invalid_request", f"aud names this server: {self.authority.fhir_base}"
            )
        words = tuple(dict.fromkeys(asked.one("scope").split()))
        if not words:
            raise self._redirected(redirect_uri, asked, "invalid_scope", "scope says what the app needs.")
        launch = None
        if "launch" in words:
            name = signed.account.name if signed else None
            launch = await launches.look(conn, asked.one("launch"), client.client_id, name)
            if launch is None:
                raise self._redirected(
                    redirect_uri, asked, "invalid_request", "launch is unknown, used, too old, or for somebody else."
                )
        if "none" in asked.one("prompt").split():
            error = "consent_required" if signed else "login_required"
            raise self._redirected(redirect_uri, asked, error, "Access is given on a page, by a person.")
        return AuthorizationRequest(asked, client, redirect_uri, words, launch, _login_after(asked))

    async def approve(
        self,
        conn: Connection,
        request: AuthorizationRequest,
        signed: Signed,
        context: Mapping[str, Any],
        approved: Collection[str],
    ) -> tuple[str, str]:
        """The person says yes to some of the words: the scope that is given, and where the browser goes with the code.

        Raises Refusal.
        """
        offer = request.offer(signed.account, context)
        scope = joined(given for word, given in offer.items() if word in approved)
        if not resource_scopes(scope) and "openid" not in scope.split():
            raise self._redirected(request.redirect_uri, request.asked, "access_denied", "Nothing was given.")
        if request.launch is not None:
            launch, client_id = request.asked.one("launch"), request.client.client_id
            if not await launches.use(conn, launch, client_id, signed.account.name):
                raise self._redirected(request.redirect_uri, request.asked, "invalid_request", "launch was used.")
        is_offline = "offline_access" in scope.split()
        lifetimes = self.authority.lifetimes
        wish = Wish(
            request.client.client_id,
            signed.account.name,
            None if is_offline else signed.digest,
            scope,
            {**context, "smart_style_url": self.authority.url("smart-style.json")},
            signed.authenticated_at,
            request.asked.one("nonce"),
        )
        lifetime = lifetimes.offline if is_offline else lifetimes.online
        return scope, await self._respond(conn, request, signed, wish, lifetime)

    async def deny(self, conn: Connection, request: AuthorizationRequest) -> str:
        """The person says no: where the browser goes with access_denied."""
        return await self._respond(conn, request, None, None, timedelta(0))

    async def _respond(
        self,
        conn: Connection,
        request: AuthorizationRequest,
        signed: Signed | None,
        wish: Wish | None,
        lifetime: timedelta,
    ) -> str:
        core = self._core(conn, request.asked)

        def respond() -> Answer:
            asked = as_authlib(request.asked)
            grant = core.get_authorization_grant(asked)
            if wish is not None:
                grant.wish, grant.lifetime = wish, lifetime
            answer: Answer = core.create_authorization_response(asked, signed, grant)
            return answer

        return self._from_us((await in_thread(respond)).location)

    def _core(self, conn: Connection, asked: Asked) -> Core:
        # An app's networks are those that its own machines call from; here a person's browser calls.
        core = Core(self.authority, conn, network=None)
        core.register_grant(CodeGrant, [Pkce(required=True), OpenId(self.authority)])
        return core

    def _trusted(self, core: Core, asked: Asked) -> tuple[Client, str]:
        """The app, and its address to send the browser back to. Raises Refusal, to be shown."""
        try:
            request = as_authlib(asked)
        except (InvalidRequestError, InsecureTransportError) as error:
            raise Refusal(error.error, error.get_error_description()) from error
        client = core.query_client(request.payload.client_id or "")
        if client is None:
            raise Refusal("invalid_client", "No app is registered here under this client_id.")
        redirect_uri = request.payload.redirect_uri or ""
        if not client.check_redirect_uri(redirect_uri):
            raise Refusal("invalid_request", "redirect_uri is none that this app has registered.")
        return client.registered, redirect_uri

    def _redirected(self, redirect_uri: str, asked: Asked, error: str, description: str) -> Refusal:
        told: list[tuple[str, str]] = [("error", error), ("error_description", description)]
        if asked.one("state"):
            told.append(("state", asked.one("state")))
        return Refusal(error, description, self._from_us(add_params_to_uri(redirect_uri, told)))

    def _from_us(self, location: str) -> str:
        """With our name, so that an app of several servers does not mix them up (RFC 9207 2)."""
        return str(add_params_to_uri(location, [("iss", self.authority.issuer)]))


def _login_after(asked: Asked) -> datetime | None:
    now, max_age = datetime.now(UTC), asked.one("max_age")
    limits: Sequence[datetime] = [
        *([now - _FRESH] if "login" in asked.one("prompt").split() else []),
        *([now - max(timedelta(seconds=int(max_age)), _JUST_NOW)] if _is_age(max_age) else []),
    ]
    return max(limits, default=None)


def _is_age(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 9
