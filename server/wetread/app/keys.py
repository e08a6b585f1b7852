"""What this site seals and signs with."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from wetread.access.audit_keys import AuditKeys
from wetread.access.oauth.signing_keys import FILE_NAME, SigningKeys
from wetread.access.tokens import Tokens, secret_file, signing_key
from wetread.errors import Misconfigured
from wetread.record.cursors import Cursors
from wetread.settings import Settings

TOKEN_AUDIENCE = "urn:wetread:server"  # noqa: S105


def site_key(data_dir: Path) -> bytes:
    """The key under which ids made from patient identifiers are HMACs; made once, kept with the data."""
    return secret_file(data_dir / "site.key", lambda: os.urandom(32))


def cursors(data_dir: Path) -> Cursors:
    """The seal of what pages of results go on from: the same in all processes of a site."""
    return Cursors(hmac.digest(site_key(data_dir), b"cursors", "sha256"))


def signing_keys(settings: Settings) -> SigningKeys:
    """Those of id_tokens."""
    return SigningKeys(settings.data_dir / FILE_NAME)


def tokens(settings: Settings) -> Tokens:
    return Tokens(signing_key(settings.data_dir / "token.key"), TOKEN_AUDIENCE)


def audit_keys(settings: Settings) -> AuditKeys:
    """What signs the audit record's checkpoints. Raises Misconfigured."""
    file = settings.data_dir / "audit.key"
    try:
        return AuditKeys.parse(secret_file(file, AuditKeys.made))
    except ValueError as error:
        raise Misconfigured(f"{file}: {error}") from error
