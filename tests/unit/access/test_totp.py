"""Codes of authenticator apps, against the table of RFC 6238 appendix B, and seeds under their seal."""

from __future__ import annotations

import base64

import pyotp
import pytest

from wetread.access.people import accounts, totp
from wetread.access.people.totp import Seeds
from wetread.errors import InvalidInput, Misconfigured
from wetread.store.database import Database

RFC_SEED = base64.b32encode(b"12345678901234567890").decode()
RFC_TABLE = {59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037"}


@pytest.mark.parametrize(("at_s", "code"), RFC_TABLE.items())
def test_the_codes_are_those_of_the_standard(at_s: int, code: str) -> None:
    assert totp.step_of(RFC_SEED, code, now_s=at_s) == at_s // 30


def test_the_clock_of_the_phone_may_be_off_by_one_step_and_no_more() -> None:
    now_s = 1234567890
    for off, counts in ((-60, False), (-30, True), (0, True), (30, True), (60, False)):
        code = pyotp.TOTP(RFC_SEED).at(now_s + off)
        assert (totp.step_of(RFC_SEED, code, now_s=now_s) is not None) is counts, off


@pytest.mark.parametrize("code", ["", "00592", "0059240", "-05924", "abcdef", "\u0660\u0660\u0665\u0669\u0662\u0664"])
def test_what_is_no_code_does_not_fit(code: str) -> None:
    assert totp.step_of(RFC_SEED, code, now_s=1234567890) is None


def test_a_code_may_be_typed_as_the_app_shows_it() -> None:
    assert totp.step_of(RFC_SEED, " 005 924 ", now_s=1234567890) == 1234567890 // 30


def test_a_seed_has_160_bits() -> None:
    assert len(base64.b32decode(totp.new_seed())) == 20
    assert totp.new_seed() != totp.new_seed()


def test_a_seal_opens_for_its_person_and_site_only() -> None:
    sealed = Seeds(b"k" * 32).seal("maria", RFC_SEED)
    assert RFC_SEED.encode() not in sealed
    assert Seeds(b"k" * 32).open("maria", sealed) == RFC_SEED
    for seeds, name, content in (
        (Seeds(b"k" * 32), "eve", sealed),
        (Seeds(b"o" * 32), "maria", sealed),
        (Seeds(b"k" * 32), "maria", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (Seeds(b"k" * 32), "maria", b""),
        (Seeds(b"k" * 32), "maria", sealed[:13]),
    ):
        with pytest.raises(InvalidInput):
            seeds.open(name, content)


async def test_a_code_counts_once_and_none_before_it_any_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, now_s = Seeds(b"k" * 32), 1234567890
    monkeypatch.setattr(totp.time, "time", lambda: now_s)
    before, code, after = (pyotp.TOTP(RFC_SEED).at(now_s + off) for off in (-30, 0, 30))
    async with database.transaction() as conn:
        await accounts.add(conn, "maria", "Maria", ["radiologist"])
        assert not await totp.count(conn, seeds, "maria", code), "no second factor is set up"
        await totp.keep(conn, seeds, "maria", RFC_SEED, 0)
        assert await totp.count(conn, seeds, "maria", code)
        assert not await totp.count(conn, seeds, "maria", code)
        assert not await totp.count(conn, seeds, "maria", before)
        assert await totp.count(conn, seeds, "maria", after)
        with pytest.raises(Misconfigured, match=r"site\.key"):
            await totp.count(conn, Seeds(b"o" * 32), "maria", code)
        await totp.remove(conn, "maria")
        assert not await totp.count(conn, seeds, "maria", code)
