"""One process group: the parent keeps a process for each group of roles and starts a dead one again.

A child lives as long as the pipe that its parent holds open: when the parent dies, however, its children stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

MISCONFIGURED = 2
"""Exit status of a child that must not be started again: its settings are wrong."""
_SHORT_LIFE_S = 5.0
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


async def supervise(children: Sequence[Child], stop: asyncio.Event) -> int:
    """Keeps the children running until `stop`, then ends them gently. Gives the exit status."""
    ended = [asyncio.create_task(_keep(child, stop)) for child in children]
    await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    await asyncio.wait(ended)
    return max(task.result() for task in ended)


async def _keep(child: Child, stop: asyncio.Event) -> int:
    pause_s = 0.5
    while not stop.is_set():
        started = asyncio.get_running_loop().time()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "wetread",
            *child.arguments,
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, **child.environment},
        )
        status = await _until(process, stop)
        if stop.is_set() or status == MISCONFIGURED:
            return MISCONFIGURED if status == MISCONFIGURED else 0
        lived_s = asyncio.get_running_loop().time() - started
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S) if lived_s < _SHORT_LIFE_S else 0.5
        logger.error("the process %s ended with status %s; it starts again in %.1f s", child.name, status, pause_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)
    return 0


async def _until(process: asyncio.subprocess.Process, stop: asyncio.Event) -> int:
    ended = asyncio.create_task(process.wait())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ended), 30.0)
        if not ended.done():
            process.kill()
    return await ended


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGINT and SIGTERM end the process gently."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


async def stop_with_parent(stop: asyncio.Event) -> None:
    """Sets `stop` when the parent's end of our standard input closes."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    stop.set()
