"""The seal of the place where a next page begins: it says nothing to its holder, and nobody else can make one.

A cursor is good for the reader that it was given to, for the search that it is a page of, and for servers with the same
key. AES-SIV (RFC 5297) needs no nonce, so that the same place is the same text.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput

CURSOR = "_cursor"
_OF_FORM = frozenset({CURSOR, "_count", "_total", "_format", "_pretty"})
"""Parameters that say how a page looks, not which set it is a page of."""


@dataclass(frozen=True, slots=True)
class Cursors:
    """`key` has 32 bytes, and is a secret of the site."""

    key: bytes

    def sealed(self, reader: Reader, url: str, params: Iterable[tuple[str, str]], place: Sequence[Any]) -> str:
        """The text for a place, which is what JSON can hold, in the results of this url with these parameters."""
        text = json.dumps(place, separators=(",", ":")).encode()
        found = AESSIV(self.key).encrypt(text, [_of(reader, url, params)])
        return base64.urlsafe_b64encode(found).decode().rstrip("=")

    def opened(self, reader: Reader, url: str, params: Iterable[tuple[str, str]], text: str) -> Any:
        """The place that was sealed for the same reader, url and parameters. Raises InvalidInput for any other text."""
        try:
            found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            return json.loads(AESSIV(self.key).decrypt(found, [_of(reader, url, params)]))
        except (InvalidTag, ValueError) as error:
            message = "not a page of these results for this reader; follow the link that the server gave, or ask anew"
            raise InvalidInput(message, location=f"http.{CURSOR}") from error


OF_THIS_PROCESS = Cursors(os.urandom(32))
"""For who has no key of the site: its cursors end with the program."""


def _of(reader: Reader, url: str, params: Iterable[tuple[str, str]]) -> bytes:
    asked = sorted(pair for pair in params if pair[0] not in _OF_FORM)
    return json.dumps([reader.principal, url, asked]).encode()
