"""The process that a server's others are forked from."""

from __future__ import annotations

import psutil


def fork_server_of(parent: int) -> int:
    found = psutil.Process(parent).children()
    [one] = [each.pid for each in found if "multiprocessing.forkserver" in " ".join(each.cmdline())]
    return one
