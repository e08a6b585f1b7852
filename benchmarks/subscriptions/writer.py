"""Writes Observations to a FHIR server at a steady rate, or as fast as it answers, in a process of its own.

    python -m benchmarks.subscriptions.writer HOST PORT TOKEN FIRST COUNT PER_S CONNECTIONS FILE

Each is a PUT of a new resource `write-<number>`, labelled as made by a model. FILE gets a row of three signed 64 bit
numbers for each: its number, and CLOCK_MONOTONIC in ns when it was sent and when the answer had come.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

from benchmarks.fhir.population import observation

PATIENTS = 100
"""Of `Population`; they have to be there."""
LABEL = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "AIAST"}


@dataclass(frozen=True)
class Written:
    number: int
    sent_ns: int
    answered_ns: int


@dataclass(frozen=True)
class Load:
    """`per_s` 0 is as fast as the server answers on that many connections."""

    first: int
    count: int
    per_s: float = 0
    connections: int = 8


def write(url: str, token: str, load: Load, folder: Path) -> list[Written]:
    """Writes them all; raises RuntimeError where the server refused one."""
    where, file = urlsplit(url), folder / f"written-{load.first}"
    arguments = [where.hostname, where.port, token, load.first, load.count, load.per_s, load.connections, file]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.subscriptions.writer", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the server did not take every write: {done.stderr[-2000:]}")
    rows = array("q", file.read_bytes())
    return [Written(*rows[at : at + 3]) for at in range(0, len(rows), 3)]


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection; one request at a time. `stays`: the server takes another after the last answer."""

    def __init__(self) -> None:
        self.stays = True
        self._parser = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[tuple[int, bytes]] | None = None
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self._done, self._body = asyncio.get_running_loop().create_future(), []
        self._transport.write(request)
        return await self._done

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error or ConnectionResetError("the server closed the connection"))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._done is not None
        self.stays = self._parser.should_keep_alive()
        self._done.set_result((self._parser.get_status_code(), b"".join(self._body)))


def _request(host: str, token: str, number: int) -> bytes:
    made = observation(number, number % PATIENTS, id=f"write-{number:08}") | {"meta": {"security": [LABEL]}}
    body = json.dumps(made).encode()
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"PUT /fhir/Observation/write-{number:08} HTTP/1.1\r\nHost: {host}\r\n{authorization}"
        f"Content-Type: application/fhir+json\r\nAccept: application/fhir+json\r\nPrefer: return=minimal\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _connected(host: str, port: int) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_connection(_Connection, host, port)
    return connection


async def _write(host: str, port: int, token: str, load: Load) -> array[int]:
    rows, numbers = array("q"), iter(range(load.first, load.first + load.count))
    started = time.monotonic()

    async def work() -> None:
        connection = await _connected(host, port)
        for number in numbers:
            if not connection.stays:  # Tomcat closes each after a hundred requests
                connection = await _connected(host, port)
            request = _request(f"{host}:{port}", token, number)
            if load.per_s:
                await asyncio.sleep(started + (number - load.first) / load.per_s - time.monotonic())
            sent = time.monotonic_ns()
            status, body = await connection.ask(request)
            if status not in (200, 201):
                raise RuntimeError(f"{status}: {body[:1000]!r}")
            rows.extend((number, sent, time.monotonic_ns()))

    async with asyncio.TaskGroup() as group:
        for _ in range(load.connections):
            group.create_task(work())
    return rows


def _main(host: str, port: str, token: str, first: str, count: str, per_s: str, connections: str, file: str) -> None:
    load = Load(int(first), int(count), float(per_s), int(connections))
    Path(file).write_bytes(uvloop.run(_write(host, int(port), token, load)).tobytes())


if __name__ == "__main__":
    _main(*sys.argv[1:])
