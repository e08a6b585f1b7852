"""What a mapping must know of the site that a message cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo


@dataclass(frozen=True)
class Site:
    """`key` makes ids and lanes of patient identifiers unguessable.

    `authorities` names the identifier system (URI) of each HD namespace; start from `Maps.authorities` and lay the
    site's own over it. `default_authority` is the system of identifiers that come without one, and so of the site's
    medical record numbers; empty means that such a patient identifier is refused. `time_zone` is that of timestamps
    that come without an offset (HL7 v2.5.1 2.A.22).
    """

    key: bytes
    authorities: Mapping[str, str]
    default_authority: str
    time_zone: ZoneInfo
