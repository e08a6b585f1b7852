"""The websocket protocol of the HTTP listener (RFC 6455): uvicorn's, which also tells when a peer has what it was sent.

The scope's extension `wetread.received` is an async function that returns once the peer has received all that was sent
before: it sends a Ping, and a Pong comes back only after the frames in front of it were read (5.5.2, 5.5.3).
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

EXTENSION = "wetread.received"


class WebsocketProtocol(WebSocketsSansIOProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asked: dict[bytes, asyncio.Future[None]] = {}

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        scope: Any = getattr(self, "scope", None)
        if scope is not None:
            scope["extensions"][EXTENSION] = self.received

    async def received(self) -> None:
        """Raises ClientDisconnected when the peer is gone before it says so."""
        await self.writable.wait()
        if self.disconnected or self.close_sent or self.transport.is_closing():
            raise ClientDisconnected
        payload = secrets.token_bytes(8)
        answered = self._asked[payload] = self.loop.create_future()
        try:
            self.conn.send_ping(payload)
            self.transport.write(b"".join(self.conn.data_to_send()))
            await answered
        finally:
            self._asked.pop(payload, None)

    def handle_pong(self, event: Frame) -> None:
        answered = self._asked.get(bytes(event.data))
        if answered is None:
            super().handle_pong(event)
        elif not answered.done():
            answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for answered in self._asked.values():
            if not answered.done():
                answered.set_exception(ClientDisconnected())
