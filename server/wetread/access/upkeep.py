"""What a process that checks credentials does all the time: it hears of revocations, and throws away what is over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from datetime import timedelta

from wetread.access import revocation
from wetread.access.clients import assertions
from wetread.access.oauth import grants, launches
from wetread.access.people import known_devices, sessions
from wetread.access.revocation import Revocations
from wetread.errors import Unreachable
from wetread.store.database import Connection, Database

logger = logging.getLogger(__name__)

_EVERY_S = 1.0
_SWEEP_EVERY_S = 3600.0
_KEPT = timedelta(days=30)
"""How long a grant or session that is over is still known for what it was."""


async def run(
    database: Database,
    revocations: Revocations,
    stop: asyncio.Event,
    every_s: float = _EVERY_S,
    unseen: timedelta = timedelta(days=30),
) -> None:
    """Until `stop`. `unseen` is how long a person of an identity provider may stay away from here before what they gave
    to apps for longer than a login ends."""
    swept_at = -math.inf
    while not stop.is_set():
        try:
            async with database.statements() as conn:
                await revocations.refresh(conn)
            if time.monotonic() - swept_at > _SWEEP_EVERY_S:
                swept_at = time.monotonic()
                async with database.transaction() as conn:
                    await sweep(conn)
                    await grants.end_unseen(conn, revocations, unseen)
        except Unreachable:
            logger.warning("revocations are not renewed: the database does not answer")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), every_s)


async def sweep(conn: Connection) -> None:
    """Removes what nobody can use, and nobody needs to know, any more."""
    await grants.sweep(conn, _KEPT)
    await sessions.sweep(conn, _KEPT)
    await known_devices.sweep(conn)
    await launches.sweep(conn)
    await assertions.sweep(conn)
    await revocation.forget(conn)
