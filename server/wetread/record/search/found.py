"""A resource that a search found, and whom it is about, from one statement: the audit names the patients of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from wetread.record.versions import Version


@dataclass(frozen=True, slots=True)
class Found:
    """`patient_ids` are those whom the version names as its patient or subject, or itself."""

    key: int
    version: Version
    patient_ids: tuple[str, ...]

    @classmethod
    def of(cls, row: Sequence[Any]) -> Found:
        """From a row of COLUMNS."""
        return cls(row[0], Version(*row[1:7]), tuple(row[7]))


COLUMNS: LiteralString = """
    r.key, r.resource_type, r.id, r.version_id, r.last_updated, r.body, r.deleted,
    CASE r.resource_type WHEN 'Patient' THEN ARRAY[r.id] ELSE ARRAY(
        SELECT about.target_id FROM index_reference about
        WHERE about.resource_key = r.key AND about.param IN ('patient', 'subject') AND about.target_type = 'Patient'
            AND about.target_id <> '' AND about.url = ''
    ) END
"""
"""Of `resource r`: what `Found.of` reads. PostgreSQL looks for the patients only of what a LIMIT leaves."""
WIDTH = 8
