"""The job engine's own schema (Procrastinate 3.10), and our idempotency keys."""

from __future__ import annotations

from procrastinate.schema import SchemaManager

from wetread.store.migrate import script

revision = "0001"
down_revision = None


def upgrade() -> None:
    script(SchemaManager.get_schema())
    script("""
        CREATE TABLE job_key (
            key text PRIMARY KEY,
            at  timestamptz NOT NULL DEFAULT now()
        );
    """)
