"""Work on long texts, off the event loop: parsing 100 kB takes about a millisecond, 16 MB stops everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LONG = 100_000
"""Characters: what is shorter costs less than a change of threads is worth."""


async def aside(size: int, work: Callable[[], T]) -> T:
    """What `work` gives; done in a thread where the text that it works on is of so many characters that others would
    wait for it."""
    return await asyncio.to_thread(work) if size > _LONG else work()
