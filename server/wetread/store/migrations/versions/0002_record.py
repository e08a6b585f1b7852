"""The system of record: resources, their versions and index, the event log."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Collation "C" lets a plain b-tree answer prefix matches whatever the server's locale.
    # Index rows hang on `resource_key`: 8 bytes in place of a type and an id in every row and every index. It is no
    # foreign key: resources are marked deleted, never removed, and a check for each row costs more than the row.
    script("""
        CREATE TABLE resource (
            key bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
            resource_type text COLLATE "C" NOT NULL,
            id text COLLATE "C" NOT NULL,
            version_id integer NOT NULL,
            last_updated timestamptz NOT NULL,
            deleted boolean NOT NULL,
            body text NOT NULL,
            PRIMARY KEY (resource_type, id)
        );
        CREATE INDEX resource_by_key ON resource (resource_type, key) WHERE NOT deleted;
        CREATE INDEX resource_by_last_updated ON resource (resource_type, last_updated, key) WHERE NOT deleted;

        CREATE TABLE resource_version (
            resource_type text COLLATE "C" NOT NULL,
            id text COLLATE "C" NOT NULL,
            version_id integer NOT NULL,
            last_updated timestamptz NOT NULL,
            deleted boolean NOT NULL,
            body text NOT NULL,
            PRIMARY KEY (resource_type, id, version_id)
        );

        CREATE TABLE index_token (
            resource_key bigint NOT NULL,
            resource_type text COLLATE "C" NOT NULL,
            param text COLLATE "C" NOT NULL,
            system text COLLATE "C" NOT NULL,
            code text COLLATE "C" NOT NULL
        );
        CREATE INDEX index_token_by_code ON index_token (resource_type, param, code, system) INCLUDE (resource_key);
        CREATE INDEX index_token_of_resource ON index_token (resource_key, param);

        CREATE TABLE index_reference (
            resource_key bigint NOT NULL,
            resource_type text COLLATE "C" NOT NULL,
            param text COLLATE "C" NOT NULL,
            target_type text COLLATE "C" NOT NULL,
            target_id text COLLATE "C" NOT NULL,
            url text COLLATE "C" NOT NULL,
            identifier_system text COLLATE "C" NOT NULL,
            identifier_value text COLLATE "C" NOT NULL
        );
        CREATE INDEX index_reference_by_target ON index_reference (resource_type, param, target_id, target_type)
            INCLUDE (resource_key) WHERE target_id <> '';
        CREATE INDEX index_reference_by_url ON index_reference (resource_type, param, url) WHERE url <> '';
        CREATE INDEX index_reference_by_identifier
            ON index_reference (resource_type, param, identifier_value, identifier_system) WHERE identifier_value <> '';
        CREATE INDEX index_reference_of_resource ON index_reference (resource_key, param);

        CREATE TABLE index_date (
            resource_key bigint NOT NULL,
            resource_type text COLLATE "C" NOT NULL,
            param text COLLATE "C" NOT NULL,
            low timestamptz NOT NULL,
            high timestamptz NOT NULL
        );
        COMMENT ON COLUMN index_date.high IS 'exclusive';
        CREATE INDEX index_date_by_low ON index_date (resource_type, param, low) INCLUDE (high, resource_key);
        CREATE INDEX index_date_by_high ON index_date (resource_type, param, high) INCLUDE (low, resource_key);
        CREATE INDEX index_date_of_resource ON index_date (resource_key, param);

        CREATE TABLE index_string (
            resource_key bigint NOT NULL,
            resource_type text COLLATE "C" NOT NULL,
            param text COLLATE "C" NOT NULL,
            folded text COLLATE "C" NOT NULL,
            exact text COLLATE "C" NOT NULL
        );
        CREATE INDEX index_string_by_start ON index_string (resource_type, param, left(folded, 64));
        CREATE INDEX index_string_of_resource ON index_string (resource_key, param);

        CREATE TABLE index_quantity (
            resource_key bigint NOT NULL,
            resource_type text COLLATE "C" NOT NULL,
            param text COLLATE "C" NOT NULL,
            low numeric NOT NULL,
            high numeric NOT NULL,
            system text COLLATE "C" NOT NULL,
            code text COLLATE "C" NOT NULL,
            unit text COLLATE "C" NOT NULL
        );
        COMMENT ON TABLE index_quantity IS 'quantities, and numbers with no unit';
        CREATE INDEX index_quantity_by_low ON index_quantity (resource_type, param, low) INCLUDE (high, resource_key);
        CREATE INDEX index_quantity_of_resource ON index_quantity (resource_key, param);

        CREATE TABLE index_uri (
            resource_key bigint NOT NULL,
            resource_type text COLLATE "C" NOT NULL,
            param text COLLATE "C" NOT NULL,
            uri text COLLATE "C" NOT NULL
        );
        CREATE INDEX index_uri_by_uri ON index_uri (resource_type, param, uri) INCLUDE (resource_key);
        CREATE INDEX index_uri_of_resource ON index_uri (resource_key, param);

        CREATE TABLE event (
            id bigserial PRIMARY KEY,
            seq bigint UNIQUE,
            resource_type text COLLATE "C" NOT NULL,
            resource_id text COLLATE "C" NOT NULL,
            version_id integer NOT NULL,
            kind text NOT NULL CHECK (kind IN ('create', 'update', 'delete')),
            at timestamptz NOT NULL DEFAULT now()
        );
        CREATE INDEX event_not_numbered ON event (id) WHERE seq IS NULL;
    """)
