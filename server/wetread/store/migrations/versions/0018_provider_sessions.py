"""What an identity provider calls a login, so that it can end it; and when a person last came by one."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    script("""
        ALTER TABLE login_session ADD COLUMN provider_session text NOT NULL DEFAULT '';
        COMMENT ON COLUMN login_session.provider_session IS 'sid of the provider''s ID token; empty where it has none';
        CREATE INDEX login_session_of_provider ON login_session (provider_session) WHERE provider_session <> '';
        ALTER TABLE account ADD COLUMN signed_in_at timestamptz;
        COMMENT ON COLUMN account.signed_in_at IS 'when an identity provider last vouched for the person';
    """)
