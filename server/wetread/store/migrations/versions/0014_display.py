"""Models whose findings are shown on request, and who asked for which."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    script("""
        CREATE TABLE model_display (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            model_name text NOT NULL,
            display text NOT NULL CHECK (display IN ('at-once', 'on-request')),
            changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            changed_by text NOT NULL,
            reason text NOT NULL
        );
        CREATE INDEX model_display_newest ON model_display (model_name, id DESC);

        CREATE TABLE reveal (
            run_id text NOT NULL,
            principal text NOT NULL,
            revealed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (run_id, principal)
        );
    """)
