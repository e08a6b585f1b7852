"""A clock that can be set, for the processes that run by it: libfaketime of Debian. What is measured goes on as it
does for real (CLOCK_MONOTONIC), as with a machine whose clock is set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Clock:
    """`file` says by how much the clock is wrong. Any user may read it."""

    file: Path

    def set(self, ahead_h: int) -> None:
        """So many hours ahead of the real time."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{ahead_h:+}h\n")
        new.chmod(0o644)
        self.file.parent.chmod(0o755)
        new.rename(self.file)

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the processes that run by this clock; not for roles whose threads sleep (dicom, infer), since libfaketime
        takes time.sleep's CLOCK_MONOTONIC for the time of day."""
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not found:
            pytest.fail("libfaketime is missing: `apt install libfaketime` (make test does so as root)")
        return {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Else what waits until a moment of CLOCK_MONOTONIC, as each thread for Python's lock does, wakes at once.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",
        }
