"""The inbox of HL7v2 messages, orders, studies and runs."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    script("""
        CREATE TABLE hl7_message (
            id                  bigserial PRIMARY KEY,
            received_at         timestamptz NOT NULL DEFAULT now(),
            peer                text NOT NULL,
            listener            text NOT NULL,
            sending_application text NOT NULL,
            sending_facility    text NOT NULL,
            control_id          text NOT NULL,
            message_type        text NOT NULL,
            version             text NOT NULL,
            digest              bytea NOT NULL,
            size_bytes          bigint NOT NULL,
            raw                 bytea NOT NULL,
            verdict             text NOT NULL CHECK (verdict IN ('AA', 'AE', 'AR')),
            answer              bytea NOT NULL,
            state               text NOT NULL CHECK (state IN ('accepted', 'mapped', 'error', 'refused')),
            lanes               text[] NOT NULL DEFAULT '{}',
            attempts            int NOT NULL DEFAULT 0,
            error               text,
            settled_at          timestamptz
        );
        CREATE UNIQUE INDEX hl7_message_accepted_once
            ON hl7_message (sending_application, sending_facility, control_id, digest) WHERE verdict = 'AA';
        CREATE INDEX hl7_message_waiting ON hl7_message (id) WHERE state = 'accepted';
        CREATE INDEX hl7_message_holding ON hl7_message USING gin (lanes) WHERE state IN ('accepted', 'error');

        CREATE TABLE imaging_order (
            service_request_id text PRIMARY KEY,
            task_id            text NOT NULL,
            patient_id         text NOT NULL,
            encounter_id       text,
            placer             text NOT NULL,
            filler             text NOT NULL,
            accession_number   text NOT NULL,
            accession_issuer   text NOT NULL,
            study_instance_uid text NOT NULL,
            identity           jsonb NOT NULL,
            priority           int NOT NULL,
            modality           text NOT NULL,
            patient_class      text NOT NULL,
            ordering_location  text NOT NULL,
            status             text NOT NULL,
            message_id         bigint NOT NULL REFERENCES hl7_message,
            ordered_at         timestamptz NOT NULL DEFAULT now()
        );
        CREATE INDEX imaging_order_study ON imaging_order (study_instance_uid) WHERE study_instance_uid <> '';
        CREATE INDEX imaging_order_accession ON imaging_order (accession_number) WHERE accession_number <> '';
        CREATE INDEX imaging_order_patient ON imaging_order (patient_id, ordered_at);

        CREATE TABLE order_number (
            type               text NOT NULL,
            system             text NOT NULL,
            value              text NOT NULL,
            service_request_id text NOT NULL REFERENCES imaging_order,
            PRIMARY KEY (type, system, value)
        );

        CREATE TABLE study (
            study_instance_uid text PRIMARY KEY,
            id                 text NOT NULL UNIQUE,
            state              text NOT NULL CHECK (state IN ('receiving', 'complete', 'read', 'failed')),
            revision           int NOT NULL DEFAULT 1,
            patient_id         text NOT NULL,
            identity           jsonb NOT NULL,
            accession_number   text NOT NULL,
            accession_issuer   text NOT NULL,
            modalities         text[] NOT NULL DEFAULT '{}',
            description        text NOT NULL,
            study_date         text NOT NULL,
            service_request_id text REFERENCES imaging_order,
            task_id            text NOT NULL,
            match_state        text NOT NULL DEFAULT 'none'
                CHECK (match_state IN ('none', 'proposed', 'matched', 'held')),
            match_reason       text NOT NULL DEFAULT '',
            candidates         text[] NOT NULL DEFAULT '{}',
            first_at           timestamptz NOT NULL,
            last_at            timestamptz NOT NULL,
            instance_count     int NOT NULL DEFAULT 0,
            expected_count     int,
            declared_complete  boolean NOT NULL DEFAULT false,
            completed_at       timestamptz,
            completed_why      text NOT NULL DEFAULT '',
            priority           int NOT NULL DEFAULT 0,
            critical           boolean NOT NULL DEFAULT false,
            critical_reason    text NOT NULL DEFAULT '',
            error              text,
            reopened_at        timestamptz
        );
        CREATE INDEX study_accession ON study (accession_number) WHERE accession_number <> '';
        CREATE INDEX study_worklist ON study (critical DESC, priority DESC, first_at);
        CREATE INDEX study_patient ON study (patient_id);

        CREATE TABLE run (
            id                  text PRIMARY KEY,
            study_instance_uid  text NOT NULL REFERENCES study,
            series_instance_uid text NOT NULL,
            revision            int NOT NULL,
            model_name          text NOT NULL,
            model_version       text NOT NULL,
            model_digest        text NOT NULL,
            config_digest       text NOT NULL,
            phase               text NOT NULL,
            rule                text NOT NULL,
            state               text NOT NULL
                CHECK (state IN ('queued', 'done', 'held', 'reported', 'failed', 'superseded')),
            reading             jsonb,
            mask_key            text,
            sr_uid              text,
            error               text,
            queued_at           timestamptz NOT NULL DEFAULT now(),
            finished_at         timestamptz,
            reported_at         timestamptz
        );
        CREATE INDEX run_study ON run (study_instance_uid, revision);
    """)
