"""Parameters that look like a slip of another one: to ignore such a one would give more than was asked for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

WHOSE = ("patient", "subject")
"""What says whose records are meant: never ignored, whatever the handling."""
_AS_NEAR = 0.85
"""Of 1: `pateint` is as near to `patient`, and `parent` is not."""


def meant(name: str, known: Collection[str]) -> str:
    """The parameter of which this unknown one may be a slip, by case, modifier, ending or a letter: `Patient`,
    `patient:identifier` and `patients` of `patient`, `since` of `_since`. Empty where there is none."""
    bare = _bare(name)
    begun = [each for each in known if bare.startswith(_bare(each))]
    if begun:
        return max(begun, key=len)
    near = difflib.get_close_matches(bare, list(map(_bare, known)), n=1, cutoff=_AS_NEAR)
    return next((each for each in known if _bare(each) in near), "")


def respelt(name: str, known: Collection[str]) -> str:
    """The other parameter whose name this is but for case and line: `Status` of `status`. Empty where there is none."""
    return next((each for each in known if _bare(each) == _bare(name) and each not in name), "")


def _bare(name: str) -> str:
    return re.split("[:.]", name.lower(), maxsplit=1)[0].lstrip("_")
