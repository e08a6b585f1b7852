"""What a topic's criterion could not be decided for is counted."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    script("""
        CREATE TABLE topic_undecided (
            topic text COLLATE "C" PRIMARY KEY,
            changes bigint NOT NULL,
            reason text NOT NULL,
            resource_type text NOT NULL,
            resource_id text NOT NULL,
            version_id bigint NOT NULL,
            last_at timestamptz NOT NULL,
            told_at timestamptz NOT NULL
        );
        COMMENT ON COLUMN topic_undecided.changes IS 'changes that were no event since the FHIRPath criterion failed';
        COMMENT ON COLUMN topic_undecided.told_at IS 'when the log of the server last named the topic';
    """)
