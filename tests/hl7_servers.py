"""HL7 servers that are not ours (`conformance/peers`), running, and what they hear."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from conformance import supply
from tests.ports import free_port

SERVERS = ("node-hl7-server", "@medplum/hl7", "simple-hl7")


class Hearing:
    """A foreign server and what it has read so far."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            line = await self._process.stdout.readline()
        heard: dict[str, Any] = json.loads(line)
        return heard


@asynccontextmanager
async def hearing(peers: Path, server: str, code: str = "AA", *, port: int = 0) -> AsyncIterator[Hearing]:
    """Answers with `code`. `port` 0: any that is free."""
    if not port:
        port = free_port()
    process = await asyncio.create_subprocess_exec(
        supply.program("node", "nodejs"), "receive.js", server, str(port), code,
        cwd=peers, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        heard = Hearing(process, port)
        assert await heard.next() == {"listening": port}
        yield heard
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        await process.wait()
