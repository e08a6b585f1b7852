"""What an identity provider publishes of itself: where its endpoints are, and the keys that it signs with (OpenID
Connect Discovery 1.0, RFC 7517). Kept for as long as it says, within bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from wetread.domain.endpoint import is_loopback_host
from wetread.errors import PeerUnavailable, Unauthorized
from wetread.wire.fetch import Fetch, UnusableAnswer

SIGNED_WITH = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA",
)  # fmt: skip
"""Signatures by a key that only the provider has. `none` is no signature, and the key of HS256 is no secret where
somebody takes the public key for it (RFC 8725 2.1)."""

_LIMIT_BYTES = 256 * 1024
_TIMEOUT_S = 10.0
_KEPT_LEAST_S, _KEPT_MOST_S = 300, 24 * 3600
_RENEWED_AT_MOST_EVERY_S = 30.0
_AWAY_S = 5.0
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}

PublicKey: TypeAlias = RSAKey | ECKey | OKPKey
_Content = TypeVar("_Content")


@dataclass(frozen=True, slots=True)
class Metadata:
    """The part of OpenID Connect Discovery 1.0 section 3 that a login needs; empty where the provider has none."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    end_session_endpoint: str
    secret_in_body: bool
    """The provider takes a client's secret in the body only."""
    names_issuer: bool
    """Its authorization responses carry `iss` (RFC 9207 3)."""


@dataclass(slots=True)
class _Kept(Generic[_Content]):
    content: _Content
    fetched_at: float
    until: float


class ProviderDocuments:
    """Of one provider. `now` is a clock in seconds that never goes back."""

    def __init__(self, issuer: str, fetch: Fetch, now: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._now = now
        self._metadata: _Kept[Metadata] | None = None
        self._keys: _Kept[Sequence[PublicKey]] | None = None
        self._away_until = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def metadata(self) -> Metadata:
        """Raises PeerUnavailable, UnusableAnswer, and Unsupported where an address is not allowed."""
        async with self._one_at_a_time:
            if self._metadata is None or self._now() >= self._metadata.until:
                url = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
                content, until = await self._document(url)
                self._metadata = _Kept(_metadata(content, self._issuer), self._now(), until)
            return self._metadata.content

    async def key(self, key_id: str | None, algorithm: str) -> PublicKey:
        """The key that a token names, or the only one that it can mean. A key that is not known may be a new one, so
        the keys are got again, but not more often than every 30 s: anybody can send a token with an unknown name.

        Raises Unauthorized, and what `metadata` raises.
        """
        jwks_uri = (await self.metadata()).jwks_uri
        async with self._one_at_a_time:
            for _ in range(2):
                if self._keys is not None and self._now() < self._keys.until:
                    fitting = [key for key in self._keys.content if _fits(key, key_id, algorithm)]
                    if len(fitting) == 1:
                        return fitting[0]
                    if self._now() < self._keys.fetched_at + _RENEWED_AT_MOST_EVERY_S:
                        break
                content, until = await self._document(jwks_uri)
                self._keys = _Kept(_public_keys(content), self._now(), until)
        raise Unauthorized("the identity provider does not publish the key that it signed with")

    async def _document(self, url: str) -> tuple[Mapping[str, Any], float]:
        # Whoever waited for the same answer must not wait for the next time-out, and the next.
        if self._now() < self._away_until:
            raise PeerUnavailable("the identity provider did not answer a moment ago; try again soon")
        try:
            document = await self._fetch.get_json(url, limit_bytes=_LIMIT_BYTES, timeout_s=_TIMEOUT_S)
        except PeerUnavailable:
            self._away_until = self._now() + _AWAY_S
            raise
        if not isinstance(document.content, dict):
            raise UnusableAnswer("the identity provider's document is not a JSON object")
        kept_s = min(max(document.max_age_s, _KEPT_LEAST_S), _KEPT_MOST_S)
        return document.content, self._now() + kept_s


def _metadata(content: Mapping[str, Any], issuer: str) -> Metadata:
    # Discovery 4.3: the issuer must be exactly the one that was asked, else one provider could speak for another.
    if content.get("issuer") != issuer:
        raise UnusableAnswer("the identity provider's discovery document is of another issuer than the settings say")
    methods = content.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return Metadata(
        issuer=issuer,
        authorization_endpoint=_endpoint(content, "authorization_endpoint"),
        token_endpoint=_endpoint(content, "token_endpoint"),
        jwks_uri=_endpoint(content, "jwks_uri"),
        userinfo_endpoint=_endpoint(content, "userinfo_endpoint", needed=False),
        end_session_endpoint=_endpoint(content, "end_session_endpoint", needed=False),
        secret_in_body=isinstance(methods, list)
        and "client_secret_basic" not in methods
        and "client_secret_post" in methods,
        names_issuer=content.get("authorization_response_iss_parameter_supported") is True,
    )


def _endpoint(content: Mapping[str, Any], key: str, *, needed: bool = True) -> str:
    """A browser is sent there or this server calls it, so it is https, or does not leave the machine."""
    value = content.get(key, "")
    if not value and not needed:
        return ""
    if isinstance(value, str) and (value.startswith("https://") or _stays_here(value)):
        return value
    raise UnusableAnswer(f"the identity provider's discovery document has no usable {key}")


def _stays_here(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and parts.username is None and is_loopback_host(parts.hostname or "")
    except ValueError:
        return False


def _public_keys(content: Mapping[str, Any]) -> Sequence[PublicKey]:
    """Those that can sign; one that is broken or of a kind unknown here does not spoil the others (RFC 7517 5)."""
    offered = content.get("keys")
    if not isinstance(offered, list):
        raise UnusableAnswer("the identity provider's keys are not a JSON Web Key Set")
    keys: list[PublicKey] = []
    for each in offered:
        if not isinstance(each, dict) or each.get("use", "sig") != "sig":
            continue
        try:
            key = JWKRegistry.import_key(each)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if isinstance(key, RSAKey | ECKey | OKPKey):
            keys.append(key)
    return keys


def _fits(key: PublicKey, key_id: str | None, algorithm: str) -> bool:
    if key.alg not in (None, algorithm) or key.key_type != _KEY_TYPES[algorithm[:2]]:
        return False
    return key_id is None or key.kid == key_id
