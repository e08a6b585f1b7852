"""Searches: what `:text`, composites, units and full text need, and statistics that let the planner choose well."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    # Statistics over columns that go together: a code is frequent or rare under its own parameter, not everywhere.
    script("""
        ALTER TABLE index_token ADD COLUMN text text COLLATE "C" NOT NULL DEFAULT '';
        ALTER TABLE index_token ADD COLUMN item smallint NOT NULL DEFAULT 0;
        COMMENT ON COLUMN index_token.text IS 'folded words of the display and the text, a line each';
        COMMENT ON COLUMN index_token.item IS 'which of the repeating elements that a composite parameter looks into';
        ALTER TABLE index_reference ADD COLUMN item smallint NOT NULL DEFAULT 0;
        ALTER TABLE index_quantity ADD COLUMN canonical_low numeric;
        ALTER TABLE index_quantity ADD COLUMN canonical_high numeric;
        ALTER TABLE index_quantity ADD COLUMN canonical_unit text COLLATE "C" NOT NULL DEFAULT '';
        ALTER TABLE index_quantity ADD COLUMN item smallint NOT NULL DEFAULT 0;
        COMMENT ON COLUMN index_quantity.canonical_unit IS 'UCUM base units; empty where the unit is not UCUM';
        CREATE INDEX index_quantity_by_canonical
            ON index_quantity (resource_type, param, canonical_unit, canonical_low)
            INCLUDE (canonical_high, resource_key) WHERE canonical_unit <> '';

        CREATE TABLE index_text (resource_key bigint NOT NULL, document tsvector NOT NULL);
        CREATE INDEX index_text_of_resource ON index_text (resource_key);
        COMMENT ON COLUMN index_text.document IS 'words of the narrative have weight A';
        CREATE INDEX index_text_by_word ON index_text USING gin (document);

        DROP INDEX index_reference_by_target;
        CREATE INDEX index_reference_by_target ON index_reference (resource_type, param, target_id, target_type)
            INCLUDE (resource_key) WHERE target_id <> '' AND url = '';
        CREATE INDEX index_date_of_the_long ON index_date (resource_type, param, low)
            INCLUDE (high, resource_key) WHERE high - low > interval '1 day';

        CREATE STATISTICS index_token_together (dependencies, mcv) ON resource_type, param, code FROM index_token;
        CREATE STATISTICS index_reference_together (dependencies, mcv)
            ON resource_type, param, target_type FROM index_reference;
        CREATE STATISTICS index_date_together (dependencies) ON resource_type, param FROM index_date;
    """)
