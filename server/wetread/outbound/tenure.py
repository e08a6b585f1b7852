"""Whether the lock lives under which a deliverer works. Nobody may send whose lock may be gone: what it had in hand is
another's soon, and of one subscription two would tell at the same time.

The database lets go of the lock no earlier than five seconds after it last heard from the deliverer, and the others
take what it had in hand a second later (`claims`). So it stops five seconds after it last asked what was answered.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wetread.record.events import Hint
from wetread.record.subscriptions import claims
from wetread.store.database import Connection, own_errors

_SWEEP_S = 1.0
_ANSWER_S = 4.0
"""A database that has not answered by then is lost."""


@dataclass(slots=True)
class Tenure:
    """`conn` holds the lock; `wake` is called when something may be due."""

    conn: Connection
    wake: Callable[[], None]
    _heard_at: float = field(default_factory=time.monotonic)
    """When the last question was asked that was answered."""

    @property
    def is_over(self) -> bool:
        return self.conn.closed or time.monotonic() - self._heard_at > _SWEEP_S + _ANSWER_S

    async def keep(self) -> None:
        """Asks every second, and frees what the dead have in hand. Ends when the connection does: raises
        StoreUnavailable."""
        hint = Hint(self.conn)
        loop = asyncio.get_running_loop()
        gone: frozenset[int] = frozenset()
        while True:
            with own_errors():
                asked_at = time.monotonic()
                silence = loop.call_later(_ANSWER_S, _hang_up, self.conn)
                try:
                    now_gone = await claims.dead(self.conn)
                    # Those that were gone a second ago have heard of it by now.
                    if gone & now_gone and await claims.take_from(self.conn, gone & now_gone):
                        self.wake()
                finally:
                    silence.cancel()
                self._heard_at, gone = asked_at, now_gone
                until = time.monotonic() + _SWEEP_S
                while (left := until - time.monotonic()) > 0:
                    if await hint(left):
                        self.wake()


def _hang_up(conn: Connection) -> None:
    """Ends a connection at once, for whoever waits on it: to be cancelled, the driver asks a database first that may be
    gone."""
    if not conn.closed:
        with socket.socket(fileno=os.dup(conn.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)
