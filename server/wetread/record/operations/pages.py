"""Pages of what an operation gives: searchset Bundles whose `next` link holds where the following page begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from wetread.record.cursors import CURSOR
from wetread.record.search import searchset


@dataclass(frozen=True, slots=True)
class Page:
    """A searchset Bundle as text. `patient_ids` are the patients whom it is about, for the audit."""

    body: str
    patient_ids: tuple[str, ...]


def bundle(
    entries: Iterable[str], total: int | None, url: str, params: Sequence[tuple[str, str]], cursor: str, after: str
) -> str:
    """A searchset of entries that are JSON text. `cursor` is where this page began, `after` where the next one does;
    each empty where there is none."""
    links = [{"relation": "self", "url": _url(url, params, cursor)}]
    if after:
        links.append({"relation": "next", "url": _url(url, params, after)})
    return searchset.bundle(entries, total, links)


def _url(url: str, params: Sequence[tuple[str, str]], cursor: str) -> str:
    given = [*params, *([(CURSOR, cursor)] if cursor else [])]
    return f"{url}?{urlencode(given)}" if given else url
