"""Placeholder of the room at work on it."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    script("""
        SELECT 1;
    """)
