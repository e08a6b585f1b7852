"""DICOM instances and their index."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    script("""
        CREATE TABLE instance (
            sop_instance_uid    text PRIMARY KEY,
            sop_class_uid       text NOT NULL,
            transfer_syntax_uid text NOT NULL,
            study_instance_uid  text NOT NULL,
            series_instance_uid text NOT NULL,
            size_bytes          bigint NOT NULL,
            digest              bytea NOT NULL,
            blob_key            text NOT NULL,
            facts               jsonb NOT NULL,
            received_at         timestamptz NOT NULL DEFAULT now(),
            source              text NOT NULL,
            origin              text NOT NULL CHECK (origin IN ('received', 'produced')),
            noticed             boolean NOT NULL
        );
        COMMENT ON COLUMN instance.digest IS 'SHA-256 of the encoded data set, file meta information apart';
        CREATE INDEX instance_study ON instance (study_instance_uid, series_instance_uid);
        CREATE INDEX instance_series ON instance (series_instance_uid);
        CREATE INDEX instance_blob ON instance (blob_key);
        CREATE INDEX instance_unnoticed ON instance (study_instance_uid, received_at) WHERE NOT noticed;
        CREATE INDEX instance_patient ON instance ((facts ->> 'patient_id'));
        CREATE INDEX instance_accession ON instance ((facts ->> 'accession_number'));
        CREATE INDEX instance_study_date ON instance ((facts ->> 'study_date'));

        CREATE TABLE quarantine (
            id               bigserial PRIMARY KEY,
            at               timestamptz NOT NULL DEFAULT now(),
            source           text NOT NULL,
            reason           text NOT NULL,
            message          text NOT NULL,
            sop_instance_uid text NOT NULL,
            size_bytes       bigint NOT NULL,
            digest           bytea NOT NULL,
            blob_key         text
        );
        COMMENT ON COLUMN quarantine.blob_key IS 'the first bytes; null once the quota of the source has let them go';
        CREATE INDEX quarantine_source ON quarantine (source, id);
        CREATE INDEX quarantine_blob ON quarantine (blob_key);
    """)
