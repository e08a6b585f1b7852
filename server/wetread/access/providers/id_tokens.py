"""What an identity provider says of a person: its signed ID token, checked (OpenID Connect Core 1.0, 3.1.3.7)."""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from typing import Any

from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwt import Token
from joserfc.util import urlsafe_b64decode

from wetread.access.providers.documents import SIGNED_WITH, ProviderDocuments
from wetread.errors import Unauthorized

_SKEW_S = 60
_MOST_CHARACTERS = 64 * 1024


async def verified(
    token: str, documents: ProviderDocuments, *, issuer: str, client_id: str, nonce: str, access_token: str
) -> Mapping[str, Any]:
    """The claims of an ID token that this provider signed for us, in answer to the login with this nonce.

    Checked are the signature (never `none`, never by a shared secret), iss, aud, azp, exp, nbf, iat, nonce, and at_hash
    where the token has it. Raises Unauthorized; PeerUnavailable and UnusableAnswer where its keys cannot be had.
    """
    decoded = await signed(token, documents)
    try:
        options: Any = {
            "iss": {"essential": True, "value": issuer},
            "aud": {"essential": True, "value": client_id},
            "sub": {"essential": True},
        }
        params = {"nonce": nonce, "client_id": client_id, "access_token": access_token}
        claims = CodeIDToken(decoded.claims, decoded.header, options, params)
        claims.validate(leeway=_SKEW_S)
    except JoseError as error:
        raise Unauthorized(f"the identity provider's token is refused: {_reason(error)}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unauthorized("the identity provider's token is refused: it is malformed") from error
    return dict(claims)


async def signed(token: str, documents: ProviderDocuments) -> Token:
    """A token that this provider has signed; what its claims say is still to be checked. Raises as `verified` does."""
    algorithm, key_id = _header(token)
    key = await documents.key(key_id, algorithm)
    try:
        return jwt.decode(token, key, algorithms=[algorithm])
    except JoseError as error:
        raise Unauthorized(f"the identity provider's token is refused: {_reason(error)}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unauthorized("the identity provider's token is refused: it is malformed") from error


def _header(token: str) -> tuple[str, str | None]:
    """Which signature and key the token names. Nothing of this is trusted: the key must be the provider's own."""
    if len(token) > _MOST_CHARACTERS:
        raise Unauthorized("the identity provider's token is too long")
    try:
        header = json.loads(urlsafe_b64decode(token.split(".")[0].encode()))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise Unauthorized("the identity provider's token is malformed") from error
    algorithm, key_id = (header.get("alg"), header.get("kid")) if isinstance(header, dict) else (None, None)
    if algorithm not in SIGNED_WITH or not isinstance(key_id, str | None):
        raise Unauthorized("the identity provider's token is not signed by a method that is taken here, e.g. RS256")
    return algorithm, key_id


def _reason(error: JoseError) -> str:
    """Which rule was broken, without the claim's value."""
    claim = getattr(error, "claim", None)
    return f"{error.error} ({claim})" if claim else str(error.error)
