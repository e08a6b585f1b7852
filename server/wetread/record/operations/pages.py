"""Pages of what an operation gives: searchset Bundles whose `next` link holds where the following page begins."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from wetread.errors import InvalidInput
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
    given = [*params, *([("_cursor", cursor)] if cursor else [])]
    return f"{url}?{urlencode(given)}" if given else url


def sealed(position: Sequence[int]) -> str:
    """A position as a cursor, which says nothing to callers."""
    return base64.urlsafe_b64encode(json.dumps(list(position)).encode()).decode().rstrip("=")


def opened(cursor: str, size: int) -> list[int]:
    """The position in a cursor: `size` whole numbers, none below 0. Raises InvalidInput."""
    try:
        position = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        whole = isinstance(position, list) and all(type(n) is int and 0 <= n < 2**63 for n in position)
        if whole and len(position) == size:
            return list(position)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        pass
    raise InvalidInput("not a page of this operation; follow the link that the server gave", location="http._cursor")
