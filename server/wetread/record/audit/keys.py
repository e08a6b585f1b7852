"""What the audit record needs of the keys that sign it; `access.audit_keys` has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class BadSignature(Exception):
    """A text that none of our keys signed, or not as this kind."""


class Keys(Protocol):
    def sign(self, kind: str, payload: Mapping[str, Any]) -> str:
        """A compact JWS; `kind` tells for what, so that one is never taken for the other."""

    def payload(self, kind: str, signed: str) -> dict[str, Any]:
        """What was signed as this kind. Raises BadSignature."""
