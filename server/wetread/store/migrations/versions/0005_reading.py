"""Inbox, orders, studies, runs."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    script("""
        SELECT 1;
    """)
