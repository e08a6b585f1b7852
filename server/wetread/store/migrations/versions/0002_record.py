"""The system of record: resources, their index, the event log."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    script("""
        SELECT 1;
    """)
