"""Addresses of names, found by threads of their own.

What asyncio offers shares few threads with all else that waits in one: some names whose DNS hangs would hold up every
other name, and work that has nothing to do with names.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_MOST_NAMES = 64
"""At once."""


class Lookups:
    """A `fetch.Resolver`. A name is asked for once at a time, however many want it. Close it when done."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_MOST_NAMES, "lookup")
        self._under_way: dict[tuple[str, int], asyncio.Future[list[tuple[Any, ...]]]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses, as the system finds them. Raises OSError and UnicodeError where there is none."""
        wanted = (host, port)
        found = self._under_way.get(wanted)
        if found is None:
            ask = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
            found = asyncio.get_running_loop().run_in_executor(self._threads, ask)
            self._under_way[wanted] = found
            found.add_done_callback(lambda done: self._forget(wanted, done))
        addresses = await asyncio.shield(found)
        return list(dict.fromkeys(str(address[0]) for *_, address in addresses))

    def close(self) -> None:
        """Waits for nothing: a lookup cannot be broken off."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _forget(self, wanted: tuple[str, int], done: asyncio.Future[list[tuple[Any, ...]]]) -> None:
        del self._under_way[wanted]
        if not done.cancelled():
            done.exception()  # whoever asked may have gone
