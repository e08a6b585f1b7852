"""Bulk exports: the job, its files, the patients it is limited to."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    # A job's progress is one row that each slice moves on with its files, so a slice done twice counts once.
    # The index on deleted resources holds only those: an export tells what was deleted since, and finds what was
    # deleted while it ran.
    script("""
        CREATE TABLE export_job (
            id uuid PRIMARY KEY,
            principal text NOT NULL,
            scopes text NOT NULL,
            url text NOT NULL,
            request jsonb NOT NULL,
            transaction_time timestamptz NOT NULL,
            created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'complete', 'failed')),
            types text[] NOT NULL,
            slice integer NOT NULL DEFAULT -1,
            part integer NOT NULL DEFAULT 0,
            after_key bigint NOT NULL DEFAULT 0,
            row_bytes integer NOT NULL DEFAULT 2048,
            resources bigint NOT NULL DEFAULT 0,
            polled_at timestamptz,
            expires_at timestamptz,
            failure text NOT NULL DEFAULT ''
        );
        COMMENT ON COLUMN export_job.slice IS 'how many slices are done; -1 until the writers of its moment have ended';
        COMMENT ON COLUMN export_job.part IS 'place in the list of types, then in that of their deletions';

        CREATE TABLE export_patient (
            job_id uuid NOT NULL REFERENCES export_job ON DELETE CASCADE,
            patient_id text COLLATE "C" NOT NULL,
            PRIMARY KEY (job_id, patient_id)
        );

        CREATE TABLE export_file (
            job_id uuid NOT NULL REFERENCES export_job ON DELETE CASCADE,
            number integer NOT NULL,
            section text NOT NULL CHECK (section IN ('output', 'deleted', 'error')),
            resource_type text NOT NULL,
            blob_key text NOT NULL,
            resources bigint NOT NULL,
            bytes bigint NOT NULL,
            PRIMARY KEY (job_id, number)
        );

        CREATE INDEX resource_deleted ON resource (resource_type, last_updated, key) WHERE deleted;
    """)
