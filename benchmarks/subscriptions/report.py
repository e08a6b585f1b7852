"""The figures as a page."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.stand import machine
from benchmarks.subscriptions.compare import Plan, Row
from benchmarks.subscriptions.idle_sockets import Held
from benchmarks.subscriptions.matching import Matched

_HOW = """\
**Matching** runs the matcher's own transaction, a tenth of a second of 200 writes/s at a time, and reads the
processor time of its process and of its PostgreSQL backend; beside it that of the writes themselves, in the same run.
Half of the filters name a patient, a fifth each a code and a device, a tenth a patient and a code; a write is of a
patient, a code and a device that somebody asked for.

**Delivery**: Observations are written by PUT, each of which every endpoint hears of; the sink is a process of its own
on httptools and uvloop, on the same machine. Notifications/s count from the first write to the last arrival, so the
writes and their cost are in them. Latency is from the answer to the write, which comes a little after its commit,
until the request is whole at the sink. Processor time is that of the server's whole process tree with its PostgreSQL,
of writes and notifications together. Wetread by topic sends numbered Bundles with the whole resource, by R4's
criteria the resource itself, as HAPI does.

What is not alike: Wetread checks tokens, validates what is written, audits each request and each disclosure, and
keeps each event with its number until it is delivered; HAPI keeps a queue in memory, and what is in it when it ends
is lost.
"""


def page(matched: Sequence[Matched], rows: Sequence[Row], backlog: Sequence[Row], idle: Held, plan: Plan) -> str:
    lines = ["# Subscriptions", "", machine(), "", "## Matching", ""]
    lines += [
        "| subscriptions | matches per write | matcher, CPU µs per write | its PostgreSQL | the write | of the write |",
        "|---|---|---|---|---|---|",
    ]
    for one in matched:
        both = one.server_us + one.database_us
        lines.append(
            f"| {one.case.subscriptions:,} | {one.matches / one.writes:.1f} | {one.server_us:.0f} | "
            f"{one.database_us:.0f} | {one.write_us:.0f} | {both / one.write_us:.0%} |"
        )
    lines += ["", "## Delivery", "", *_table(rows), "", "## Another's backlog", "", *_table(backlog)]
    lines += [
        "",
        f"The p99 of the live subscriber with {plan.backlog:,} undelivered events of another is "
        f"{backlog[1].made.latency.p99_ms / backlog[0].made.latency.p99_ms:.2f} times that without.",
        "",
        "## Idle websockets",
        "",
        f"{idle.sockets:,} sockets, each bound to a subscription of its own: the process that holds them grows by "
        f"{idle.after_mb - idle.before_mb:.0f} MB, from {idle.before_mb:.0f} to {idle.after_mb:.0f} MB. While nothing "
        f"happens it takes {idle.idle_percent:.1f} % of a core. To open and bind one takes {idle.bind_ms:.1f} ms, "
        "forty at a time.",
        "",
        _HOW,
    ]
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| server | what | notifications | per s | p50 ms | p99 ms | lost | doubled | CPU s per 1,000 | sink's CPU |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        made = row.made
        lines.append(
            f"| {row.server} | {row.what} | {made.notifications:,} | {made.per_s:.0f} | {made.latency.p50_ms:.0f} | "
            f"{made.latency.p99_ms:.0f} | {made.lost} | {made.doubled} | {made.cpu_s_per_1000:.2f} | "
            f"{made.sink_cpu_share:.0%} |"
        )
    return lines
