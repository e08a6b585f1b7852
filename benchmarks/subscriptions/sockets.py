"""Idle websockets: the memory that each takes of a server, all bound to one subscription; whether all hear an event."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.fhir.population import Population
from benchmarks.fhir.servers import Contestant, wetread
from benchmarks.subscriptions.subscribing import TOPIC, by_topic, create
from benchmarks.subscriptions.writer import PATIENTS, Load, write

_HEARD_WITHIN_S = 30


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
        return asyncio.run(_measured(server, subscription_id, many, folder))


async def _measured(server: Contestant, subscription_id: str, many: int, folder: Path) -> Idle:
    before = server.memory_mb()[0]
    opened = [await _bound(server, subscription_id) for _ in range(many)]
    await asyncio.sleep(5)
    after = server.memory_mb()[0]
    hearing = [asyncio.create_task(_heard_at(each)) for each in opened]
    [written] = await asyncio.to_thread(write, server.url, server.token, Load(0, 1), folder)
    done, missing = await asyncio.wait(hearing, timeout=_HEARD_WITHIN_S)
    for task in missing:
        task.cancel()
    last_ns = max((task.result() for task in done), default=written.answered_ns)
    return Idle(many, before, after, len(done), (last_ns - written.answered_ns) / 1e9)


async def _bound(server: Contestant, subscription_id: str) -> ClientConnection:
    """An open websocket that has heard the handshake; it answers pings, by which the server knows what has arrived."""
    opened = await connect(f"ws{server.url.removeprefix('http')}/fhir/websocket", compression=None, ping_interval=None)
    await opened.send(f"bind-with-token {_token(server, subscription_id)}")
    if "handshake" not in str(await asyncio.wait_for(opened.recv(), 10)):
        raise RuntimeError("a websocket got something else than a handshake")
    return opened


async def _heard_at(opened: ClientConnection) -> int:
    """CLOCK_MONOTONIC in ns."""
    while TOPIC not in str(await opened.recv()):
        pass
    return time.monotonic_ns()


_tokens: dict[str, tuple[str, float]] = {}


def _token(server: Contestant, subscription_id: str) -> str:
    """One serves many sockets for some minutes."""
    token, at = _tokens.get(subscription_id, ("", 0.0))
    if time.monotonic() - at > 120 or not token:
        answer = json.loads(server.ask("GET", f"/Subscription/{subscription_id}/$get-ws-binding-token")[2])
        token = next(str(p["valueString"]) for p in answer["parameter"] if p["name"] == "token")
        _tokens[subscription_id] = token, time.monotonic()
    return token
