"""Signed checkpoints of the audit chain, removal by policy, and how far each stream of the record has come."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    script("""
        CREATE TABLE audit_checkpoint (
            seq    bigint PRIMARY KEY,
            hash   bytea NOT NULL,
            at     timestamptz NOT NULL,
            signed text NOT NULL
        );
        COMMENT ON COLUMN audit_checkpoint.signed IS 'JWS (RFC 7515) of the three';

        CREATE TABLE audit_removal (
            through    bigint PRIMARY KEY,
            first      bigint NOT NULL UNIQUE,
            first_hash bytea NOT NULL,
            last_hash  bytea NOT NULL,
            at         timestamptz NOT NULL,
            signed     text NOT NULL,
            audit_id   uuid NOT NULL,
            made_by    xid8 NOT NULL DEFAULT pg_current_xact_id()
        );
        COMMENT ON TABLE audit_removal IS 'what was removed of the chain: links first to through, by which policy';

        CREATE TABLE audit_stream (
            name     text PRIMARY KEY,
            seq      bigint NOT NULL DEFAULT 0,
            moved_at timestamptz NOT NULL DEFAULT now()
        );
        COMMENT ON COLUMN audit_stream.seq IS 'the last link of the chain that has left by this stream';

        CREATE TRIGGER audit_checkpoint_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_checkpoint
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        CREATE TRIGGER audit_removal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_removal
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

        -- A removal goes on where the last one ended, up to a checkpoint, and no further than every stream has come.
        CREATE FUNCTION refuse_removal() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.first <> coalesce((SELECT max(through) FROM audit_removal), 0) + 1
               OR NOT EXISTS (SELECT FROM audit_checkpoint c WHERE c.seq = NEW.through AND c.hash = NEW.last_hash)
               OR EXISTS (SELECT FROM audit_stream s WHERE s.seq < NEW.through)
               OR NEW.made_by <> pg_current_xact_id() THEN
                RAISE EXCEPTION 'audit records are removed in their order, up to a signed checkpoint'
                    USING ERRCODE = 'restrict_violation';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER audit_removal_in_order BEFORE INSERT ON audit_removal
            FOR EACH ROW EXECUTE FUNCTION refuse_removal();

        -- Only what a removal of the same transaction names may go.
        CREATE FUNCTION refuse_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE beyond boolean;
        BEGIN
            IF TG_TABLE_NAME = 'audit_chain' THEN
                SELECT EXISTS (SELECT FROM gone g WHERE NOT EXISTS (
                    SELECT FROM audit_removal r
                     WHERE r.made_by = pg_current_xact_id() AND g.seq BETWEEN r.first AND r.through)) INTO beyond;
            ELSE
                SELECT EXISTS (SELECT FROM gone g WHERE NOT EXISTS (
                    SELECT FROM audit_removal r JOIN audit_chain c ON c.seq BETWEEN r.first AND r.through
                     WHERE r.made_by = pg_current_xact_id() AND c.audit_id = g.id)) INTO beyond;
            END IF;
            IF beyond THEN
                RAISE EXCEPTION '% is append-only: DELETE is refused', TG_TABLE_NAME
                    USING ERRCODE = 'restrict_violation';
            END IF;
            RETURN NULL;
        END $$;
        DROP TRIGGER audit_event_append_only ON audit_event;
        CREATE TRIGGER audit_event_append_only BEFORE UPDATE OR TRUNCATE ON audit_event
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        CREATE TRIGGER audit_event_removal AFTER DELETE ON audit_event REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_deletion();
        DROP TRIGGER audit_chain_append_only ON audit_chain;
        CREATE TRIGGER audit_chain_append_only BEFORE TRUNCATE OR UPDATE ON audit_chain
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        CREATE TRIGGER audit_chain_removal AFTER DELETE ON audit_chain REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_deletion();
        ALTER TABLE audit_chain DROP COLUMN signature;

        CREATE INDEX audit_event_by_user ON audit_event (acting_user, position) WHERE acting_user <> '';
    """)
