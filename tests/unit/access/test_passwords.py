"""Passwords: what may be one, and how they are kept."""

from __future__ import annotations

import asyncio

import pytest
from argon2 import PasswordHasher

from wetread.access.people.passwords import Passwords
from wetread.errors import InvalidInput

GOOD = "correct horse battery staple"
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.mark.parametrize("password", [GOOD, "x7!kqPw9zzRt", "\u00fcber den Wolken", "abcd" * 64])
def test_length_makes_a_password_good(password: str) -> None:
    Passwords().require_good("maria", password)


@pytest.mark.parametrize(
    "password",
    [
        "",
        "short",
        "elevenchars",
        "x" * 257,
        "aaaaaaaaaaaaaaaa",
        "Password1234",
        "passwordpassword",
        "MARIA.curie@example.org",
        "maria.curiemaria.curie",
        "123456789012",
    ],
)
def test_a_password_that_is_among_the_first_guesses_is_refused_without_being_told(password: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Passwords().require_good("maria.curie@example.org", password)
    assert not password or password not in refused.value.message


def test_the_site_may_ask_for_more() -> None:
    with pytest.raises(InvalidInput, match="20"):
        Passwords(minimum_length=20).require_good("maria", "nineteen characters")


async def test_a_password_is_kept_as_argon2id_with_a_salt_of_its_own() -> None:
    passwords = Passwords()
    first, second = await passwords.hashed(GOOD), await passwords.hashed(GOOD)
    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert first != second
    assert await passwords.match(first, GOOD)
    assert not await passwords.match(first, GOOD + "!")
    assert not passwords.outdated(first)


async def test_the_same_characters_match_however_they_were_composed() -> None:
    passwords = Passwords(hasher=QUICK)
    kept = await passwords.hashed("caf\u00e9 au lait, \ufb01ve sugars")
    assert await passwords.match(kept, "cafe\u0301 au lait, five sugars")


async def test_nobody_matches_nothing_and_a_broken_hash_matches_nothing() -> None:
    passwords = Passwords(hasher=QUICK)
    assert not await passwords.match(None, GOOD)
    assert not await passwords.match("broken", GOOD)


async def test_a_hash_of_other_parameters_still_matches_and_is_outdated() -> None:
    kept = await Passwords(hasher=QUICK).hashed(GOOD)
    assert await Passwords().match(kept, GOOD)
    assert Passwords().outdated(kept)


async def test_hashing_does_not_hold_up_other_requests() -> None:
    passwords = Passwords(hasher=PasswordHasher(time_cost=6))
    hashing, turns = asyncio.create_task(passwords.hashed(GOOD)), 0
    while not hashing.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
