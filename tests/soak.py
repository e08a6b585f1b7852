"""How often a seeded test does what it does: once over in `make test`, many times over in `make soak`."""

from __future__ import annotations

import os

_OFTENER = 20
SOAKING = os.environ.get("WETREAD_SOAK") == "1"


def times(count: int) -> int:
    return count * _OFTENER if SOAKING else count
