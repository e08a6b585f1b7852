"""Audit rows, their chain, the cursors of the event log, and subscriptions."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    script("""
        CREATE TABLE event_cursor (
            name text PRIMARY KEY,
            seq  bigint NOT NULL DEFAULT 0
        );

        CREATE TABLE audit_event (
            id              uuid PRIMARY KEY,
            position        bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            recorded        timestamptz NOT NULL,
            kind            text NOT NULL,
            action          text NOT NULL CHECK (action IN ('C', 'R', 'U', 'D', 'E')),
            outcome         text NOT NULL CHECK (outcome IN ('0', '4', '8', '12')),
            principal       text NOT NULL,
            acting_user     text NOT NULL,
            patient_id      text,
            request_id      text NOT NULL,
            governance_only boolean NOT NULL,
            entities        text[] NOT NULL,
            body            text NOT NULL
        );
        CREATE INDEX audit_event_by_time ON audit_event (recorded);
        CREATE INDEX audit_event_by_patient ON audit_event (patient_id, position) WHERE patient_id IS NOT NULL;
        CREATE INDEX audit_event_by_principal ON audit_event (principal, position);
        CREATE INDEX audit_event_by_entity ON audit_event USING gin (entities);

        -- The chain lies beside the rows, so that an audit row is never touched again, not even by us.
        CREATE TABLE audit_chain (
            seq       bigint PRIMARY KEY,
            audit_id  uuid NOT NULL UNIQUE,
            hash      bytea NOT NULL,
            signature bytea
        );
        CREATE TABLE audit_unchained (
            position bigint PRIMARY KEY
        );

        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
        END $$;
        CREATE TRIGGER audit_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_event
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        CREATE TRIGGER audit_chain_append_only BEFORE DELETE OR TRUNCATE OR UPDATE OF seq, audit_id, hash ON audit_chain
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

        CREATE TABLE subscription_state (
            id                 text COLLATE "C" PRIMARY KEY,
            status             text NOT NULL CHECK (status IN ('requested', 'active', 'error', 'off')),
            error              text NOT NULL DEFAULT '',
            start              integer NOT NULL DEFAULT 1,
            started_seq        bigint,
            events_since_start bigint NOT NULL DEFAULT 0,
            topic              text NOT NULL,
            filters            jsonb NOT NULL,
            channel            jsonb NOT NULL,
            owner              jsonb NOT NULL,
            ends_at            timestamptz
        );
        COMMENT ON COLUMN subscription_state.start IS 'counts how often a client has asked for it to start';
        COMMENT ON COLUMN subscription_state.started_seq IS 'events above it count; null before the first handshake';
        CREATE TABLE subscription_event (
            subscription_id text COLLATE "C" NOT NULL REFERENCES subscription_state (id),
            number          bigint NOT NULL,
            seq             bigint NOT NULL,
            resource_type   text COLLATE "C" NOT NULL,
            resource_id     text COLLATE "C" NOT NULL,
            version_id      integer NOT NULL,
            kind            text NOT NULL,
            at              timestamptz NOT NULL,
            outcome         text NOT NULL DEFAULT 'pending' CHECK (outcome IN ('pending', 'delivered', 'dropped')),
            settled_at      timestamptz,
            PRIMARY KEY (subscription_id, number),
            UNIQUE (subscription_id, seq)
        );
    """)
