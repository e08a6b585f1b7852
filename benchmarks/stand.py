"""What the benchmarks stand on: a server, its peers, and how time and processor are read."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

DEMO = Path(__file__).parents[1] / "demo"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Running:
    """A server under test: its ports, and the processes whose processor time counts as its own."""

    ports: dict[str, int]
    pid: int
    data_dir: Path

    def cpu_s(self) -> float:
        """User and system time of the whole process tree, the embedded PostgreSQL with it."""
        return sum(_cpu_s(process) for process in self._processes())

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.pid)
        found = [parent, *parent.children(recursive=True)]
        pid_file = self.data_dir / "postgres" / "postmaster.pid"
        if pid_file.exists():
            postmaster = psutil.Process(int(pid_file.read_text().splitlines()[0]))
            found += [postmaster, *postmaster.children(recursive=True)]
        return found


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


@contextmanager
def wetread(
    folder: Path, configuration: str = "", *, quiet_s: float = 5.0, overlay: Path | None = None
) -> Iterator[Running]:
    """The whole server, as a site starts it."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = {name: free_port() for name in ("http", "mllp", "dicom")}
    config = folder / "wetread.toml"
    sections = "".join(f"[{name}]\nport = {port}\n" for name, port in ports.items())
    own = f'overlay_dir = "{overlay}"\n' if overlay else ""
    config.write_text(f'profile = "demo"\n{own}{sections}[study]\nquiet_s = {quiet_s}\n{configuration}')
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "wetread", "serve", "--config", str(config), "--data-dir", str(folder / "data")],
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: urllib.request.urlopen(f"http://127.0.0.1:{ports['http']}/readyz", timeout=2).status == 200)
        wait_for(lambda: socket.create_connection(("127.0.0.1", ports["dicom"]), 1).close() is None)
        yield Running(ports, process.pid, folder / "data")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextmanager
def peer(command: Sequence[str], port: int, folder: Path) -> Iterator[Running]:
    """A peer program that listens on `port`."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    try:
        wait_for(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None)
        yield Running({"dicom": port}, process.pid, folder)
    finally:
        process.kill()
        process.wait(10)


def wait_for(ready: object, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if ready():  # type: ignore[operator]
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("a program under test did not come up")
        time.sleep(0.05)


def machine() -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {system}, load {load}"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]], notes: str) -> str:
    lines = [f"# {title}", "", f"{machine()}, {time.strftime('%Y-%m-%d')}", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join([*lines, "", notes, ""])
