"""A small process group, run as a program by the tests of the real one: `python -m tests.unit.process_group FOLDER`.

Each child writes its number into a file of its name and then lives as a role does. `misconfigured` ends at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from wetread.processes import MISCONFIGURED, Child, prepare, stop_on_signals, stop_with_parent, supervise


def live(file: Path) -> None:
    new = file.with_suffix(".new")
    new.write_text(str(os.getpid()))
    asyncio.run(_until_stopped(lambda: new.rename(file)))
    file.unlink()


async def _until_stopped(ready: Callable[[], object]) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    stop_with_parent(stop)
    ready()
    await stop.wait()


def refuse() -> None:
    sys.exit(MISCONFIGURED)


async def run(folder: Path) -> int:
    stop = asyncio.Event()
    stop_on_signals(stop)
    children = [Child(name, partial(live, folder / name)) for name in ("one", "two")]
    if "misconfigured" in sys.argv:
        children.append(Child("misconfigured", refuse))
    return await supervise(children, stop)


if __name__ == "__main__":
    prepare("wetread.processes")
    sys.exit(asyncio.run(run(Path(sys.argv[1]))))
