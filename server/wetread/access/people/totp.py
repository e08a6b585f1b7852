"""The second factor: codes of an authenticator app (TOTP, RFC 6238), by seeds that are sealed under the site's key."""

from __future__ import annotations

import hmac
import os
import time

import pyotp
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wetread.errors import InvalidInput, Misconfigured
from wetread.store.database import Connection

_STEP_S = 30
_DRIFT_STEPS = 1
"""How far the phone's clock may be off, either way (RFC 6238 5.2, 6)."""
_NONCE_BYTES = 12
_ISSUER = "Wetread"


def new_seed() -> str:
    """160 random bits in base 32 (RFC 4226 4, R6)."""
    return pyotp.random_base32(32)


def address(seed: str, name: str) -> str:
    """The otpauth URI that an authenticator app takes."""
    return pyotp.TOTP(seed).provisioning_uri(name=name, issuer_name=_ISSUER)


def step_of(seed: str, code: str, *, after: int = 0, now_s: float | None = None) -> int | None:
    """The time step whose code it is, within the drift and after the step of the last code that counted; None where it
    is none."""
    given = "".join(code.split()).encode()
    now = int(time.time() if now_s is None else now_s) // _STEP_S
    maker = pyotp.TOTP(seed)
    fits = [
        step
        for step in range(now - _DRIFT_STEPS, now + _DRIFT_STEPS + 1)
        if hmac.compare_digest(maker.generate_otp(step).encode(), given)
    ]
    return next((step for step in fits if step > after), None)


class Seeds:
    """Seals and opens seeds (AES-256-GCM). The person's name is sealed in: a row's seed opens for no other."""

    def __init__(self, site_key: bytes) -> None:
        key = HKDF(SHA256(), 32, salt=None, info=b"wetread totp seed").derive(site_key)
        self._cipher = AESGCM(key)

    def seal(self, name: str, seed: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, seed.encode(), name.encode())

    def open(self, name: str, sealed: bytes) -> str:
        """Raises InvalidInput where it was not sealed here for this person."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise InvalidInput("this seed was not sealed here for this person") from error


async def count(conn: Connection, seeds: Seeds, name: str, code: str) -> bool:
    """Whether the code is right for the person, and has not counted before: each counts once (RFC 6238 5.2).

    Raises Misconfigured where the site's key is not the one that sealed the seed.
    """
    row = await (
        await conn.execute("SELECT totp_sealed, totp_last_step FROM account WHERE name = %s FOR UPDATE", (name,))
    ).fetchone()
    if row is None or row[0] is None:
        return False
    try:
        seed = seeds.open(name, row[0])
    except InvalidInput as error:
        raise Misconfigured(f"site.key did not seal the second factor of {name}; `wetread user totp-reset`") from error
    step = step_of(seed, code, after=row[1])
    if step is None:
        return False
    await conn.execute("UPDATE account SET totp_last_step = %s WHERE name = %s", (step, name))
    return True


async def keep(conn: Connection, seeds: Seeds, name: str, seed: str, step: int) -> None:
    """The person's second factor from now on, whose code of `step` has shown that the app has the seed."""
    await conn.execute(
        "UPDATE account SET totp_sealed = %s, totp_last_step = %s WHERE name = %s", (seeds.seal(name, seed), step, name)
    )


async def remove(conn: Connection, name: str) -> None:
    await conn.execute("UPDATE account SET totp_sealed = NULL, totp_last_step = 0 WHERE name = %s", (name,))
