"""The extensions of the Backport IG on a Subscription."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wetread.errors import Unsupported

_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"


def extensions(
    element: Mapping[str, Any] | None, known: set[str] | None, where: str, name: str | None = None
) -> list[Mapping[str, Any]]:
    """The element's Backport extensions, those called `name` only where it is given. One outside `known` is refused."""
    found = (element or {}).get("extension", ())
    for extension in found:
        if known is not None and str(extension.get("url")).removeprefix(_BACKPORT) not in known:
            message = f"this server does not know the extension {extension.get('url')} here; leave it out"
            raise Unsupported(message, location=f"{where}.extension")
    return [e for e in found if name is None or e.get("url") == f"{_BACKPORT}{name}"]
