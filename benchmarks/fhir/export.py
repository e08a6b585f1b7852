"""Bulk export, from kick-off to the last byte of the last file (Bulk Data Access)."""

from __future__ import annotations

import base64
import json
import time

from benchmarks.fhir.servers import Contestant

_POLL_S = 1.0
"""At most: HAPI asks its clients to come back after two minutes."""


def exported(server: Contestant, types: str, timeout_s: float = 900.0) -> tuple[int, float]:
    """Count of the resources that came, and seconds. Raises RuntimeError where the server fails."""
    started = time.monotonic()
    status, headers, content = server.ask("GET", f"/$export?_type={types}", Prefer="respond-async")
    if status != 202:
        raise RuntimeError(f"{server.name}: $export was answered {status}: {content[:500]!r}")
    place = headers["Content-Location"]
    while status in (202, 429):
        if time.monotonic() - started > timeout_s:
            raise RuntimeError(f"{server.name}: the export took longer than {timeout_s:.0f} s")
        time.sleep(min(float(headers.get("Retry-After", "1")), _POLL_S))
        status, headers, content = server.ask("GET", place)
    if status != 200:
        raise RuntimeError(f"{server.name}: the export ended in {status}: {content[:500]!r}")
    count = 0
    for output in json.loads(content)["output"]:
        status, _, content = server.ask("GET", output["url"], Accept="application/fhir+ndjson")
        if status != 200:
            raise RuntimeError(f"{server.name}: a file of the export was answered {status}: {content[:500]!r}")
        count += _lines(content)
    return count, time.monotonic() - started


def _lines(content: bytes) -> int:
    """Of NDJSON, or of a Binary that holds it: HAPI answers so where it takes the caller for a FHIR client."""
    if content[:200].replace(b" ", b"").replace(b"\n", b"").startswith(b'{"resourceType":"Binary"'):
        content = base64.b64decode(json.loads(content)["data"])
    return sum(1 for line in content.split(b"\n") if line.strip())
