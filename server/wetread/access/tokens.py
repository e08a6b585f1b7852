"""Signed, short-lived access tokens of the local operator, and their verification (JWT, RFC 7519; ES256).

The signing key lies in the data directory, mode 0600: who may read it may make a token. SMART on FHIR will issue its
tokens beside these; `Tokens.verify` is the one place where a bearer token becomes a Reader.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from wetread.domain.reader import Reader, Scope
from wetread.errors import Misconfigured, Unauthorized

_ALGORITHM = "ES256"
_ISSUER = "urn:wetread:local"


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
class Issued:
    token: str
    token_id: str
    principal: str
    expires_s: int


class Tokens:
    """Issues and verifies. Verified tokens are remembered by digest until they expire: a check costs 89 us else."""

    def __init__(self, key: ECKey, audience: str) -> None:
        self._key = key
        self._audience = audience
        self._verified: dict[bytes, tuple[float, Reader]] = {}

    def issue(self, principal: str, scope: str, roles: Sequence[str], lifetime: timedelta) -> Issued:
        """Raises InvalidInput for a scope that SMART does not know."""
        for text in scope.split():
            Scope.parse(text)
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
        }
        return Issued(jwt.encode({"alg": _ALGORITHM}, claims, self._key), token_id, principal, expires_s)

    def verify(self, token: str) -> Reader:
        """Raises Unauthorized: unreadable, forged, expired, or for another server."""
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        now = time.time()
        if known is not None and now < known[0]:
            return known[1]
        try:
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM]).claims
            jwt.JWTClaimsRegistry(
                iss={"essential": True, "value": _ISSUER},
                aud={"essential": True, "value": self._audience},
                exp={"essential": True},
            ).validate(claims)
        except (JoseError, ValueError) as error:
            raise Unauthorized("the access token is not valid here or has expired; get a new one") from error
        scopes = tuple(Scope.parse(text) for text in claims["scope"].split())
        reader = Reader(claims["sub"], scopes, frozenset(claims["roles"]), token_id=claims["jti"])
        if len(self._verified) > 10_000:
            self._verified.clear()
        self._verified[digest] = (claims["exp"], reader)
        return reader
