"""Parts of a resource: `_summary` and `_elements` (FHIR R4 3.1.1.5.8, 3.1.1.5.9)."""

from __future__ import annotations

from collections.abc import Sequence

from wetread.errors import Unsupported


def shaped(body: str, summary: str = "", elements: Sequence[str] = ()) -> str:
    """A stored body with only the parts asked for, and the SUBSETTED tag; the body itself where all of it is asked.

    `summary` is empty, false, true, text or data; `elements` are names, alone or as `Type.name`. Raises InvalidInput.
    """
    if summary in ("", "false") and not elements:
        return body
    raise Unsupported("_summary and _elements are not served yet")
