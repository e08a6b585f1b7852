"""The words of a resource, for `_text` and `_content` (FHIR R4 3.1.1.5.3, 3.1.1.5.4), by PostgreSQL's full text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from wetread.errors import InvalidInput
from wetread.record.condition import Condition, all_of
from wetread.record.search.index_rows import folded

_LONGEST = 50_000
_TECHNICAL = frozenset({"resourceType", "id", "reference", "system", "url", "code", "language", "contentType", "data"})
_TECHNICAL |= {"hash", "div", "implicitRules", "status", "uid"}
_ASIDE = frozenset({"meta", "contained", "signature"})
"""Texts that are no words for people: identities, codes and addresses have search parameters of their own."""
_MOMENT = re.compile(r"\d{4}(-\d\d.*)?")
_TAG = re.compile(r"<[^>]*>|&[a-zA-Z#0-9]+;")


def narrative(resource: Mapping[str, Any]) -> str:
    """The words of `text.div`, folded; at most 50,000 characters."""
    text = resource.get("text")
    div = text.get("div") if isinstance(text, dict) else None
    return folded(_TAG.sub(" ", div[: 4 * _LONGEST]))[:_LONGEST] if isinstance(div, str) else ""


def content(resource: Mapping[str, Any]) -> str:
    """The words of all other elements, folded; at most 50,000 characters."""
    words: list[str] = []
    _gather(resource, words)
    return folded(" ".join(words)[: 4 * _LONGEST])[:_LONGEST]


def _gather(content: Mapping[str, Any], into: list[str]) -> None:
    for name, member in content.items():
        if name in _ASIDE:
            continue
        for value in member if isinstance(member, list) else (member,):
            if isinstance(value, str):
                if name not in _TECHNICAL and not (value[:1].isdigit() and _MOMENT.fullmatch(value)):
                    into.append(value)
            elif isinstance(value, dict):
                _gather(value, into)


def condition(code: str, value: str) -> Condition:
    """Words, "phrases in quotes", `or` between words, `-` before one that must not be there."""
    asked = folded(value)
    if not asked.strip('"-, '):
        raise InvalidInput("expected words to look for", location=code)
    words = Condition("t.document @@ websearch_to_tsquery('simple', %s)", (asked,))
    if code == "_text":
        # Words of the narrative carry weight A. The index narrows by the document, but not where a word is unwanted.
        own = Condition("ts_filter(t.document, '{a}') @@ websearch_to_tsquery('simple', %s)", (asked,))
        words = own if "-" in asked else all_of([words, own])
    return Condition("r.key IN (SELECT t.resource_key FROM index_text t WHERE " + words.sql + ")", words.args)
