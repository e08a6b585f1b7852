"""How a client proves itself by a key: private_key_jwt with RS384 or ES384
(SMART App Launch 2.2 client-confidential-asymmetric.html, RFC 7523)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from authlib.oauth2.rfc6749 import InvalidClientError
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from wetread.access.clients.clients import Client
from wetread.access.oauth.waiting import wait_for
from wetread.errors import Unreachable, WetreadError
from wetread.store.database import Connection
from wetread.wire.fetch import Fetch

ALGORITHMS = ("RS384", "ES384")
_LONGEST_S = 300
_SKEW_S = 30
_JWKS_BYTES = 64 * 1024
_FETCH_S = 5.0
_MOST_KEYS = 50
_LONGEST_KEPT_S = 3600
_RETRY_S = 5.0
_LONGEST_JTI = 255
_RSA_LENGTHS = range(2048 // 6, 8192 // 6 + 3)
"""Of a modulus in Base64, 2048 to 8192 bits: a shorter key is too weak (NIST SP 800-131A), a longer one too slow."""
_UNREADABLE = (JoseError, ValueError, TypeError, KeyError, RecursionError)


def claimed(assertion: str) -> tuple[str, str]:
    """Who an assertion says it is from, and the id of its key; unverified. Empty where it says none."""
    try:
        read = jws.extract_compact(assertion.encode())
        claims = json.loads(read.payload)
        return str(claims["sub"]), str(read.headers().get("kid", ""))
    except _UNREADABLE:
        return "", ""


@dataclass(slots=True)
class _Kept:
    keys: tuple[Mapping[str, Any], ...] = ()
    until: float = 0.0
    """As long as the client's Cache-Control allows."""
    not_before: float = 0.0
    """When one that did not answer is asked again."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class ClientKeys:
    """The public keys of clients: as registered, or from the URL that was registered."""

    def __init__(self, fetch: Fetch | None) -> None:
        self._fetch = fetch
        self._kept: dict[str, _Kept] = {}

    async def of(self, client: Client, kid: str) -> tuple[Mapping[str, Any], ...]:
        """The client's JWKs; those of a URL are fetched anew where they may not be kept, or lack `kid`.

        Empty where they cannot be had. Call it outside of a transaction: it may wait for a peer.
        """
        if client.jwks is not None:
            return tuple(client.jwks["keys"])
        if not client.jwks_uri or self._fetch is None:
            return ()
        kept = self._kept.setdefault(client.jwks_uri, _Kept())
        async with kept.turn:  # one at a time asks the same peer
            now = time.monotonic()
            known = now < kept.until and any(key.get("kid") == kid for key in kept.keys)
            if not known and now >= kept.not_before:
                return await self._renewed(client.jwks_uri, kept, self._fetch)
            return kept.keys if now < kept.until else ()

    async def _renewed(self, url: str, kept: _Kept, fetch: Fetch) -> tuple[Mapping[str, Any], ...]:
        """The keys there now; where they cannot be had, those from before, while they may still be kept."""
        try:
            document = await fetch.get_json(url, limit_bytes=_JWKS_BYTES, timeout_s=_FETCH_S)
            keys = document.content["keys"]
            if not isinstance(keys, list) or len(keys) > _MOST_KEYS or not all(isinstance(key, dict) for key in keys):
                raise TypeError(url)
        except (WetreadError, KeyError, TypeError) as error:
            now = time.monotonic()
            kept.not_before = now + (_RETRY_S if isinstance(error, Unreachable) else 2 * _RETRY_S)
            return kept.keys if now < kept.until else ()
        now = time.monotonic()
        kept.keys = tuple(keys)
        kept.until = now + min(document.max_age_s, _LONGEST_KEPT_S)
        # A guessed kid makes no storm of requests to the client.
        kept.not_before = min(kept.until, now + _RETRY_S)
        return kept.keys


class ClientAssertion(JWTBearerClientAssertion):  # type: ignore[misc]
    """Authlib's check of an assertion, with SMART's rules for keys and lifetime. Lives for one request."""

    CLIENT_AUTH_METHOD = "private_key_jwt"

    def __init__(self, conn: Connection, token_url: str, keys: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(leeway=_SKEW_S)
        self._conn = conn
        self._token_url = token_url
        self._keys = tuple(keys)
        self._jwks_uri = ""

    def get_audiences(self) -> list[str]:
        return [self._token_url]

    def extract_assertion(self, assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            return super().extract_assertion(assertion)  # type: ignore[no-any-return]
        except _UNREADABLE as error:
            raise InvalidClientError(description="The assertion cannot be read.") from error

    def resolve_client_public_key(self, client: Any) -> tuple[Mapping[str, Any], ...]:
        self._jwks_uri = client.registered.jwks_uri
        return self._keys

    def process_assertion_claims(self, assertion: str, resolve_key: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Raises InvalidClientError, the one error of client-confidential-asymmetric.html#signature-verification."""
        header, _ = self.extract_assertion(assertion)
        jku = header.get("jku")
        if jku is not None and (not self._jwks_uri or jku != self._jwks_uri):
            raise InvalidClientError(description="jku is not the URL that was registered.")
        for key in _fitting(header, resolve_key):
            try:
                claims = jwt.decode(assertion, key, algorithms=list(ALGORITHMS)).claims
            except _UNREADABLE:
                continue
            self.verify_claims(claims)
            return claims
        raise InvalidClientError(description="No registered key verifies the assertion.")

    def verify_claims(self, claims: dict[str, Any]) -> None:
        try:
            super().verify_claims(_Bounded(claims))
        except _UNREADABLE as error:
            raise InvalidClientError(description="The assertion has claims of the wrong type.") from error

    def validate_jti(self, claims: Mapping[str, Any], jti: Any) -> bool:
        expires_at = claims["exp"]
        if expires_at > time.time() + _LONGEST_S + _SKEW_S:
            raise InvalidClientError(description="The assertion lives longer than five minutes.")
        if not isinstance(jti, str) or not 0 < len(jti) <= _LONGEST_JTI or "\x00" in jti:
            raise InvalidClientError(description="jti is not a text of a fitting length.")
        return wait_for(first_seen, self._conn, claims["iss"], jti, expires_at + _SKEW_S)


class _Bounded(dict[str, Any]):
    """Claims whose `aud` is of at most a few members, so that none is compared with thousands."""

    def __init__(self, claims: Mapping[str, Any]) -> None:
        super().__init__(claims)
        if isinstance(claims.get("aud"), list) and len(claims["aud"]) > _MOST_KEYS:
            raise InvalidClientError(description="aud names too many.")


async def first_seen(conn: Connection, client_id: str, jti: str, until: float) -> bool:
    """Whether a JWT of this issuer comes for the first time; remembered until then (seconds since 1970)."""
    added = await conn.execute(
        "INSERT INTO seen_assertion (client_id, jti, expires_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (client_id, jti, datetime.fromtimestamp(until, UTC)),
    )
    return added.rowcount == 1


async def sweep(conn: Connection) -> int:
    """Removes what was seen and is too old to come again; how many."""
    return (await conn.execute("DELETE FROM seen_assertion WHERE expires_at < clock_timestamp()")).rowcount


def _fitting(header: Mapping[str, Any], keys: Sequence[Mapping[str, Any]]) -> list[RSAKey | ECKey]:
    """Every registered key of the header's kid and of its algorithm's type (#signature-verification, step 3)."""
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS or not isinstance(kid, str):
        return []
    fitting: list[RSAKey | ECKey] = []
    for key in keys:
        if key.get("kid") != kid or key.get("alg", algorithm) != algorithm or key.get("use", "sig") != "sig":
            continue
        public = {name: key[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in key}
        try:
            if algorithm == "RS384" and public["kty"] == "RSA" and len(public["n"]) in _RSA_LENGTHS:
                fitting.append(RSAKey.import_key(public))
            elif algorithm == "ES384" and public["kty"] == "EC" and public["crv"] == "P-384":
                fitting.append(ECKey.import_key(public))
        except _UNREADABLE:
            continue
    return fitting
