"""A process group outlives the death of any of its processes but the parent's, and leaves none behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.fork_server import fork_server_of

from wetread.processes import MISCONFIGURED

PROGRAM = [sys.executable, "-m", "tests.unit.process_group"]


@dataclass
class Group:
    folder: Path
    process: subprocess.Popen[bytes]

    def child(self, name: str) -> int:
        """Its process, once it is ready."""
        until(f"{name} to live", (self.folder / name).exists)
        return int((self.folder / name).read_text())

    def fork_server(self) -> int:
        return fork_server_of(self.process.pid)

    def kill_child(self, name: str) -> int:
        """Gives the one that comes in its place."""
        dead = self.child(name)
        (self.folder / name).unlink()
        os.kill(dead, signal.SIGKILL)
        born = self.child(name)
        assert born != dead
        return born

    def members(self) -> list[int]:
        """All that live."""
        return [pid for pid in psutil.pids() if not is_gone(pid) and _session(pid) == self.process.pid]

    def said(self) -> str:
        return (self.folder / "log").read_text()


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Group]:
    (folder / "tmp").mkdir()
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [*PROGRAM, str(folder), *arguments],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield Group(folder, process)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def until(what: str, happened: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    with running(tmp_path) as started:
        yield started


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_who_dies_is_started_again_and_others_live_on(group: Group) -> None:
    other = group.child("two")
    group.kill_child("one")
    assert group.child("two") == other
    assert "the process one ended with status -9" in group.said()


def test_who_forks_them_may_die_too(group: Group) -> None:
    one, two = group.child("one"), group.child("two")
    os.kill(group.fork_server(), signal.SIGKILL)
    time.sleep(0.5)
    assert (group.child("one"), group.child("two")) == (one, two)
    assert not is_gone(one)
    assert not is_gone(two)
    born = group.kill_child("two")
    assert not is_gone(born)
    assert group.child("one") == one


def test_a_group_whose_fork_server_died_stops_as_gently(group: Group) -> None:
    group.child("one")
    os.kill(group.fork_server(), signal.SIGKILL)
    pids = [group.child("one"), group.kill_child("two")]
    group.process.terminate()
    assert group.process.wait(60) == 0
    assert all(is_gone(pid) for pid in pids)
    assert not (group.folder / "one").exists()


def test_a_temporary_directory_may_be_swept(group: Group) -> None:
    other = group.child("two")
    [place] = (group.folder / "tmp").iterdir()
    shutil.rmtree(place)
    group.kill_child("one")
    assert group.child("two") == other
    assert not is_gone(other)


def test_children_stop_when_their_parent_is_killed(group: Group) -> None:
    pids = [group.child(name) for name in ("one", "two")] + [group.fork_server()]
    group.process.kill()
    until("all to be gone", lambda: all(is_gone(pid) for pid in pids))
    assert not (group.folder / "one").exists()
    assert not (group.folder / "two").exists()


def test_a_parent_that_is_told_to_stop_ends_them_gently(group: Group) -> None:
    pids = [group.child(name) for name in ("one", "two")]
    group.process.terminate()
    assert group.process.wait(60) == 0
    assert all(is_gone(pid) for pid in pids)
    assert not (group.folder / "one").exists()
    assert group.said() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_of_them_at_once_is_a_gentle_end_too(group: Group, number: signal.Signals) -> None:
    pids = [group.child(name) for name in ("one", "two")]
    os.killpg(group.process.pid, number)
    assert group.process.wait(60) == 0
    assert all(is_gone(pid) for pid in pids)
    assert not (group.folder / "one").exists()


def test_what_is_imported_before_they_are_forked_starts_nothing_that_a_fork_would_break(
    tmp_path: Path,
) -> None:
    program = (
        "import psutil, threading, wetread.preloaded;"
        "us = psutil.Process(); print(threading.active_count(), us.net_connections(), us.children(), us.open_files())"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    assert said.stdout.split() == ["1", "[]", "[]", "[]"]
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_of_one_end_all(tmp_path: Path) -> None:
    with running(tmp_path, "misconfigured") as group:
        assert group.process.wait(60) == MISCONFIGURED
        until("all to be gone", lambda: group.members() == [])
