"""Placeholder of the room at work on it."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    script("""
        SELECT 1;
    """)
