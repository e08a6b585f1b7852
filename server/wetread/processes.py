"""One process group: the parent keeps a process for each group of roles and starts a dead one again.

They are forked from one process that has imported everything once and does nothing else (`multiprocessing`'s fork
server), so that a start takes no second of each, and they share the memory of what was imported. A child lives as long
as its parent: when the parent dies, however, its children stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import Pipe, forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path

from wetread.errors import Misconfigured, WetreadError

logger = logging.getLogger(__name__)

MISCONFIGURED = 2
"""Exit status of a child that must not be started again: its settings are wrong."""
_SHORT_LIFE_S = 5.0
_LONGEST_PAUSE_S = 30.0
_GENTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Child:
    """`run` is called in a process of its own; it and what it holds can be pickled."""

    name: str
    run: Callable[[], None]


def prepare(module: str) -> None:
    """Begins to import the module into the process that children will be forked from. It must start no thread."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([module])
    forkserver.ensure_running()


async def supervise(children: Sequence[Child], stop: asyncio.Event) -> int:
    """Keeps the children running until `stop`, then ends them gently. Gives the exit status."""
    # What `multiprocessing` knows of processes may be asked by one thread at a time, and starting one may take a while.
    with ThreadPoolExecutor(1, "processes") as hands:
        ended = [asyncio.create_task(_keep(child, hands, stop)) for child in children]
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await asyncio.wait(ended)
        return max(task.result() for task in ended)


async def _keep(child: Child, hands: ThreadPoolExecutor, stop: asyncio.Event) -> int:
    pause_s = 0.5
    while not stop.is_set():
        started = asyncio.get_running_loop().time()
        status = await _run(child, hands, stop)
        if stop.is_set() or status == MISCONFIGURED:
            return MISCONFIGURED if status == MISCONFIGURED else 0
        lived_s = asyncio.get_running_loop().time() - started
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S) if lived_s < _SHORT_LIFE_S else 0.5
        logger.error("the process %s ended with status %s; it starts again in %.1f s", child.name, status, pause_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)
    return 0


async def _run(child: Child, hands: ThreadPoolExecutor, stop: asyncio.Event) -> int | None:
    """From its start to its end; its exit status, None where it did not start."""
    loop = asyncio.get_running_loop()
    # A pipe that nobody writes to, whose other end is closed when the child is no more. (A process's sentinel tells so
    # too when only that one has died which it was forked from.)
    life, its_end = Pipe(duplex=False)
    process = ForkServerProcess(target=_live, args=(child.run, its_end), name=child.name)
    try:
        await loop.run_in_executor(hands, _start, process)
    except (OSError, EOFError) as error:
        logger.error("the process %s could not be started: %s", child.name, type(error).__name__)
        life.close()
        return None
    finally:
        its_end.close()
    ended = asyncio.Event()
    loop.add_reader(life.fileno(), ended.set)
    try:
        await _first(ended, stop)
        # Not by the process's own methods, which take it for dead with the one that it was forked from.
        if not ended.is_set():
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _GENTLE_S)
        if not ended.is_set():
            _signal(process, signal.SIGKILL)
            await ended.wait()
    finally:
        loop.remove_reader(life.fileno())
        life.close()
    await loop.run_in_executor(hands, process.join)
    status = process.exitcode
    process.close()
    return status


def _live(run: Callable[[], None], end: Connection) -> None:
    """In a child, whose process holds its `end` of the pipe until it is no more."""
    run()


def _signal(process: ForkServerProcess, number: signal.Signals) -> None:
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _start(process: ForkServerProcess) -> None:
    """Raises OSError, EOFError where the fork server does not answer: it has died, or its socket was swept from the
    temporary directory. The next attempt makes another."""
    try:
        process.start()
    except (OSError, EOFError):
        pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(FileExistsError):
            Path(get_temp_dir()).mkdir(0o700)
        raise


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def said(group: BaseExceptionGroup[WetreadError]) -> int:
    """Says the first error in one line on standard error. Gives the exit status for it."""
    first = group.exceptions[0]
    if not isinstance(first, WetreadError):
        return said(first)
    sys.stderr.write(f"wetread: {first.message}\n")
    return MISCONFIGURED if isinstance(first, Misconfigured) else 1


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGINT and SIGTERM end the process gently."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


def stop_with_parent(stop: asyncio.Event) -> None:
    """In a child: sets `stop` when the parent is no more."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process is no child")
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(parent.sentinel)
        stop.set()

    loop.add_reader(parent.sentinel, ended)
