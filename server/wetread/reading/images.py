"""What of the archive a reader may see: the studies that are open to them, and of the images that we have made there
those whose findings are."""

from __future__ import annotations

from collections.abc import Collection
from typing import LiteralString

from wetread.archive.query import Part
from wetread.domain.reader import Reader
from wetread.governance import display
from wetread.reading import studies
from wetread.store.database import Connection

_RESULTS = ("Observation", "DiagnosticReport")


async def open_to(conn: Connection, reader: Reader, letters: str) -> Part | None:
    """The instances that the reader's scopes open to each of these interactions with an ImagingStudy; None for all.

    An SR, SEG or presentation state of ours tells a run's findings: it is for who may read results, and of a model that
    the site shows on request for who has asked for them, as on the pages (`answers`). Raises Forbidden where the reader
    may see no study.
    """
    return _both(studies.open_to(reader, letters), await _ours(conn, reader))


async def _ours(conn: Connection, reader: Reader) -> Part | None:
    found = _both(_results(reader), _not_concealed(reader, await display.on_request(conn)))
    return Part("i.origin = 'received' OR (" + found.sql + ")", found.args) if found else None


def _not_concealed(reader: Reader, models: Collection[str]) -> Part | None:
    """What is of no run that we know is concealed, too."""
    if not models:
        return None
    shown: LiteralString = (
        "EXISTS (SELECT FROM run u WHERE u.id = i.run_id AND (u.model_name <> ALL (%s)"
        " OR EXISTS (SELECT FROM reveal v WHERE v.run_id = u.id AND v.principal = %s)))"
    )
    return Part(shown, (sorted(models), reader.principal))


def _both(one: Part | None, other: Part | None) -> Part | None:
    return one & other if one and other else one or other


def _results(reader: Reader) -> Part | None:
    """Where the reader may read all results: everywhere (None), of the patient of the token, or nowhere."""
    if all(reader.may("r", name) for name in _RESULTS):
        return None
    whole = [any(not scope.constraint for scope in reader.opening("r", name)) for name in _RESULTS]
    if reader.patient_id is None or not all(whole):
        return Part("false")
    return Part(
        "i.study_instance_uid IN (SELECT s.study_instance_uid FROM study s WHERE s.patient_id = %s)",
        (reader.patient_id,),
    )
