"""What ends a process of the group is told without the words of errors, which may be a patient's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, sys
from pathlib import Path
from wetread import child
from wetread.errors import Misconfigured
from wetread.settings import load

settings = load(None, {"data_dir": Path(sys.argv[1])})
child.stop_with_parent = lambda stop: None
wrong = Misconfigured("http.port: taken")
for error in (
    ExceptionGroup("", [wrong]),
    ExceptionGroup("Doe", [ValueError("Doe"), ExceptionGroup("Doe", [wrong])]),
    ValueError("Doe"),
):
    async def fails(*_, error=error, **__):
        await asyncio.sleep(0)
        raise error

    child.run_roles = fails
    try:
        child.run(settings, "postgresql://", ["http"], alone=True)
    except SystemExit as ended:
        sys.stderr.write(f"status {ended.code}\\n")
"""


def test_errors_give_the_status_and_their_kind(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path], check=True, capture_output=True, text=True
    ).stderr.splitlines()
    # Without places in the code, and without the time that a line of the log begins with.
    assert [line for line in said if not line.startswith((" ", "20"))] == [
        "wetread: http.port: taken",
        "status 2",
        "ValueError",
        "wetread: http.port: taken",
        "status 2",
        "ValueError",
        "status 1",
    ]
    assert not any("Doe" in line for line in said)
