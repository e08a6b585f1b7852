"""Which run an instance of ours is of, so that who may not see the run's findings is not handed them as images."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    # All objects of a run were written in one transaction, the moment of which is their received_at.
    script("""
        ALTER TABLE instance ADD COLUMN run_id text;
        COMMENT ON COLUMN instance.run_id IS 'of one that we made: the run whose findings it holds';
        UPDATE instance i SET run_id = r.id
          FROM instance report JOIN run r ON r.sr_uid = report.sop_instance_uid
         WHERE report.origin = 'produced' AND i.origin = 'produced'
           AND i.study_instance_uid = report.study_instance_uid AND i.received_at = report.received_at;
    """)
