"""A PostgreSQL of Debian's in a folder of its own: never the system's cluster."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BINARIES = Path("/usr/lib/postgresql/15/bin")


@dataclass(frozen=True)
class DebianPostgresql:
    """Runs as the user `postgres` where we are root, else as ourselves."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://wetread@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        _run(self.folder, "pg_ctl", "start", "-w", "-D", self._data, "-l", str(self.folder / "log"), "-o", options)

    def stop(self) -> None:
        """At once, without a checkpoint: what a power cut leaves."""
        _run(self.folder, "pg_ctl", "stop", "-w", "-m", "immediate", "-D", self._data)

    @property
    def _data(self) -> str:
        return str(self.folder / "data")


@contextmanager
def debian_postgresql(port: int) -> Iterator[DebianPostgresql]:
    """A running server, with the role `wetread`; stopped and removed in the end."""
    if not BINARIES.is_dir():
        pytest.fail(f"{BINARIES} is missing: `apt install postgresql` (make test does so as root)")
    folder = Path(tempfile.mkdtemp(prefix="wetread-pg15-"))
    user = _user()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    server = DebianPostgresql(folder, port)
    _run(
        folder, "initdb", "-D", str(folder / "data"), "-U", "wetread", "--auth=trust", "--locale=C.UTF-8", "-E", "UTF8"
    )
    server.start()
    try:
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)


def _user() -> pwd.struct_passwd | None:
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None


def _run(folder: Path, program: str, *arguments: str) -> None:
    user = _user()
    with (folder / "output").open("w+") as output:
        done = subprocess.run(
            [str(BINARIES / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
            cwd="/",
            check=False,
        )
        output.seek(0)
        assert done.returncode == 0, output.read()
