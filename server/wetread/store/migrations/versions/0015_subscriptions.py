"""Subscriptions found by keys and delivered by a cursor, in place of one job for each notification."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    script("""
        ALTER TABLE subscription_state
            ADD COLUMN criteria      text NOT NULL DEFAULT '',
            ADD COLUMN delivered     bigint NOT NULL DEFAULT 0,
            ADD COLUMN due_at        timestamptz,
            ADD COLUMN worker        integer,
            ADD COLUMN failures      integer NOT NULL DEFAULT 0,
            ADD COLUMN failing_since timestamptz,
            ADD COLUMN refused_since timestamptz,
            ADD COLUMN last_sent_at  timestamptz;
        COMMENT ON COLUMN subscription_state.topic IS 'canonical URL; empty where criteria is a search (FHIR R4)';
        COMMENT ON COLUMN subscription_state.criteria IS 'the search of a criteria-based subscription, else empty';
        COMMENT ON COLUMN subscription_state.delivered IS 'the number of the last event that was sent or dropped';
        COMMENT ON COLUMN subscription_state.due_at IS 'when a deliverer is to look at it; null: when an event comes';
        COMMENT ON COLUMN subscription_state.worker IS 'the deliverer that has it in hand; its lock says that it lives';
        COMMENT ON COLUMN subscription_state.failures IS 'attempts that failed since one succeeded';
        COMMENT ON COLUMN subscription_state.refused_since IS 'since when every attempt was answered with a refusal';

        UPDATE subscription_state s SET
            delivered = coalesce(
                (SELECT min(number) - 1 FROM subscription_event WHERE subscription_id = s.id AND outcome = 'pending'),
                events_since_start
            ),
            channel = '{"kind": "rest-hook"}' || channel;
        UPDATE subscription_state SET due_at = 'epoch'
            WHERE status = 'requested' OR (status = 'active' AND delivered < events_since_start);
        DELETE FROM procrastinate_jobs
            WHERE task_name IN ('subscription-handshake', 'subscription-notify') AND status = 'todo';

        CREATE INDEX subscription_due ON subscription_state (due_at) WHERE worker IS NULL AND due_at IS NOT NULL;
        CREATE INDEX subscription_in_hand ON subscription_state (worker) WHERE worker IS NOT NULL;
        CREATE SEQUENCE subscription_worker AS integer CYCLE;

        ALTER TABLE subscription_event
            DROP CONSTRAINT subscription_event_subscription_id_seq_key,
            DROP COLUMN outcome,
            DROP COLUMN settled_at,
            ADD COLUMN patient_ids text[];
        COMMENT ON COLUMN subscription_event.patient_ids IS 'of whom its version tells; null: read it';
        CREATE UNIQUE INDEX subscription_event_seq ON subscription_event (seq, subscription_id);

        CREATE TABLE subscription_key (
            key             text COLLATE "C" NOT NULL,
            subscription_id text COLLATE "C" NOT NULL REFERENCES subscription_state (id),
            PRIMARY KEY (key, subscription_id)
        );
        CREATE INDEX subscription_key_owner ON subscription_key (subscription_id);

        CREATE TABLE subscription_binding (
            token_digest     bytea PRIMARY KEY,
            subscription_ids text[] NOT NULL,
            owner            jsonb NOT NULL,
            expires_at       timestamptz NOT NULL
        );
    """)
