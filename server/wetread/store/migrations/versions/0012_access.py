"""Who may come in: clients and their secrets, people and their sessions, grants and what was given out on them."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    # No secret is kept: of what we gave out at random a SHA-256, of what a person chose an argon2id hash. A TOTP seed
    # must be read again, so it is sealed under the site's key.
    script("""
        CREATE TABLE client (
            client_id text COLLATE "C" PRIMARY KEY,
            name text NOT NULL,
            kind text NOT NULL CHECK (kind IN ('public', 'symmetric', 'asymmetric')),
            redirect_uris text[] NOT NULL DEFAULT '{}',
            launch_uri text NOT NULL DEFAULT '',
            grant_types text[] NOT NULL,
            scope text NOT NULL,
            roles text[] NOT NULL DEFAULT '{}',
            jwks jsonb,
            jwks_uri text NOT NULL DEFAULT '',
            networks cidr[] NOT NULL DEFAULT '{}',
            disabled_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        COMMENT ON COLUMN client.scope IS 'the most that it may be given';
        COMMENT ON COLUMN client.roles IS 'of tokens that it gets for itself';
        COMMENT ON COLUMN client.networks IS 'where it may call from; empty means anywhere';

        CREATE TABLE client_secret (
            id uuid PRIMARY KEY,
            client_id text COLLATE "C" NOT NULL REFERENCES client ON DELETE CASCADE,
            kind text NOT NULL CHECK (kind IN ('secret', 'api_key')),
            digest bytea NOT NULL UNIQUE,
            scope text,
            roles text[],
            created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            expires_at timestamptz NOT NULL,
            revoked_at timestamptz
        );
        COMMENT ON COLUMN client_secret.scope IS 'of an API key: the part of the client''s that it carries; null: all';
        COMMENT ON COLUMN client_secret.roles IS 'of an API key: those of the client''s that it carries; null: all';
        CREATE INDEX client_secret_of ON client_secret (client_id);

        CREATE TABLE account (
            name text COLLATE "C" PRIMARY KEY,
            display_name text NOT NULL,
            roles text[] NOT NULL,
            fhir_user text NOT NULL DEFAULT '',
            issuer text NOT NULL DEFAULT '',
            subject text NOT NULL DEFAULT '',
            password_hash text,
            totp_sealed bytea,
            totp_last_step bigint NOT NULL DEFAULT 0,
            failures integer NOT NULL DEFAULT 0,
            locked_until timestamptz,
            disabled_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        COMMENT ON COLUMN account.issuer IS 'the identity provider that vouches for the person; empty: local';
        CREATE UNIQUE INDEX account_subject ON account (issuer, subject) WHERE issuer <> '';

        CREATE TABLE login_session (
            digest bytea PRIMARY KEY,
            account_name text COLLATE "C" NOT NULL REFERENCES account ON DELETE CASCADE,
            authenticated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            idle interval NOT NULL,
            expires_at timestamptz NOT NULL,
            network text NOT NULL DEFAULT '',
            ended_at timestamptz
        );
        COMMENT ON COLUMN login_session.idle IS 'it ends when it is not seen for so long';
        CREATE INDEX login_session_of ON login_session (account_name);

        CREATE TABLE pending_login (
            digest bytea PRIMARY KEY,
            state jsonb NOT NULL,
            expires_at timestamptz NOT NULL
        );
        COMMENT ON TABLE pending_login IS 'a login at an identity provider, or one that still lacks its second factor';

        CREATE TABLE authorization_grant (
            id uuid PRIMARY KEY,
            client_id text COLLATE "C" NOT NULL REFERENCES client ON DELETE CASCADE,
            account_name text COLLATE "C" REFERENCES account ON DELETE CASCADE,
            session_digest bytea,
            scope text NOT NULL,
            context jsonb NOT NULL DEFAULT '{}',
            authenticated_at timestamptz,
            nonce text NOT NULL DEFAULT '',
            created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            expires_at timestamptz NOT NULL,
            revoked_at timestamptz
        );
        COMMENT ON COLUMN authorization_grant.context IS 'patient, encounter, fhirContext: as in the token response';
        COMMENT ON COLUMN authorization_grant.session_digest IS 'of online access: ends with this session';
        CREATE INDEX authorization_grant_of ON authorization_grant (account_name, client_id);

        CREATE TABLE authorization_code (
            digest bytea PRIMARY KEY,
            grant_id uuid NOT NULL REFERENCES authorization_grant ON DELETE CASCADE,
            redirect_uri text NOT NULL,
            code_challenge text NOT NULL,
            expires_at timestamptz NOT NULL,
            used_at timestamptz
        );

        CREATE TABLE refresh_token (
            digest bytea PRIMARY KEY,
            grant_id uuid NOT NULL REFERENCES authorization_grant ON DELETE CASCADE,
            scope text NOT NULL,
            expires_at timestamptz NOT NULL,
            used_at timestamptz
        );
        CREATE INDEX refresh_token_of ON refresh_token (grant_id);

        CREATE TABLE launch (
            digest bytea PRIMARY KEY,
            client_id text COLLATE "C" NOT NULL REFERENCES client ON DELETE CASCADE,
            account_name text COLLATE "C",
            context jsonb NOT NULL,
            expires_at timestamptz NOT NULL,
            used_at timestamptz
        );

        CREATE TABLE seen_assertion (
            client_id text COLLATE "C" NOT NULL,
            jti text COLLATE "C" NOT NULL,
            expires_at timestamptz NOT NULL,
            PRIMARY KEY (client_id, jti)
        );

        CREATE TABLE revocation (
            subject text COLLATE "C" PRIMARY KEY,
            before timestamptz NOT NULL DEFAULT clock_timestamp(),
            forget_at timestamptz NOT NULL
        );
        COMMENT ON COLUMN revocation.subject IS 'token:, grant:, client:, account:, key: or session: and its name';
        COMMENT ON COLUMN revocation.before IS 'what was issued at this time or earlier counts no more';
        CREATE INDEX revocation_age ON revocation (before);
    """)
