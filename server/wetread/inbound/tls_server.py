"""A TLS listener that knows whose handshake failed: asyncio's own servers tell that to nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import TypeAlias

logger = logging.getLogger(__name__)

TurnedAway: TypeAlias = Callable[[str, str], None]
"""Is told the address of a peer that was turned away, and why."""

_OUT_OF_FILES_WAITS_S = 1.0


def untold(address: str, why: str) -> None:
    """For a listener that nobody wants to hear of."""


class TlsServer:
    """Takes connections and hands each to a `protocol` of its own once hands are shaken. Where asyncio.Server is meant
    that serves TLS, this stands for it."""

    def __init__(
        self,
        protocol: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext,
        *,
        handshake_s: float,
        goodbye_s: float,
        turned_away: TurnedAway = untold,
    ) -> None:
        self._protocol = protocol
        self._context = context
        self._handshake_s = handshake_s
        self._goodbye_s = goodbye_s
        self._turned_away = turned_away
        self._accepting: list[asyncio.Task[None]] = []
        self._greeting: set[asyncio.Task[None]] = set()
        self.sockets: tuple[socket.socket, ...] = ()

    async def start(self, host: str, port: int, *, backlog: int = 100) -> None:
        """Listens on every address of `host`. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with contextlib.ExitStack() as undo:
            made = []
            for family, kind, protocol, _, where in dict.fromkeys(found):
                listening = undo.enter_context(socket.socket(family, kind, protocol))
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.setblocking(False)
                listening.bind(where)
                listening.listen(backlog)
                made.append(listening)
            undo.pop_all()
        self.sockets = tuple(made)
        self._accepting = [asyncio.create_task(self._accept(listening)) for listening in made]

    def close(self) -> None:
        """Takes no more; who has shaken hands is not touched."""
        for task in (*self._accepting, *self._greeting):
            task.cancel()

    async def wait_closed(self) -> None:
        """Until nobody is waited for any more."""
        await asyncio.gather(*self._accepting, *self._greeting, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    connection, where = await loop.sock_accept(listening)
                except ConnectionError:
                    continue
                except OSError as error:
                    logger.error("no connection can be taken: %s", error.strerror or type(error).__name__)
                    await asyncio.sleep(_OUT_OF_FILES_WAITS_S)
                    continue
                task = asyncio.create_task(self._greet(connection, str(where[0])))
                self._greeting.add(task)
                task.add_done_callback(self._greeting.discard)

    async def _greet(self, connection: socket.socket, address: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_s,
                ssl_shutdown_timeout=self._goodbye_s,
            )
        except (ConnectionResetError, BrokenPipeError):
            connection.close()  # as probes do that only look whether somebody listens
        except OSError as error:
            connection.close()
            self._turned_away(address, f"TLS handshake failed: {told(error)}")
        except asyncio.CancelledError:
            connection.close()
            raise


def told(error: OSError) -> str:
    """Why a handshake failed, in OpenSSL's words where it has some."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return "not done in time" if isinstance(error, ConnectionAbortedError | TimeoutError) else type(error).__name__
