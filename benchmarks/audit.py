"""What the audit record costs: FHIR reads and searches with it, and with the writing of it taken out."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import psycopg

from benchmarks.fhir.load import Measured, Replay, Request
from benchmarks.stand import free_port, machine, wait_for
from wetread import app as composition
from wetread.settings import load
from wetread.store import embedded, migrate

_CONNECTIONS = 16
_GOAL = 0.30


@dataclass(frozen=True)
class Round:
    measured: Measured
    cpu_s: float
    """Of the server, the sequencer and PostgreSQL together."""


def run(folder: Path, *, quick: bool = False) -> str:
    patients, seconds, rounds = (50, 2, 1) if quick else (500, 5, 5)
    made: dict[tuple[str, str], list[Round]] = {}
    with embedded.owned(folder / "data") as url, ExitStack() as servers:
        migrate.upgrade(url)
        token = _token(folder / "data")
        ports = {mode: servers.enter_context(_server(url, folder / "data", mode)) for mode in ("audited", "unaudited")}
        servers.enter_context(_process(url, 0, folder / "data", "sequencer"))
        _fill(ports["audited"], token, patients)
        loads = _loads(folder, patients)
        for number in range(-1, rounds):  # the first warms up
            for name, replay in loads.items():
                modes = ("audited", "unaudited") if number % 2 else ("unaudited", "audited")
                for mode in modes:
                    before = _cpu_s(folder / "data")
                    measured = replay.run(
                        f"http://127.0.0.1:{ports[mode]}", token, connections=_CONNECTIONS, seconds=seconds
                    )
                    if mode == "audited":
                        _settle(url)
                    if number >= 0:
                        made.setdefault((name, mode), []).append(Round(measured, _cpu_s(folder / "data") - before))
    return _table(made, list(loads), patients, seconds, rounds)


def _table(made: dict[tuple[str, str], list[Round]], names: list[str], patients: int, seconds: int, rounds: int) -> str:
    lines = [
        "# The cost of the audit record",
        "",
        machine(),
        "",
        "| interaction | per s with | without | throughput it costs | CPU s per 1,000 with | without | goal: 30 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        with_it, without = [made[name, mode] for mode in ("audited", "unaudited")]
        per_s = [statistics.median(one.measured.per_s for one in rows) for rows in (with_it, without)]
        cpu = [
            statistics.median(1000 * one.cpu_s / one.measured.requests for one in rows) for rows in (with_it, without)
        ]
        costs = [1 - a.measured.per_s / b.measured.per_s for a, b in zip(with_it, without, strict=True)]
        cost = statistics.median(costs)
        lines.append(
            f"| {name} | {per_s[0]:.0f} | {per_s[1]:.0f} | {cost:.0%} ({min(costs):.0%} to {max(costs):.0%}) | "
            f"{cpu[0]:.2f} | {cpu[1]:.2f} | {'met' if cost <= _GOAL else 'missed'} |"
        )
    lines += [
        "",
        f"{patients} patients, {_CONNECTIONS} connections, one server process, the sequencer apart; {rounds} rounds",
        f"of {seconds} s, with and without in turn. Each row is a median; in brackets the least and the most of the",
        "rounds. In the server without, only what adds the row of an interaction is taken out; who asks is still",
        "checked. A row is committed (fsync) before its answer leaves. Processor time is that of the servers, of the",
        "sequencer, which computes the hash chain, and of PostgreSQL, until all is chained.",
        "",
    ]
    return "\n".join(lines)


def _token(data: Path) -> str:
    issuer = composition.tokens(load(None, {"data_dir": data}))
    return issuer.issue("operator:benchmark", "system/*.cruds", ["administrator"], timedelta(hours=2)).token


@contextmanager
def _server(url: str, data: Path, mode: str) -> Iterator[int]:
    port = free_port()
    with _process(url, port, data, mode):
        wait_for(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).status == 200)
        yield port


@contextmanager
def _process(url: str, port: int, data: Path, mode: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.audit_server", url, str(port), str(data), mode])
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def _fill(port: int, token: str, patients: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/fhir", headers={"Authorization": f"Bearer {token}"}) as client:
        for start in range(0, patients, 50):
            entries = []
            for number in range(start, min(start + 50, patients)):
                person = {"resourceType": "Patient", "id": f"p{number}", "name": [{"family": f"Name{number}"}]}
                seen = {
                    "resourceType": "Observation",
                    "id": f"o{number}",
                    "status": "final",
                    "code": {"coding": [{"system": "http://loinc.org", "code": "18748-4"}]},
                    "subject": {"reference": f"Patient/p{number}"},
                    "valueString": "text " * 40,
                }
                for resource in (person, seen):
                    url = f"{resource['resourceType']}/{resource['id']}"
                    entries.append({"resource": resource, "request": {"method": "PUT", "url": url}})
            bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
            answer = client.post(
                "", content=json.dumps(bundle), headers={"Content-Type": "application/fhir+json"}, timeout=60
            )
            answer.raise_for_status()


def _loads(folder: Path, patients: int) -> dict[str, Replay]:
    many = range(200_000)
    return {
        "read": Replay.of(
            (Request("GET", f"/Observation/o{n * 7 % patients}") for n in many), "/fhir", folder / "read.tsv"
        ),
        "search by patient": Replay.of(
            (Request("GET", f"/Observation?patient=Patient/p{n * 7 % patients}") for n in many),
            "/fhir",
            folder / "search.tsv",
        ),
    }


def _settle(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            row = conn.execute("SELECT count(*) FROM audit_unchained").fetchone()
            if row and not row[0]:
                return
            time.sleep(0.1)


def _cpu_s(data: Path) -> float:
    pid = int((data / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    postmaster = psutil.Process(pid)
    processes = [postmaster, *postmaster.children(recursive=True), *psutil.Process().children()]
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += (
            times.user + times.system + (times.children_user + times.children_system if process == postmaster else 0)
        )
    return total
