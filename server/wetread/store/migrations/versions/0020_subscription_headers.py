"""The headers of a subscription's endpoint are shown nowhere: their values go out of the resources that are stored."""

from __future__ import annotations

from wetread.store.migrate import script

revision = "0020"
down_revision = "0018"

_HIDDEN = """
    UPDATE {table} SET body = jsonb_set(body::jsonb, '{{channel,header}}', (
        SELECT coalesce(jsonb_agg(regexp_replace(line, ':.*$', ': ***') ORDER BY place), '[]') FROM
            jsonb_array_elements_text(body::jsonb #> '{{channel,header}}') WITH ORDINALITY AS each (line, place)))::text
    WHERE resource_type = 'Subscription' AND CASE WHEN resource_type = 'Subscription' AND NOT deleted THEN
        body::jsonb #>> '{{channel,type}}' IN ('rest-hook', 'message')
        AND NOT body::jsonb -> 'channel' ? '_type'
        AND jsonb_typeof(body::jsonb #> '{{channel,header}}') = 'array' END;
"""


def upgrade() -> None:
    script(_HIDDEN.format(table="resource") + _HIDDEN.format(table="resource_version"))
