"""Passwords of local accounts: argon2id (RFC 9106), hashed in threads; what may be one (NIST SP 800-63B 5.1.1)."""

from __future__ import annotations

import secrets
import unicodedata

import anyio
import anyio.to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from wetread.errors import InvalidInput
from wetread.store.database import Connection

_MOST_CHARACTERS = 256
_COMMON = ("password", "passwort", "qwertyuiop", "qwertzuiop", "1234567890", "letmein", "administrator", "wetread")
_ADDED_CHARACTERS = 6
"""A password that is one of the common ones, or the name, and fewer more than these is among the first guesses."""
_DIFFERENT_CHARACTERS = 4


class Passwords:
    """Hashes and checks, `at_once` at a time: each takes 64 MiB (RFC 9106 4, second choice)."""

    def __init__(self, minimum_length: int = 12, at_once: int = 4, hasher: PasswordHasher | None = None) -> None:
        self.minimum_length = minimum_length
        self._hasher = hasher or PasswordHasher()
        self._turns = anyio.CapacityLimiter(at_once)
        self._nobodys: str | None = None

    def require_good(self, name: str, password: str) -> None:
        """Raises InvalidInput for one that is too short, too long, the person's name, or among the first guesses."""
        plain = _normal(password)
        if len(plain) < self.minimum_length:
            raise InvalidInput(f"a password has at least {self.minimum_length} characters; a sentence makes a good one")
        if len(plain) > _MOST_CHARACTERS:
            raise InvalidInput(f"a password has at most {_MOST_CHARACTERS} characters")
        bare = plain.casefold()
        names = (name.casefold(), name.partition("@")[0].casefold())
        if any(known and len(bare.replace(known, "")) < _ADDED_CHARACTERS for known in (*names, *_COMMON)):
            raise InvalidInput("this password is among the first that are tried; choose another")
        if len(set(bare)) < _DIFFERENT_CHARACTERS:
            raise InvalidInput("this password has too few different characters; choose another")

    async def hashed(self, password: str) -> str:
        """The argon2id hash of a password that `require_good` let through."""
        return await anyio.to_thread.run_sync(self._hasher.hash, _normal(password), limiter=self._turns)

    async def match(self, kept: str | None, password: str) -> bool:
        """Whether the password is the one of the hash. Where there is no hash, it takes as long and is False."""
        if self._nobodys is None:
            self._nobodys = await self.hashed(secrets.token_urlsafe())
        matches = await anyio.to_thread.run_sync(
            self._verified, kept or self._nobodys, _normal(password), limiter=self._turns
        )
        return matches and kept is not None

    def outdated(self, kept: str) -> bool:
        """Whether the hash was made with other parameters than those of today."""
        return self._hasher.check_needs_rehash(kept)

    def _verified(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False


async def keep(conn: Connection, name: str, hashed: str) -> None:
    """The person's password from now on."""
    await conn.execute("UPDATE account SET password_hash = %s WHERE name = %s", (hashed, name))


async def kept(conn: Connection, name: str) -> str | None:
    """The hash of the person's password."""
    row = await (await conn.execute("SELECT password_hash FROM account WHERE name = %s", (name,))).fetchone()
    return row[0] if row else None


def _normal(password: str) -> str:
    """The same characters however the keyboard composed them (NIST SP 800-63B 5.1.1.2)."""
    return unicodedata.normalize("NFKC", password)
