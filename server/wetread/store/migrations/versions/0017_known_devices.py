"""Browsers that people have signed in with: what a stranger guesses elsewhere does not shut them out."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    script("""
        CREATE TABLE known_device (
            digest bytea NOT NULL,
            account_name text COLLATE "C" NOT NULL REFERENCES account ON DELETE CASCADE,
            failures integer NOT NULL DEFAULT 0,
            locked_until timestamptz,
            expires_at timestamptz NOT NULL,
            PRIMARY KEY (digest, account_name)
        );
        COMMENT ON COLUMN known_device.digest IS 'SHA-256 of the cookie; a row for each who uses the browser';
        CREATE INDEX known_device_of ON known_device (account_name);
    """)
