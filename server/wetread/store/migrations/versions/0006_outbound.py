"""Deliveries, governance."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    script("""
        CREATE TABLE delivery (
            id          text PRIMARY KEY,
            destination text NOT NULL,
            kind        text NOT NULL,
            about       text NOT NULL,
            patient_id  text,
            run_id      text,
            blob_keys   text[] NOT NULL,
            control_id  text,
            state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'dead')),
            attempts    int NOT NULL DEFAULT 0,
            last_error  text,
            answer      text,
            created_at  timestamptz NOT NULL DEFAULT now(),
            settled_at  timestamptz
        );
        CREATE INDEX delivery_open ON delivery (destination, created_at) WHERE state <> 'sent';
        CREATE INDEX delivery_run ON delivery (run_id);

        CREATE TABLE model_phase (
            id           bigserial PRIMARY KEY,
            model_name   text NOT NULL,
            model_digest text NOT NULL,
            phase        text NOT NULL CHECK (phase IN ('silent', 'concurrent', 'active')),
            changed_at   timestamptz NOT NULL DEFAULT now(),
            changed_by   text NOT NULL,
            reason       text NOT NULL
        );
        CREATE INDEX model_phase_newest ON model_phase (model_name, model_digest, id DESC);

        CREATE TABLE silent_result (
            run_id             text PRIMARY KEY,
            study_instance_uid text NOT NULL,
            model_name         text NOT NULL,
            model_digest       text NOT NULL,
            kept_at            timestamptz NOT NULL DEFAULT now(),
            reading            jsonb NOT NULL
        );
        CREATE INDEX silent_result_model ON silent_result (model_name, kept_at DESC);
    """)
