"""Signed, short-lived access tokens and their verification (JWT, RFC 7519; ES256): those of the local operator, and
those that the authorization server gives to clients.

The signing key lies in the data directory, mode 0600: who may read it may make a token. `Tokens.verify` is the one
place where such a token becomes a Reader.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from wetread.access.clients.registration import check_scope, is_resource_scope
from wetread.access.revocation import Revocations, subject
from wetread.domain.reader import Reader, Scope
from wetread.errors import Misconfigured, Unauthorized

_ALGORITHM = "ES256"
_ISSUER = "urn:wetread:local"
_NOT_VALID = "the access token is not valid here or has expired; get a new one"


def signing_key(file: Path) -> ECKey:
    """The key of this file, made on first use. Raises Misconfigured when others may read it."""
    made = ECKey.generate_key("P-256", private=True)
    content = secret_file(file, lambda: json.dumps(made.as_dict(private=True)).encode())
    return ECKey.import_key(json.loads(content))


def secret_file(file: Path, make: Callable[[], bytes]) -> bytes:
    """The content of a secret file, made on first use, whole or not at all: processes that start together agree.

    Raises Misconfigured when others may read it.
    """
    if not file.exists():
        part = file.with_name(f"{file.name}.{os.getpid()}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(make())
            handle.flush()
            os.fsync(handle.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, file)
        part.unlink()
    if file.stat().st_mode & 0o077:
        raise Misconfigured(f"{file}: others may read this key; set its mode to 0600")
    return file.read_bytes()


@dataclass(frozen=True, slots=True)
class Basis:
    """What a token stands on, and falls with: empty where there is none. `client_id` is whom it was given to,
    `patient_id` the patient of its `patient/` scopes, `session` the digest of a login in hexadecimal."""

    client_id: str = ""
    patient_id: str = ""
    grant_id: str = ""
    account: str = ""
    session: str = ""
    fhir_user: str = ""

    def subjects(self, token_id: str) -> tuple[str, ...]:
        """Every revocation that would end the token."""
        return (
            subject("token", token_id),
            subject("grant", self.grant_id),
            subject("client", self.client_id),
            subject("account", self.account),
            subject("session", self.session),
        )


@dataclass(frozen=True, slots=True)
class Issued:
    token: str
    token_id: str
    principal: str
    expires_s: int


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that counts now. `scope` is as it was issued: also what opens no resource, like `openid`."""

    reader: Reader
    basis: Basis
    token_id: str
    scope: str
    issued_at: int
    expires_at: int


class Tokens:
    """Issues and verifies. Verified tokens are remembered by digest, since a check costs 89 us; whether one has expired
    or was revoked is asked each time."""

    def __init__(self, key: ECKey, audience: str, revocations: Revocations | None = None) -> None:
        self._key = key
        self._audience = audience
        self.revocations = revocations or Revocations()
        self._known: dict[bytes, Verified] = {}

    def issue(
        self, principal: str, scope: str, roles: Sequence[str], lifetime: timedelta, basis: Basis | None = None
    ) -> Issued:
        """Raises InvalidInput for a scope that SMART does not know."""
        for word in scope.split():
            check_scope(word)
        now, token_id = int(time.time()), str(uuid.uuid4())
        expires_s = int(lifetime.total_seconds())
        claims = {
            "iss": _ISSUER,
            "sub": principal,
            "aud": self._audience,
            "iat": now,
            "exp": now + expires_s,
            "jti": token_id,
            "scope": scope,
            "roles": list(roles),
            **{name: value for name, value in asdict(basis or Basis()).items() if value},
        }
        return Issued(jwt.encode({"alg": _ALGORITHM}, claims, self._key), token_id, principal, expires_s)

    def verify(self, token: str) -> Reader:
        """Raises Unauthorized: unreadable, forged, expired, revoked, or for another server."""
        return self.verified(token).reader

    def verified(self, token: str) -> Verified:
        """All that the token says. Raises as `verify` does."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is None:
            known = self._read(token)
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[digest] = known
        if time.time() >= known.expires_at:
            raise Unauthorized(_NOT_VALID)
        if self.revocations.end(known.basis.subjects(known.token_id), known.issued_at):
            raise Unauthorized("the access token was revoked; get a new one")
        return known

    def _read(self, token: str) -> Verified:
        try:
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM]).claims
            jwt.JWTClaimsRegistry(
                iss={"essential": True, "value": _ISSUER},
                aud={"essential": True, "value": self._audience},
                exp={"essential": True},
                iat={"essential": True},
            ).validate(claims)
        except (JoseError, ValueError, RecursionError) as error:
            raise Unauthorized(_NOT_VALID) from error
        scopes = tuple(Scope.parse(word) for word in claims["scope"].split() if is_resource_scope(word))
        basis = Basis(**{name: claims.get(name, "") for name in Basis.__slots__})
        reader = Reader(
            claims["sub"],
            scopes,
            frozenset(claims["roles"]),
            patient_id=basis.patient_id or None,
            token_id=claims["jti"],
            client_id=basis.client_id or None,
            grant_id=basis.grant_id or None,
        )
        return Verified(reader, basis, claims["jti"], claims["scope"], int(claims["iat"]), int(claims["exp"]))
