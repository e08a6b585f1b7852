"""Addresses of names, asked of the system: a name whose DNS hangs holds up no other."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from wetread.wire.lookups import Lookups


@pytest.fixture
async def lookups() -> AsyncIterator[Lookups]:
    lookups = Lookups()
    yield lookups
    lookups.close()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names below hang.example that were asked for; the DNS answers none of them before the test ends."""
    asked: list[str] = []
    over, system = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, *how: Any, **more: Any) -> Any:
        if host.endswith(".hang.example"):
            asked.append(host)
            over.wait(20)
            raise socket.gaierror("no answer in time")
        return system(host, *how, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    over.set()


async def test_addresses_are_those_that_the_system_finds(lookups: Lookups) -> None:
    assert set(await lookups("localhost", 443)) <= {"127.0.0.1", "::1"}
    assert list(await lookups("127.0.0.1", 443)) == ["127.0.0.1"]


async def test_a_name_that_hangs_holds_up_no_other_and_is_asked_for_once(lookups: Lookups, hanging: list[str]) -> None:
    names = [f"ehr-{n}.hang.example" for n in range(40)]
    waiting = [asyncio.create_task(lookups(name, 443)) for name in names * 3]
    async with asyncio.timeout(20):
        assert await lookups("localhost", 443)
        while len(hanging) < len(names):  # noqa: ASYNC110  (threads are what is waited for)
            await asyncio.sleep(0.01)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await lookups(names[0], 443)
    assert sorted(hanging) == sorted(names)


async def test_a_name_without_an_address_is_asked_for_again(lookups: Lookups) -> None:
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await lookups("nobody.invalid", 443)


async def test_a_name_that_is_none_has_no_address(lookups: Lookups) -> None:
    with pytest.raises((OSError, UnicodeError)):
        await lookups("a" * 70 + ".example", 443)
