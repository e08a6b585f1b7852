"""Identity makes effects idempotent: every id that Wetread gives is a function of a natural key.

Doing a step twice writes the same thing under the same id, and a resend is byte-equal.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid

_ROOT = uuid.UUID("6f1d8c1e-5b0a-5c57-9d5b-2f6c5a0e7a11")
_SEPARATOR = "\x1f"


def _name(kind: str, key: tuple[str, ...]) -> str:
    return _SEPARATOR.join((kind, *key))


def fhir_id(kind: str, *key: str) -> str:
    """A resource id from a natural key that names no patient; a kind never shares ids with another."""
    return str(uuid.uuid5(_ROOT, _name(kind, key)))


def secret_fhir_id(site_key: bytes, kind: str, *key: str) -> str:
    """A resource id from a natural key that names a patient (MRN, visit number).

    An HMAC under the site's key (as UUID version 8, RFC 9562 5.8), so that a guess at the identifier cannot be checked
    against an id seen in a URL.
    """
    digest = hmac.new(site_key, _name(kind, key).encode(), hashlib.sha256).digest()
    value = int.from_bytes(digest[:16], "big")
    value = value & ~(0xF << 76) | (8 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return str(uuid.UUID(int=value))


def dicom_uid(kind: str, *key: str) -> str:
    """A DICOM UID under 2.25 (PS3.5 B.2) from a natural key."""
    return f"2.25.{uuid.uuid5(_ROOT, _name(kind, key)).int}"


def control_id(*key: str) -> str:
    """MSH-10 of an outgoing message: 20 characters, the longest that HL7 v2.5.1 allows (2.14.9.10)."""
    digest = hashlib.sha256(_name("msh-10", key).encode()).digest()
    return base64.b32encode(digest).decode()[:20]
