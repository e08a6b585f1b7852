"""History of a type and of everything: how each version came, and the log as its order."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    # The index by time is block ranges: events are appended in the order of time, nearly, and it costs a write nothing.
    script("""
        ALTER TABLE resource_version ADD COLUMN method text NOT NULL DEFAULT 'PUT'
            CHECK (method IN ('POST', 'PUT', 'DELETE'));
        CREATE INDEX event_of_type ON event (resource_type, seq) WHERE seq IS NOT NULL;
        CREATE INDEX event_by_time ON event USING brin (at);
    """)
