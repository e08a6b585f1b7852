"""What the process imports that all processes of the group are forked from."""

from __future__ import annotations

import gc

import wetread.child  # noqa: F401

# The collector would write to every page that they share.
gc.freeze()
