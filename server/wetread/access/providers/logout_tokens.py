"""What an identity provider tells behind the browser's back: that somebody is signed out there (OpenID Connect
Back-Channel Logout 1.0)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError

from wetread.access.clients import assertions
from wetread.access.oauth import grants
from wetread.access.people import accounts, sessions
from wetread.access.providers import id_tokens
from wetread.access.providers.documents import ProviderDocuments
from wetread.access.revocation import LONGEST, Revocations
from wetread.errors import Unauthorized
from wetread.store.database import Connection

EVENT = "http://schemas.openid.net/event/backchannel-logout"
_OFFLINE_TOO = "revoke_offline_access"
"""Keycloak's own event beside it: the client setting "Backchannel logout revoke offline sessions"."""
_TYPES = (None, "JWT", "logout+jwt")
_FRESH = timedelta(minutes=10)
_SKEW_S = 60
_MOST_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class LoggedOut:
    """Who is signed out: the person (`subject`), one login of theirs (`session`, the provider's `sid`), or a login of
    whoever it was; one of both is empty where the provider does not say. `offline_too`: also what they have given to
    apps for longer than a login."""

    issuer: str
    subject: str
    session: str
    token_id: str
    offline_too: bool


async def verified(token: str, documents: ProviderDocuments, *, issuer: str, client_id: str) -> LoggedOut:
    """What a logout token says that this provider signed for us (Back-Channel Logout 1.0, 2.4 and 2.6).

    Raises Unauthorized; PeerUnavailable and UnusableAnswer where the provider's keys cannot be had.
    """
    signed = await id_tokens.signed(token, documents)
    claims, now = signed.claims, int(time.time())
    try:
        jwt.JWTClaimsRegistry(
            leeway=_SKEW_S,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": client_id},
            iat={"essential": True},
            jti={"essential": True},
        ).validate(claims)
    except (JoseError, ValueError, TypeError) as error:
        raise Unauthorized("the logout token is refused: its iss, aud, iat, exp or jti is not good") from error
    if claims["iat"] < now - _FRESH.total_seconds():
        raise Unauthorized("the logout token is refused: it is too old")
    if signed.header.get("typ") not in _TYPES or "nonce" in claims:
        raise Unauthorized("the logout token is refused: it is an ID token")
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(EVENT), dict):
        raise Unauthorized("the logout token is refused: its events name no logout")
    told = {name: _text(claims, name) for name in ("sub", "sid", "jti")}
    if not told["jti"] or not (told["sub"] or told["sid"]):
        raise Unauthorized("the logout token is refused: it names nobody")
    return LoggedOut(issuer, told["sub"], told["sid"], told["jti"], events.get(_OFFLINE_TOO) is True)


async def end(conn: Connection, revocations: Revocations, told: LoggedOut, *, offline_too: bool) -> list[str]:
    """Ends the logins that it tells of, with all that hangs on them; the names of those whose they were. With
    `offline_too`, or where the provider asks for it, also what these people have given to apps for longer (2.7 leaves
    that in place otherwise).

    Raises Unauthorized where the token has come before.
    """
    if not await assertions.first_seen(conn, f"logout:{told.issuer}", told.token_id, time.time() + 2 * _FRESH.seconds):
        raise Unauthorized("the logout token is refused: it was used before")
    found = await _logins(conn, told)
    for name, digest in found:
        await sessions.end(conn, name, digest)
    person = await accounts.by_subject(conn, told.issuer, told.subject) if told.subject else None
    names = {name for name, _ in found} | ({person.name} if person is not None else set())
    if offline_too or told.offline_too:
        for name in names:
            for grant in await grants.of_account(conn, name):
                await grants.revoke(conn, revocations, grant.id, LONGEST)
    return sorted(names)


async def _logins(conn: Connection, told: LoggedOut) -> list[tuple[str, bytes]]:
    rows = await conn.execute(
        """
        SELECT s.account_name, s.digest FROM login_session s JOIN account a ON a.name = s.account_name
        WHERE s.ended_at IS NULL AND a.issuer = %(issuer)s AND (%(subject)s = '' OR a.subject = %(subject)s)
            AND (%(session)s = '' OR s.provider_session = %(session)s)
        """,
        {"issuer": told.issuer, "subject": told.subject, "session": told.session},
    )
    return [(name, bytes(digest)) for name, digest in await rows.fetchall()]


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS or not value.isprintable():
        raise Unauthorized(f"the logout token is refused: its {name} is none")
    return value
