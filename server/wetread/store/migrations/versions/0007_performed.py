"""Modality performed procedure steps."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    script("""
        CREATE TABLE performed_step (
            sop_instance_uid   text PRIMARY KEY,
            study_instance_uid text NOT NULL,
            status             text NOT NULL CHECK (status IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')),
            instance_count     int NOT NULL DEFAULT 0,
            source             text NOT NULL,
            created_at         timestamptz NOT NULL DEFAULT now(),
            ended_at           timestamptz,
            noticed            boolean NOT NULL DEFAULT false
        );
        CREATE INDEX performed_step_study ON performed_step (study_instance_uid);
        CREATE INDEX performed_step_ended ON performed_step (study_instance_uid)
            WHERE status <> 'IN PROGRESS' AND NOT noticed;
    """)
