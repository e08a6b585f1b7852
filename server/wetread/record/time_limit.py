"""What a caller may cost: seconds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from wetread.errors import TooCostly


@contextlib.asynccontextmanager
async def time_limit(seconds: float, what: str, advice: str) -> AsyncIterator[None]:
    """Ends the block in time, with TooCostly: `this search takes longer than 30 s; make it more specific`.

    A statement that runs is cancelled in the database (psycopg does so when its task is).
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise TooCostly(f"this {what} takes longer than {seconds:g} s; {advice}") from error
