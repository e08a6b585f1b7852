"""A process of the group: its name, its log, and its roles from start to graceful end."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator, Sequence

import setproctitle
import uvloop

from wetread.errors import WetreadError
from wetread.logs import log_unhandled, set_up_logging
from wetread.processes import said, stop_on_signals, stop_with_parent
from wetread.roles import run_roles
from wetread.settings import Role, Settings

logger = logging.getLogger(__name__)


def run(settings: Settings, database_url: str, roles: Sequence[Role], *, alone: bool) -> None:
    """Until it is told to stop, or its parent is no more. It ends with MISCONFIGURED where settings are to blame.
    `alone`: no other process works these roles' queues."""
    setproctitle.setproctitle(f"wetread: {','.join(roles)}")
    set_up_logging(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, database_url, roles, alone))
    except Exception as error:
        sys.exit(_status(error, roles))


def _status(error: Exception, roles: Sequence[Role]) -> int:
    """The exit status for it. It is told by the log, without the text that Python would print."""
    group = error if isinstance(error, ExceptionGroup) else ExceptionGroup("", [error])
    known, unknown = group.split(WetreadError)
    for each in _leaves(unknown):
        logger.error("the process of %s fails", ", ".join(roles), exc_info=each)
    return said(known) if known is not None else 1


def _leaves(error: Exception | None) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    elif error is not None:
        yield error


async def _run(settings: Settings, database_url: str, roles: Sequence[Role], alone: bool) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    stop_with_parent(stop)
    asyncio.get_running_loop().set_exception_handler(log_unhandled)
    await run_roles(settings, database_url, roles, alone=alone, stop=stop)
