"""Delivery: how many notifications a second arrive, how soon after their write, and at what cost of processor."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fhir.population import Population
from benchmarks.fhir.servers import Contestant
from benchmarks.subscriptions.sink import Arrival, Sink, endpoint_number
from benchmarks.subscriptions.writer import PATIENTS, Load, Written, write

_SILENT_S = 20.0
"""So long without a notification, and none is expected any more."""


@dataclass(frozen=True)
class Latency:
    """In ms, from when the answer to the write had come, which is a little after its commit."""

    p50_ms: float
    p99_ms: float
    most_ms: float


@dataclass(frozen=True)
class Delivered:
    notifications: int
    """That were to come."""
    per_s: float
    """From the first write to the last arrival."""
    lost: int
    doubled: int
    latency: Latency
    cpu_s_per_1000: float
    """Of the server with its PostgreSQL, for the writes and their notifications."""
    sink_cpu_share: float
    """Of all processor time in that span, what the sink took."""


class Bench:
    """One server with its sink. Numbers of writes are never used twice."""

    def __init__(self, server: Contestant, sink: Sink, folder: Path) -> None:
        self.server = server
        self._sink = sink
        self._folder = folder
        self._next = 0

    def fill(self) -> None:
        """The patients that the writes refer to."""
        for request in Population(PATIENTS, 0).of_patients():
            status, _, content = self.server.ask(request.method, request.path or "/", request.body)
            if status not in (200, 201):
                raise RuntimeError(f"{self.server.name} took no patients: {status} {content[:1000]!r}")

    def delivered(self, writes: int, endpoints: Sequence[str], *, per_s: float = 0, connections: int = 8) -> Delivered:
        """Writes so many Observations, each of which every one of the endpoints is to hear of, and waits for all."""
        self._sink.taken()
        load = Load(self._next, writes, per_s, connections)
        self._next += writes
        before, sink_before = self.server.settled(5.0), self._sink.cpu_s()
        written = write(self.server.url, self.server.token, load, self._folder)
        expected = writes * len(endpoints)
        self._wait_for(expected, endpoints)
        sink_cpu_s = self._sink.cpu_s() - sink_before
        cpu_s = self.server.settled(5.0).cpu_s - before.cpu_s
        return _judged(written, self._sink.taken(), endpoints, cpu_s, sink_cpu_s)

    def _wait_for(self, expected: int, endpoints: Sequence[str]) -> None:
        come, since = 0, time.monotonic()
        while come < expected and time.monotonic() - since < _SILENT_S:
            time.sleep(0.1)
            now = self._sink.count(endpoints)
            if now > come:
                come, since = now, time.monotonic()


def latency(written: Mapping[int, Written], arrivals: Sequence[Arrival]) -> Latency:
    """Of the first time that each endpoint heard of each write."""
    first: dict[tuple[int, int], int] = {}
    for arrival in arrivals:
        first.setdefault((arrival.endpoint, arrival.write), arrival.at_ns)
    taken = sorted((at - written[number].answered_ns) / 1e6 for (_, number), at in first.items())
    if not taken:
        raise RuntimeError("no notification came")
    return Latency(taken[len(taken) // 2], taken[len(taken) * 99 // 100], taken[-1])


def _judged(
    written: Sequence[Written], arrivals: Sequence[Arrival], endpoints: Sequence[str], cpu_s: float, sink_cpu_s: float
) -> Delivered:
    numbers = {one.number: one for one in written}
    wanted = {endpoint_number(path) for path in endpoints}
    ours = [one for one in arrivals if one.endpoint in wanted and one.write in numbers]
    times = Counter((one.endpoint, one.write) for one in ours)
    expected = len(numbers) * len(wanted)
    span_s = (max(one.at_ns for one in ours) - min(one.sent_ns for one in written)) / 1e9 if ours else float("inf")
    return Delivered(
        expected,
        len(times) / span_s,
        expected - len(times),
        sum(times.values()) - len(times),
        latency(numbers, ours),
        cpu_s * 1000 / expected,
        sink_cpu_s / (sink_cpu_s + cpu_s),
    )
