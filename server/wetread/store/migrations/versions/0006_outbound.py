"""Deliveries, governance and access."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    script("""
        SELECT 1;
    """)
