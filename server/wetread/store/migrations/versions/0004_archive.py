"""DICOM instances and their index."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    script("""
        SELECT 1;
    """)
