"""The load: requests made beforehand, replayed by wrk, whose own processor time is a small part of any server's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_SCRIPT = Path(__file__).with_name("replay.lua")


class Request(NamedTuple):
    method: str
    path: str
    """Below the FHIR base, with the query."""
    body: str = ""
    """JSON without line breaks and tabs."""


@dataclass(frozen=True)
class Measured:
    requests: int
    duration_s: float
    p50_ms: float
    p95_ms: float
    failed: int

    @property
    def per_s(self) -> float:
        return self.requests / self.duration_s


@dataclass
class Replay:
    """The requests of one interaction. Each run goes on where the one before ended."""

    file: Path
    at: int = 0

    @classmethod
    def of(cls, requests: Iterable[Request], base_path: str, file: Path) -> Replay:
        with file.open("w") as lines:
            lines.writelines(f"{one.method}\t{base_path}{one.path}\t{one.body}\n" for one in requests)
        return cls(file)

    def run(self, url: str, token: str, *, connections: int, seconds: int) -> Measured:
        """Raises RuntimeError where the server failed a request."""
        told = {"WETREAD_BENCH_REQUESTS": str(self.file), "WETREAD_BENCH_START": str(self.at)}
        if token:
            told["WETREAD_BENCH_TOKEN"] = token
        done = subprocess.run(
            [_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(_SCRIPT), url],
            env={**os.environ, **told},
            capture_output=True,
            text=True,
            check=True,
        )
        said = next(line for line in done.stdout.splitlines() if line.startswith("MEASURED "))
        measured = Measured(**json.loads(said.removeprefix("MEASURED ")))
        if measured.failed:
            raise RuntimeError(
                f"{self.file.stem}: {measured.failed} of {measured.requests} failed: {done.stderr[:1500]}"
            )
        self.at += measured.requests + connections
        return measured


def _wrk() -> str:
    found = shutil.which("wrk")
    if found is None:
        raise RuntimeError("wrk is missing: `apt install wrk` (make bench does so as root)")
    return found
