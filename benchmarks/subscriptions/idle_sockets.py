"""What idle websockets cost the process that holds them: memory, and processor time.

The faces run here as the http role runs them, behind all that stands in front; the clients are another process. Each
socket is bound to a subscription of its own.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb
from websockets.asyncio.client import ClientConnection, connect

from wetread import app as composition
from wetread.domain.reader import SYSTEM
from wetread.inbound.http import HttpListener
from wetread.record import resources
from wetread.record.subscriptions import rows
from wetread.settings import load
from wetread.store import embedded, migrate
from wetread.store.database import Database

_TOPIC = "https://wetread.org/fhir/SubscriptionTopic/task-status"
_CONTENT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content"
_AT_ONCE = 40
_SETTLE_S, _IDLE_S = 3.0, 20.0


@dataclass(frozen=True)
class Held:
    sockets: int
    before_mb: float
    """Resident memory of the process without any."""
    after_mb: float
    idle_percent: float
    """Of one core, while nothing happens."""
    bind_ms: float
    """For each socket, from its connection to its handshake, forty at a time."""


def run(folder: Path, *, quick: bool) -> Held:
    database = folder / "postgres"
    database.mkdir(parents=True)
    with embedded.owned(database) as url:
        migrate.upgrade(url)
        return asyncio.run(_run(url, folder, 500 if quick else 5_000))


async def _run(url: str, folder: Path, sockets: int) -> Held:
    limits = {"limits": {"anonymous_per_minute": 0}}
    given: dict[str, Any] = {"data_dir": folder, "http": limits, "subscriptions": {"sockets_per_client": sockets}}
    async with composition.house(load(None, given), url, ["http"]) as built:
        tokens = await _tokens(built.database, built.subscriptions.accept, sockets)
        faces, stop = composition.front(built), asyncio.Event()
        running = asyncio.create_task(faces.run(stop))
        listener = HttpListener(faces.app, "127.0.0.1", 0)
        await listener.start()
        gc.collect()
        before, began = _resident_mb(), time.monotonic()
        clients = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.subscriptions.idle_sockets", str(listener.port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert clients.stdin is not None
        assert clients.stdout is not None
        clients.stdin.write(json.dumps(tokens).encode() + b"\n")
        assert await clients.stdout.readline() == b"bound\n"
        bind_ms = 1000 * (time.monotonic() - began) / sockets
        await asyncio.sleep(_SETTLE_S)
        gc.collect()
        after, cpu_s, at = _resident_mb(), time.process_time(), time.monotonic()
        await asyncio.sleep(_IDLE_S)
        idle = 100 * (time.process_time() - cpu_s) / (time.monotonic() - at)
        clients.stdin.close()
        await clients.wait()
        stop.set()
        await listener.close()
        await running
    return Held(sockets, before, after, idle, bind_ms)


async def _tokens(database: Database, accept: Any, number: int) -> list[str]:
    """A token for each of so many subscriptions, which are copies of one."""
    form = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "benchmark",
        "criteria": _TOPIC,
        "channel": {
            "type": "websocket",
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": _CONTENT, "valueCode": "id-only"}]},
        },
    }
    tokens = [f"token-{n}" for n in range(number)]
    async with database.transaction() as conn:
        version, _ = await resources.create(conn, form, reader=SYSTEM)
        await accept(conn, SYSTEM, version.resource())
        await conn.execute("UPDATE subscription_state SET status = 'active', started_seq = 0")
        await conn.execute(
            """INSERT INTO subscription_state (id, status, topic, filters, channel, owner, started_seq)
               SELECT 's' || n, status, topic, filters, channel, owner, started_seq
               FROM subscription_state, generate_series(0, %s) AS n""",
            (number - 1,),
        )
        async with conn.cursor() as cursor:
            await cursor.executemany(
                """INSERT INTO subscription_binding (token_digest, subscription_ids, owner, expires_at)
                   VALUES (%s, %s, %s, now() + interval '1 hour')""",
                [
                    (hashlib.sha256(token.encode()).digest(), [f"s{n}"], Jsonb(rows.owner_row(SYSTEM)))
                    for n, token in enumerate(tokens)
                ],
            )
    return tokens


def _resident_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


async def _hold(port: int, tokens: Sequence[str]) -> None:
    """The clients: binds a socket with each token, says so, and holds them until its input ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    url = f"ws://127.0.0.1:{port}/fhir/websocket"

    async def bound(token: str) -> ClientConnection:
        socket = await connect(url, compression=None, ping_interval=None, open_timeout=60)
        await socket.send(f"bind-with-token {token}")
        assert json.loads(await socket.recv())["resourceType"] == "Bundle"
        return socket

    held: list[ClientConnection] = []
    for at in range(0, len(tokens), _AT_ONCE):
        held += await asyncio.gather(*(bound(token) for token in tokens[at : at + _AT_ONCE]))
    print("bound", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_hold(int(sys.argv[1]), json.loads(sys.stdin.readline())))
