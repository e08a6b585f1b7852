"""Audit rows and subscriptions."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    script("""
        SELECT 1;
    """)
