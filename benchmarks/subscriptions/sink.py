"""A receiver that costs little: takes notifications over HTTP, and remembers which write each told of and when it came.

    python -m benchmarks.subscriptions.sink PORT

The path says how it answers: `/fast/NAME` at once, `/slow/MS/NAME` after a pause, `/down/NAME` with 503. `GET /count`
tells how many have come for each endpoint, `GET /taken` gives them and forgets them: a row of three signed 64 bit
numbers for each write that a request told of, the crc32 of the endpoint's path, the number of the write, and
CLOCK_MONOTONIC in ns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.request
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import httptools
import psutil
import uvloop

from benchmarks.stand import free_port, wait_for

_WRITES = re.compile(rb"write-(\d{8})")
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_DOWN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class Arrival:
    endpoint: int
    """`endpoint_number` of its path."""
    write: int
    at_ns: int


@dataclass(frozen=True)
class Sink:
    port: int
    pid: int

    def endpoint(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def count(self, paths: Iterable[str]) -> int:
        """How many came for these endpoints since they were taken."""
        counts = json.loads(self._get("/count"))
        return sum(counts.get(str(endpoint_number(path)), 0) for path in paths)

    def taken(self) -> list[Arrival]:
        """What came since this was last asked, in the order in which it came."""
        rows = array("q", self._get("/taken"))
        return [Arrival(*rows[at : at + 3]) for at in range(0, len(rows), 3)]

    def cpu_s(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.endpoint(path), timeout=60) as answer:
            content: bytes = answer.read()
        return content


def endpoint_number(path: str) -> int:
    return zlib.crc32(path.encode())


@contextlib.contextmanager
def sink() -> Iterator[Sink]:
    """A running one, in a process of its own."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.subscriptions.sink", str(port)])
    running = Sink(port, process.pid)
    try:
        wait_for(lambda: running.taken() == [])
        yield running
    finally:
        process.terminate()
        process.wait(10)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive; the server under test sends one request at a time on a connection."""

    def __init__(self, rows: array[int], counts: Counter[int]) -> None:
        self._rows = rows
        self._counts = counts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = b""
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        at = time.monotonic_ns()
        if self._url == b"/count":
            self._answer(json.dumps(self._counts).encode())
        elif self._url == b"/taken":
            self._answer(self._rows.tobytes())
            del self._rows[:]
            self._counts.clear()
        elif self._url.startswith(b"/down/"):
            self._transport.write(_DOWN)
        else:
            self._take(at)

    def _take(self, at: int) -> None:
        # A plain rest-hook of R4 puts the resource's type and id behind the endpoint, with the resource as content.
        endpoint = self._url.partition(b"/Observation/")[0]
        number = zlib.crc32(endpoint)
        written = {int(number) for number in _WRITES.findall(self._url + b" " + b"".join(self._body))}
        for write in sorted(written):
            self._rows.extend((number, write, at))
        self._counts[number] += len(written)
        _, how, rest = endpoint.split(b"/", 2)
        if how == b"slow":
            pause_s = int(rest.partition(b"/")[0]) / 1000
            asyncio.get_running_loop().call_later(pause_s, self._transport.write, _OK)
        else:
            self._transport.write(_OK)

    def _answer(self, content: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))


async def _serve(port: int) -> None:
    rows, counts = array("q"), Counter[int]()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(rows, counts), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
