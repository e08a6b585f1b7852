"""Idle websockets: the memory that each takes of a server, all bound to one subscription; whether all hear an event."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.fhir.population import Population
from benchmarks.fhir.servers import Contestant, wetread
from benchmarks.subscriptions.subscribing import TOPIC, by_topic, create
from benchmarks.subscriptions.writer import PATIENTS, Load, write


@dataclass(frozen=True)
class Idle:
    sockets: int
    before_mb: float
    """Of all processes of the server, without its PostgreSQL."""
    after_mb: float
    heard: int
    """So many sockets were told of an Observation that was then written."""
    all_heard_s: float


def run(folder: Path, *, quick: bool) -> Idle:
    return _run(folder, 200 if quick else 5_000)


def _run(folder: Path, many: int) -> Idle:
    with wetread(folder / "sockets") as server:
        for request in Population(PATIENTS, 0).of_patients():
            server.ask(request.method, "/", request.body)
        form = by_topic("")
        form["channel"] = {**form["channel"], "type": "websocket"}
        del form["channel"]["endpoint"]
        subscription_id = create(server, form)  # active with the first socket
        before = server.memory_mb()[0]
        opened = [_bound(server, subscription_id) for _ in range(many)]
        time.sleep(5)
        after = server.memory_mb()[0]
        [written] = write(server.url, server.token, Load(0, 1), folder)
        heard = asyncio.run(_heard(opened))
        all_heard_s = (max(heard, default=written.answered_ns) - written.answered_ns) / 1e9
        return Idle(many, before, after, len(heard), all_heard_s)


def _bound(server: Contestant, subscription_id: str) -> socket.socket:
    """An open websocket that has heard the handshake."""
    where = urlsplit(server.url)
    opened = socket.create_connection((where.hostname, where.port), 10)
    key = base64.b64encode(os.urandom(16)).decode()
    opened.sendall(
        f"GET /fhir/websocket HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = _until(opened, b"\r\n\r\n")
    if b" 101 " not in answer.partition(b"\r\n")[0]:
        raise RuntimeError(f"no websocket was opened: {answer[:1000]!r}")
    frame = f"bind-with-token {_token(server, subscription_id)}".encode()
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(frame))
    opened.sendall(bytes([0x81, 0x80 | len(frame)]) + mask + masked)
    _until(opened, b'"handshake"')
    return opened


_tokens: dict[str, tuple[str, float]] = {}


def _token(server: Contestant, subscription_id: str) -> str:
    """One serves many sockets for some minutes."""
    token, at = _tokens.get(subscription_id, ("", 0.0))
    if time.monotonic() - at > 120 or not token:
        answer = json.loads(server.ask("GET", f"/Subscription/{subscription_id}/$get-ws-binding-token")[2])
        token = next(str(p["valueString"]) for p in answer["parameter"] if p["name"] == "token")
        _tokens[subscription_id] = token, time.monotonic()
    return token


def _until(opened: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received:
        some = opened.recv(65536)
        if not some:
            raise RuntimeError(f"the server closed a websocket after {received[-1000:]!r}")
        received += some
    return received


async def _heard(opened: list[socket.socket]) -> list[int]:
    """When each socket got something, CLOCK_MONOTONIC in ns; without those that got nothing within half a minute."""
    loop = asyncio.get_running_loop()

    async def one(each: socket.socket) -> int:
        each.setblocking(False)
        received = b""
        while TOPIC.encode() not in received:
            received += await loop.sock_recv(each, 65536)
        return time.monotonic_ns()

    done, missing = await asyncio.wait([asyncio.create_task(one(each)) for each in opened], timeout=30)
    for task in missing:
        task.cancel()
    return [task.result() for task in done]
