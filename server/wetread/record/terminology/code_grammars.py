"""Code systems without an end, whose codes a grammar tells: units, media types, languages."""

from __future__ import annotations

import re

from wetread.record.search import units

_MEDIA = re.compile(
    r"""[A-Za-z0-9][\w!#$&\-^.+]{0,126}/[A-Za-z0-9][\w!#$&\-^.+]{0,126}(?:\s*;\s*[\w\-]+=(?:[\w!#$&\-^.+/]+|"[^"\\]*"))*""",
    re.ASCII,
)
"""RFC 6838 4.2, with parameters."""
_LANGUAGE = re.compile(
    r"(?:[a-z]{2,3}(?:-[a-z]{3}){0,3}|[a-z]{4,8})(?:-[a-z]{4})?(?:-(?:[a-z]{2}|\d{3}))?"
    r"(?:-(?:[a-z0-9]{5,8}|\d[a-z0-9]{3}))*(?:-[a-wyz0-9](?:-[a-z0-9]{2,8})+)*(?:-x(?:-[a-z0-9]{1,8})+)?"
    r"|x(?:-[a-z0-9]{1,8})+",
    re.ASCII | re.IGNORECASE,
)
"""RFC 5646 2.1: well formed, not looked up in the registry."""
_LONGEST = 200


def is_code(system: str, code: str) -> bool | None:
    """Whether a code is one of a system's; None for a system that no grammar here tells of."""
    if system == units.UCUM:
        return units.is_code(code)
    pattern = {"urn:ietf:bcp:13": _MEDIA, "urn:ietf:bcp:47": _LANGUAGE}.get(system)
    return None if pattern is None else len(code) <= _LONGEST and pattern.fullmatch(code) is not None
