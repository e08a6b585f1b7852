"""The tables of docs/benchmarks/."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.stand import machine

_GOALS = {"read": 2.0, "search by patient and code": 2.0, "search with chain and _include": 2.0, "update": 1.5}
_GOALS |= {"create": 1.5, "transaction of 100": 1.5, "$export": 5.0}
"""What Wetread wants to do for a processor second, in multiples of HAPI."""


@dataclass(frozen=True)
class Row:
    server: str
    interaction: str
    per_s: float
    """Operations a second; for the export, resources."""
    p50_ms: float
    p95_ms: float
    own_cpu_s: float
    """Processor seconds of the server's processes for 1,000 operations; for the export, for 1,000 resources."""
    database_cpu_s: float

    @property
    def cpu_s(self) -> float:
        return self.own_cpu_s + self.database_cpu_s


@dataclass(frozen=True)
class Result:
    name: str
    rows: Sequence[Row]
    idle_cores: float
    idle_memory_mb: tuple[float, float]
    memory_mb: tuple[float, float]
    """Of the server, of its PostgreSQL."""
    filled_per_s: float


_HEAD = (
    "interaction",
    "server",
    "per s",
    "p50 ms",
    "p95 ms",
    "CPU s per 1,000",
    "of it PostgreSQL",
    "HAPI's CPU / Wetread's",
    "goal",
)


def table(own: Result, peer: Result, validating: Sequence[Row], note: str) -> str:
    lines = [*_head("FHIR REST, beside HAPI FHIR JPA"), *_markdown(_HEAD, _rows(own, peer, validating)), ""]
    memory = [
        (
            one.name,
            f"{one.idle_memory_mb[0]:.0f}",
            f"{one.memory_mb[0]:.0f}",
            f"{one.memory_mb[1]:.0f}",
            f"{one.idle_cores * 100:.1f} %",
            f"{one.filled_per_s:.0f}",
        )
        for one in (own, peer)
    ]
    head = ("server", "MB when idle", "MB at the end", "MB PostgreSQL", "of a core when idle", "resources/s filled")
    return "\n".join([*lines, *_markdown(head, memory), "", note + _METHOD, ""])


_METHOD = """

Both servers run on a PostgreSQL of the same binaries and settings (fsync and synchronous_commit on, 128 MB of shared
buffers), over loopback, one server at a time; wrk replays the same requests. Before measuring, 40 searches are asked of
both and must find the same resources. Processor time is that of the server's whole process tree, from before the first
request until what the requests left behind is done; the ratio counts PostgreSQL's share too. The export is timed from
kick-off to the last byte of the files.

What is not alike: Wetread checks the bearer token, writes an AuditEvent for each interaction, reads included, and
validates each resource fully before it stores it. HAPI does none of this as it comes; the row "HAPI, validating" shows
creation with its request validation on. Wetread runs all its roles (DICOM, HL7, inference), which is in its memory
and its idle time. HAPI is its JPA modules 8.8.0 with the settings of its starter, but that its batch jobs take a step
each second, not each minute, which would be most of its export's time.
"""


def _rows(own: Result, peer: Result, validating: Sequence[Row]) -> Iterator[Sequence[str]]:
    for mine, theirs in zip(own.rows, peer.rows, strict=True):
        ratio, goal = theirs.cpu_s / mine.cpu_s, _GOALS[mine.interaction]
        met = "met" if ratio >= goal else "missed"
        yield *_cells(mine), f"{ratio:.1f}", f"{goal:g}: {met}"
        yield *_cells(theirs), "", ""
        for row in validating:
            if row.interaction == mine.interaction:
                yield *_cells(row), f"{row.cpu_s / mine.cpu_s:.1f}", ""


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.interaction,
        row.server,
        f"{row.per_s:.0f}" if row.per_s >= 10 else f"{row.per_s:.1f}",
        f"{row.p50_ms:.1f}",
        f"{row.p95_ms:.1f}",
        f"{row.cpu_s:.2f}",
        f"{row.database_cpu_s:.2f}",
    )


def export_table(count: int, rows: Sequence[tuple[Row, float, tuple[float, float]]]) -> str:
    head = ("server", "s", "resources/s", "CPU s per 1,000", "of it PostgreSQL", "MB after", "resources/s filled")
    cells = [
        (
            row.server,
            f"{row.p50_ms / 1000:.1f}",
            f"{row.per_s:.0f}",
            f"{row.cpu_s:.2f}",
            f"{row.database_cpu_s:.2f}",
            f"{memory[0]:.0f}",
            f"{filled:.0f}",
        )
        for row, filled, memory in rows
    ]
    note = "From kick-off to the last byte of the files. The rest is as in [FHIR REST](fhir-latest.md)."
    return "\n".join([*_head(f"Bulk export of {count:,} resources"), *_markdown(head, cells), "", note, ""])


def _head(title: str) -> list[str]:
    return [f"# {title}", "", f"{machine()}, {time.strftime('%Y-%m-%d')}", ""]


def _markdown(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
