"""The hospital around the demonstration: an archive, an alert receiver and a subscriber, all real, all on loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from pynetdicom import AE, AllStoragePresentationContexts, evt

from wetread.domain.keys import control_id
from wetread.inbound.mllp import MllpListener, Received
from wetread.wire import hl7, hl7_ack


@dataclass
class Heard:
    """What has reached the peers so far."""

    objects: dict[str, bytes] = field(default_factory=dict)
    """Part 10 files by SOP Instance UID."""
    alerts: list[bytes] = field(default_factory=list)
    notifications: list[bytes] = field(default_factory=list)


@contextmanager
def archive(heard: Heard) -> Iterator[int]:
    """A Storage SCP; gives its port."""

    def keep(event: Any) -> int:
        heard.objects[str(event.request.AffectedSOPInstanceUID)] = event.encoded_dataset()
        return 0x0000

    entity = AE("ARCHIVE")
    entity.supported_contexts = AllStoragePresentationContexts
    server = cast(Any, entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)]))
    try:
        yield int(server.socket.getsockname()[1])
    finally:
        server.shutdown()


async def alert_receiver(heard: Heard) -> MllpListener:
    """An MLLP listener that keeps and acknowledges every alert."""

    async def receive(received: Received) -> bytes | None:
        if received.raw is None:
            return None
        heard.alerts.append(received.raw)
        message = hl7.parse(received.raw)
        number = control_id("demo", message.control_id)
        verdict = hl7_ack.Verdict("AA", ())
        return hl7_ack.acknowledge(received.raw, message, verdict, control_id=number, at=datetime.now(UTC))

    listener = MllpListener(
        "127.0.0.1", 0, receive, limit_bytes=16 * 1024 * 1024, idle_timeout_s=600, max_connections=8
    )
    await listener.start()
    return listener


@contextmanager
def subscriber(heard: Heard) -> Iterator[int]:
    """An HTTP endpoint for rest-hook notifications; gives its port."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:
                return  # the sender died halfway; what it did not send was not heard
            heard.notifications.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """The demonstration prints what matters itself."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def save(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


async def until(what: str, ready: Any, timeout_s: float, say: Any) -> None:
    """Waits, saying every ten seconds for what. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    started = told = loop.time()
    while not ready():
        now = loop.time()
        if now - started > timeout_s:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        if now - told >= 10:
            told = now
            say(f"   ... still waiting for {what} ({now - started:.0f} s)")
        await asyncio.sleep(0.1)
