"""Where results go."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Destination:
    """`kind` is dicom (C-STORE), stow (STOW-RS) or mllp (HL7v2). `sends` holds sr, seg, pr, alert."""

    name: str
    kind: str
    sends: frozenset[str]
    host: str = ""
    port: int = 0
    ae_title: str = ""
    url: str = ""
    application: str = ""
    facility: str = ""
    timeout_s: float = 30.0
