"""The key that signs the checkpoints of the audit chain (ES256, RFC 7518 3.4), and the keys that may have signed.

A key of its own, in a file of its own: who can write to the database cannot sign.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet

from wetread.record.audit.keys import BadSignature

_ALGORITHM = "ES256"


class AuditKeys:
    """A JWK Set (RFC 7517 5). Its first key signs; all of them verify, so that a key can be replaced."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys
        for key in keys.keys:
            key.ensure_kid()

    @classmethod
    def parse(cls, text: bytes) -> AuditKeys:
        """Raises ValueError where this is no set of private keys on P-256."""
        content = json.loads(text)
        found = content.get("keys") if isinstance(content, dict) else None
        if not found or not all(key.get("crv") == "P-256" and "d" in key for key in found):
            raise ValueError("expected a JWK Set of private keys on P-256")
        try:
            return cls(KeySet.import_key_set(content))
        except JoseError as error:
            raise ValueError("expected a JWK Set of private keys on P-256") from error

    @classmethod
    def made(cls) -> bytes:
        """The content of a new file of keys."""
        key = ECKey.generate_key("P-256", private=True, auto_kid=True)
        return json.dumps({"keys": [key.as_dict(private=True)]}).encode()

    def sign(self, kind: str, payload: Mapping[str, Any]) -> str:
        """A compact JWS; `kind` tells (typ) for what, so that one is never taken for the other."""
        key = self._keys.keys[0]
        content = json.dumps(payload, sort_keys=True, separators=(",", ":"))
        return jws.serialize_compact({"alg": _ALGORITHM, "kid": key.kid, "typ": kind}, content, key)

    def payload(self, kind: str, signed: str) -> dict[str, Any]:
        """What was signed as this kind. Raises BadSignature."""
        try:
            found = jws.deserialize_compact(signed, self._keys, algorithms=[_ALGORITHM])
            if found.headers().get("typ") != kind:
                raise BadSignature
            content: dict[str, Any] = json.loads(found.payload)
        except (JoseError, ValueError) as error:
            raise BadSignature from error
        return content

    def public(self) -> dict[str, Any]:
        """The JWK Set for others: public halves alone."""
        return {"keys": [{**key.as_dict(private=False), "use": "sig", "alg": _ALGORITHM} for key in self._keys.keys]}
