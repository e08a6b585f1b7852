"""What ends a process of the group is told without the words of errors, which may be a patient's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, sys
from pathlib import Path
from wetread import child
from wetread.errors import Misconfigured, StoreUnavailable
from wetread.settings import load

async def fails(*_, **__):
    await asyncio.sleep(0)
    raise {error}

child.run_roles = fails
child.stop_with_parent = lambda stop: None
child.run(load(None, {{"data_dir": Path(sys.argv[1])}}), "postgresql://", ["http"], alone=True)
"""
MISCONFIGURED = "Misconfigured('http.port: taken')"


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (f"ExceptionGroup('', [{MISCONFIGURED}])", 2, "wetread: http.port: taken\n"),
        (
            f"ExceptionGroup('Doe', [ValueError('Doe'), ExceptionGroup('Doe', [{MISCONFIGURED}])])",
            2,
            "ValueError\nwetread: http.port: taken\n",
        ),
        ("ValueError('Doe')", 1, "ValueError\n"),
    ],
)
def test_an_error_gives_the_status_and_its_kind(error: str, status: int, told: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error=error), tmp_path], check=False, capture_output=True, text=True
    )
    lines = [line for line in ended.stderr.splitlines(keepends=True) if not line.startswith(("  ", "20"))]
    assert (ended.returncode, "".join(lines)) == (status, told), ended.stderr
    assert "Doe" not in ended.stderr
