"""Authlib is synchronous: it runs in a thread, and its hooks wait there for our async functions, which run on the
request's own connection meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import anyio.from_thread
import anyio.to_thread

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs `work` in a thread."""
    return await anyio.to_thread.run_sync(lambda: work(*args, **kwargs))


def wait_for(work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """From such a thread: the result of an async function on the event loop."""

    async def call() -> T:
        return await work(*args, **kwargs)

    return anyio.from_thread.run(call)
