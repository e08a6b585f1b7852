"""The servers under test, each on a PostgreSQL of its own, and what they use of the machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import psutil

from benchmarks.fhir.postgresql import Postgresql, postgresql
from benchmarks.stand import free_port, wait_for

_HAPI = Path(__file__).with_name("hapi")
BUILD = Path(__file__).parents[2] / "build" / "benchmarks" / "hapi"


@dataclass(frozen=True)
class Usage:
    """Processor seconds since the start, of the server's own processes and of its PostgreSQL's; and when that was."""

    server_cpu_s: float
    database_cpu_s: float
    at_s: float

    @property
    def cpu_s(self) -> float:
        return self.server_cpu_s + self.database_cpu_s


@dataclass(frozen=True)
class Contestant:
    name: str
    url: str
    """Of the host; the FHIR base is /fhir below it."""
    token: str
    pid: int
    database: Postgresql

    def usage(self) -> Usage:
        own, database = (sum(map(_cpu_s, _tree(pid))) for pid in (self.pid, self.database.postmaster))
        return Usage(own, database, time.monotonic())

    def memory_mb(self) -> tuple[float, float]:
        """Of the server and of its PostgreSQL, as proportional set size: pages that processes share count once."""
        own, database = (sum(map(_memory_mb, _tree(pid))) for pid in (self.pid, self.database.postmaster))
        return own, database

    def settled(self, timeout_s: float = 20.0) -> Usage:
        """When what the requests left behind is done: less than a tenth of a core in use for half a second."""
        deadline = time.monotonic() + timeout_s
        before = self.usage()
        while time.monotonic() < deadline:
            time.sleep(0.5)
            now = self.usage()
            if now.cpu_s - before.cpu_s < 0.1 * (now.at_s - before.at_s):
                break
            before = now
        return self.usage()

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, Message, bytes]:
        """Status, headers, content. `path` is below the FHIR base, or a whole URL."""
        url = path if path.startswith("http") else f"{self.url}/fhir{path}"
        told = {"Accept": "application/fhir+json", "Content-Type": "application/fhir+json", **headers}
        if self.token:
            told["Authorization"] = f"Bearer {self.token}"
        asked = urllib.request.Request(url, method=method, data=body.encode() or None, headers=told)
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()


def _tree(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _memory_mb(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        return float(process.memory_full_info().pss) / 1e6
    return 0.0


@contextmanager
def wetread(folder: Path) -> Iterator[Contestant]:
    """All roles of the server, as a site starts it, on that PostgreSQL."""
    folder.mkdir(parents=True)
    ports = {name: free_port() for name in ("http", "mllp", "dicom")}
    config, data_dir = folder / "wetread.toml", folder / "data"
    tables = "".join(f"[{name}]\nport = {port}\n" for name, port in ports.items())
    config.write_text(f'profile = "demo"\n{tables}[http.limits]\nclient_per_minute = 0\n')
    where = ("--config", str(config), "--data-dir", str(data_dir))
    with postgresql() as database, (folder / "server.log").open("w") as log:
        environment = {**os.environ, "WETREAD_DATABASE_URL": database.url}
        command = [sys.executable, "-m", "wetread", "serve", *where]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{ports['http']}"
        try:
            wait_for(lambda: urllib.request.urlopen(f"{url}/readyz", timeout=2).status == 200)
            issue = [sys.executable, "-m", "wetread", "token", "--scope", "system/*.cruds", "--expires", "12h", *where]
            issued = subprocess.run(issue, env=environment, capture_output=True, text=True, check=False)
            if issued.returncode:
                raise RuntimeError(f"`wetread token` failed: {issued.stderr[-2000:]}")
            yield Contestant("Wetread", url, issued.stdout.strip(), process.pid, database)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@contextmanager
def hapi(folder: Path, *, validate: bool, subscriptions: bool = False) -> Iterator[Contestant]:
    """HAPI's JPA server on that PostgreSQL; with `validate` it checks what it is sent, with `subscriptions` it has
    rest-hooks. Both are off as it comes."""
    folder.mkdir(parents=True)
    classes = _hapi_built()
    port = free_port()
    with postgresql() as database, (folder / "server.log").open("w") as log:
        told = {
            "server.port": port,
            "bench.database": database.jdbc_url,
            "bench.user": "bench",
            "bench.validate": str(validate).lower(),
            "bench.subscriptions": str(subscriptions).lower(),
        }
        process = subprocess.Popen(
            [
                _program("java"), "-Xmx4g", *(f"-D{name}={value}" for name, value in told.items()),
                "-cp", f"{classes}:{BUILD / 'jars'}/*", "org.wetread.bench.HapiServer",
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        name = "HAPI, validating" if validate else "HAPI"
        try:
            wait_for(lambda: urllib.request.urlopen(f"{url}/fhir/metadata", timeout=60).status == 200, timeout_s=240)
            yield Contestant(name, url, "", process.pid, database)
        finally:
            process.kill()
            process.wait(10)


def _hapi_built() -> Path:
    """The folder with our main class, compiled; the jars from Maven Central lie beside it."""
    source = _HAPI / "src/main/java/org/wetread/bench/HapiServer.java"
    classes, jars, done = BUILD / "classes", BUILD / "jars", BUILD / ".made-of"
    made_of = source.read_bytes() + (_HAPI / "pom.xml").read_bytes()
    if not done.exists() or done.read_bytes() != made_of:
        shutil.rmtree(BUILD, ignore_errors=True)
        BUILD.mkdir(parents=True)
        copy = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
        subprocess.run([_program("mvn"), "-q", "-B", "-f", str(_HAPI / "pom.xml"), *copy], check=True, timeout=1200)
        subprocess.run(
            [_program("javac"), "-d", str(classes), "-cp", f"{jars}/*", str(source)], check=True, timeout=300
        )
        done.write_bytes(made_of)
    return classes


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(
            f"{name} is missing: `apt install maven openjdk-17-jdk-headless` (make bench does so as root)"
        )
    return found
