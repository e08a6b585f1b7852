"""A searchset Bundle as text, spliced from stored texts (FHIR R4 3.1.1.2)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from wetread.record.lossless import dump
from wetread.record.shape import shaped
from wetread.record.splice import instant
from wetread.record.versions import Version


def entry(version: Version, base_url: str, mode: str, summary: str = "", elements: Sequence[str] = ()) -> str:
    """An entry, the stored text within, or the parts of it that are asked for."""
    full_url = json.dumps(f"{base_url}/{version.resource_type}/{version.id}")
    body = shaped(version.body, summary, elements)
    return f'{{"fullUrl":{full_url},"resource":{body},"search":{{"mode":"{mode}"}}}}'


def told(issues: Iterable[tuple[str, str, str]]) -> list[str]:
    """An entry with an OperationOutcome of warnings: (code, text, expression); none where there is nothing to tell."""
    found = [
        {"severity": "warning", "code": code, "details": {"text": text}, "expression": [expression]}
        for code, text, expression in issues
    ]
    if not found:
        return []
    outcome = {"resourceType": "OperationOutcome", "issue": found}
    return [dump({"fullUrl": uuid.uuid4().urn, "resource": outcome, "search": {"mode": "outcome"}})]


def bundle(entries: Iterable[str], total: int | None, links: Sequence[Mapping[str, str]]) -> str:
    head = {
        "resourceType": "Bundle",
        "id": str(uuid.uuid4()),
        "meta": {"lastUpdated": instant(datetime.now(UTC))},
        "type": "searchset",
        **({"total": total} if total is not None else {}),
        "link": links,
    }
    inner = ",".join(entries)
    return f'{dump(head)[:-1]},"entry":[{inner}]}}' if inner else dump(head)
