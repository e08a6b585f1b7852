"""The keys under which id_tokens are signed (RS256, OpenID Connect Core 3.1.3.7; SMART App Launch 2.2 asks for it).

They lie in one file beside the key of access tokens, mode 0600: the one that signs, and the one before it, which stays
in the published JWKS so that id_tokens signed a moment before a change can still be verified.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from joserfc.jwk import RSAKey

from wetread.access.tokens import secret_file

ALGORITHM = "RS256"
FILE_NAME = "id_token.keys"
_BITS = 2048
_KEPT = 2


class SigningKeys:
    """The keys in a file, made on first use; read again where another process has changed them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._keys: list[RSAKey] = []

    def current(self) -> RSAKey:
        """The key that signs. Raises Misconfigured when others may read the file."""
        return self._read()[0]

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The public halves, as they are published (RFC 7517 5): bare keys, without certificates."""
        public = [key.as_dict(private=False) for key in self._read()]
        return {"keys": [{**key, "use": "sig", "alg": ALGORITHM} for key in public]}

    def rotate(self) -> str:
        """Makes a new key that signs from now on; the one until now stays published. The new key's id."""
        kept = self._read()[: _KEPT - 1]
        new = _made()
        part = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(_written([new, *kept]))
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(self._file)
        return str(new.kid)

    def _read(self) -> list[RSAKey]:
        content = secret_file(self._file, lambda: _written([_made()]))
        stat = self._file.stat()
        seen = (stat.st_mtime_ns, stat.st_ino)
        if seen != self._seen:
            self._keys = [RSAKey.import_key(key) for key in json.loads(content)["keys"]]
            self._seen = seen
        return self._keys


def _made() -> RSAKey:
    """Its id is its thumbprint (RFC 7638)."""
    key = RSAKey.generate_key(_BITS, private=True)
    key.ensure_kid()
    return key


def _written(keys: list[RSAKey]) -> bytes:
    return json.dumps({"keys": [key.as_dict(private=True) for key in keys]}).encode()
