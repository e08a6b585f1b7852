"""Websockets of subscriptions (Backport IG 1.1 channels.html#websockets; R4 subscription.html#websocket).

A client opens a socket, and sends `bind-with-token` and a token of `$get-ws-binding-token`, as often as it wants. The
token is the credential: cookies count for nothing here, so that another site's page can do nothing with a socket. A
client that shows its access token when it opens the socket may send R4's `bind` and the id of a subscription instead.

Frames in JSON are understood too, as the client library of Medplum sends them; it is answered with the status of FHIR
R4B that it knows (`socket_frames`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from wetread.api import fhir_outcome, socket_frames
from wetread.api.credentials import Authenticate
from wetread.api.fhir_subscriptions import SOCKET_PATH
from wetread.api.socket_frames import Frame
from wetread.api.socket_hub import POLICY, TRY_AGAIN, Hub
from wetread.api.socket_links import Lost
from wetread.api.turned_away import TurnedAway, network
from wetread.domain.reader import Reader
from wetread.errors import Refused, Unauthorized, Unreachable, WetreadError
from wetread.record import lossless
from wetread.record.export.jobs import Throttled
from wetread.record.subscriptions import bindings
from wetread.record.subscriptions.delivery import Delivery
from wetread.store.database import Database

RECEIVED = "wetread.received"
"""The extension of the scope by which the listener tells that a peer has all that it was sent (inbound.websockets)."""

_UNBOUND_S = 30.0
"""A socket that is bound to nothing is closed after so long."""
_UNBOUND_OF_ONE = 50
"""So many of one address may be open that are bound to nothing."""
_MOST_ERRORS = 5
_CLOSE_S = 2.0
_AGAIN_S = 10
_TOO_LARGE = 1009
_LONGEST_FRAME = 4096
_DISCONNECTED = (WebSocketDisconnect, RuntimeError, OSError)


@dataclass(frozen=True, slots=True)
class Sockets:
    """`most` sockets are open in this process at once."""

    database: Database
    hub: Hub
    authenticate: Authenticate
    turned_away: TurnedAway
    base_url: str
    most: int = 10_000
    unbound: Counter[str] = field(default_factory=Counter)
    open: set[_Socket] = field(default_factory=set)


def route(sockets: Sockets) -> WebSocketRoute:
    async def endpoint(websocket: WebSocket) -> None:
        await _serve(sockets, websocket)

    return WebSocketRoute(f"/fhir{SOCKET_PATH}", endpoint)


async def _serve(sockets: Sockets, websocket: WebSocket) -> None:
    where = websocket.client.host if websocket.client else ""
    try:
        reader = await _shown(sockets, websocket)
        if len(sockets.open) >= sockets.most or sockets.unbound[network(where)] >= _UNBOUND_OF_ONE:
            raise Throttled(f"too many websockets are open; come again in {_AGAIN_S} s", _AGAIN_S)
    except WetreadError as error:
        sockets.turned_away.count(where, error.http_status)
        await websocket.send_denial_response(fhir_outcome.response(error))
        return
    await websocket.accept()
    socket = _Socket(sockets, websocket, where, reader)
    sockets.open.add(socket)
    sockets.unbound[network(where)] += 1
    try:
        await socket.serve()
    finally:
        sockets.hub.leave(socket)
        socket.count_as_bound()
        sockets.open.discard(socket)


async def _shown(sockets: Sockets, websocket: WebSocket) -> Reader | None:
    """Who shows an access token; cookies are none."""
    if "authorization" not in websocket.headers:
        return None
    return await sockets.authenticate(Request({**websocket.scope, "type": "http", "method": "POST"}))


class _Socket:
    """One connection, as the hub's Peer."""

    def __init__(self, sockets: Sockets, websocket: WebSocket, where: str, reader: Reader | None) -> None:
        self.where = where
        self._sockets = sockets
        self._websocket = websocket
        self._reader = reader
        self._errors = 0
        self._is_bound = False
        self._in_json = False
        received: Callable[[], Awaitable[None]] | None = websocket.scope.get("extensions", {}).get(RECEIVED)
        self._received = received

    async def serve(self) -> None:
        try:
            async with asyncio.timeout(_UNBOUND_S):
                while not self._is_bound:
                    if not await self._hear():
                        return
        except TimeoutError:
            await self.end(POLICY, "bind the websocket within 30 seconds")
            return
        while await self._hear():
            pass

    async def _hear(self) -> bool:
        """Answers one frame; false when the socket is closed."""
        try:
            message = await self._websocket.receive()
        except _DISCONNECTED:
            return False
        if message["type"] == "websocket.disconnect":
            return False
        text = message.get("text")
        if text is None or len(text) > _LONGEST_FRAME:
            await self.end(_TOO_LARGE, f"a frame is text of at most {_LONGEST_FRAME} characters")
            return False
        try:
            await self._do(socket_frames.read(text))
        except Lost:
            return False
        except Refused as error:
            return await self._refused(error)
        except Unreachable:
            await self.end(TRY_AGAIN, "the server cannot look that up now; connect again")
            return False
        return True

    async def _do(self, frame: Frame) -> None:
        """Raises Refused, Unreachable, Lost."""
        self._in_json = frame.in_json
        match frame.verb:
            case "ping":
                await self._write(lossless.dump({"type": "pong"}))
            case "bind-with-token":
                await self._bind_with_token(frame.argument)
            case "bind":
                await self._bind(frame.argument)
            case "unbind-from-token":
                binding = await self._redeemed(frame.argument)
                self._sockets.hub.unbind(self, binding.subscription_ids if binding else ())

    async def _bind_with_token(self, token: str) -> None:
        binding = await self._redeemed(token)
        if binding is None:
            self._sockets.turned_away.count(self.where, 401)
            raise Unauthorized("the token is unknown or has expired; get a new one by $get-ws-binding-token")
        await self._sockets.hub.bind(self, binding)
        self.count_as_bound()

    async def _redeemed(self, token: str) -> bindings.Binding | None:
        async with self._sockets.database.statements() as conn:
            return await bindings.redeem(conn, token)

    async def _bind(self, subscription_id: str) -> None:
        """R4's form, which names a subscription and shows no token with it."""
        if self._reader is None:
            raise Unauthorized("open the websocket with an access token to bind by id; or send bind-with-token")
        async with self._sockets.database.statements() as conn:
            binding = await bindings.of_one(conn, self._reader, subscription_id.removeprefix("Subscription/"))
        await self._sockets.hub.bind(self, binding)
        self.count_as_bound()

    def count_as_bound(self) -> None:
        """From now on it has all the time there is."""
        if not self._is_bound:
            self._is_bound = True
            unbound, where = self._sockets.unbound, network(self.where)
            unbound[where] -= 1
            if not unbound[where]:
                del unbound[where]

    async def _refused(self, error: Refused) -> bool:
        self._errors += 1
        if self._errors >= _MOST_ERRORS:
            await self.refuse(error)
            await self.end(POLICY, "too many frames could not be understood")
            return False
        await self.refuse(error)
        return True

    async def refuse(self, error: Refused) -> None:
        with contextlib.suppress(Lost, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._write(lossless.dump(fhir_outcome.outcome(error)))

    async def tell(self, delivery: Delivery) -> None:
        for text in socket_frames.written(self._sockets.base_url, delivery, in_json=self._in_json):
            await self._write(text)

    async def received(self) -> None:
        if self._received is not None:
            try:
                await self._received()
            except _DISCONNECTED as error:
                raise Lost from error

    async def end(self, code: int, why: str) -> None:
        with contextlib.suppress(TimeoutError, *_DISCONNECTED):
            async with asyncio.timeout(_CLOSE_S):
                await self._websocket.close(code, why)

    async def _write(self, text: str) -> None:
        try:
            await self._websocket.send_text(text)
        except _DISCONNECTED as error:
            raise Lost from error
