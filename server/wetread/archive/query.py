"""QIDO-RS matching over the index (PS3.18 8.3.4, PS3.4 C.2.2.2): studies, series and instances as facts and counts.

Matches and answers from what the index holds (`InstanceFacts`); pixel data and blobs are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

from wetread.archive.instances import facts_of
from wetread.domain.reader import Reader
from wetread.domain.study import InstanceFacts
from wetread.errors import InvalidInput
from wetread.store.database import Connection

Level = Literal["study", "series", "instance"]
_LEVELS: tuple[Level, ...] = ("study", "series", "instance")


@dataclass(frozen=True, slots=True)
class Match:
    """One matching key: a DICOM keyword of `KEYS` and what the client gave for it, as text."""

    keyword: str
    value: str


@dataclass(frozen=True, slots=True)
class Found:
    """One study, series or instance: the facts of its first instance, and what is counted in it.

    `modalities`, `series_count` and `study_instance_count` are of the whole study, `instance_count` of the series at
    series level and of the study at study level.
    """

    facts: InstanceFacts
    modalities: tuple[str, ...] = ()
    series_count: int = 0
    instance_count: int = 0


_Condition = tuple[str, list[Any]]


def _uids(column: str, value: str) -> _Condition:
    return f"{column} = ANY(%s)", [[uid.strip() for uid in value.replace("\\", ",").split(",") if uid.strip()]]


def _text(column: str, value: str) -> _Condition:
    """Single value or wildcard matching (PS3.4 C.2.2.2.1, C.2.2.2.4)."""
    if "*" in value or "?" in value:
        return f"{column} LIKE %s", [_like(value)]
    return f"{column} = %s", [value]


def _name(column: str, value: str) -> _Condition:
    """PN matches without case (PS3.4 C.2.2.2.1.1 allows it)."""
    return f"{column} ILIKE %s", [_like(value)]


def _like(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return escaped.replace("*", "%").replace("?", "_")


def _number(column: str, value: str) -> _Condition:
    try:
        return f"({column})::bigint = %s", [int(value)]
    except ValueError as error:
        raise InvalidInput("a number was expected as the value of a matching key") from error


def _date(column: str, value: str) -> _Condition:
    return _range(column, value, lambda v: f"{v[:4]}-{v[4:6]}-{v[6:8]}", (8,))


def _time(column: str, value: str) -> _Condition:
    return _range(column, value, lambda v: ":".join(v[i : i + 2] for i in range(0, min(len(v), 6), 2)), (2, 4, 6))


def _range(column: str, value: str, iso: Callable[[str], str], lengths: tuple[int, ...]) -> _Condition:
    """Range matching (PS3.4 C.2.2.2.5); the index holds ISO text, which sorts as time does."""
    low, dash, high = (side.strip().partition(".")[0] for side in value.partition("-"))
    for side in (low, high):
        if side and not (side.isdigit() and len(side) in lengths):
            raise InvalidInput("a date or time, or a range of them, was expected as the value of a matching key")
    if not dash:
        return (f"{column} = %s" if lengths == (8,) else f"starts_with({column}, %s)"), [iso(low)]
    condition, values = [f"{column} <> ''"], []
    if low:
        condition.append(f"{column} >= %s")
        values.append(iso(low))
    if high:
        condition.append(f"{column} <= %s")
        values.append(iso(high) + "~")
    return " AND ".join(condition), values


def _fact(name: str) -> str:
    return f"facts ->> '{name}'"


KEYS: dict[str, tuple[Level, str, Callable[[str, str], _Condition]]] = {
    "StudyInstanceUID": ("study", "study_instance_uid", _uids),
    "StudyDate": ("study", _fact("study_date"), _date),
    "StudyTime": ("study", _fact("study_time"), _time),
    "AccessionNumber": ("study", _fact("accession_number"), _text),
    "ModalitiesInStudy": ("study", _fact("modality"), _text),
    "ReferringPhysicianName": ("study", _fact("referring_physician"), _name),
    "PatientName": ("study", _fact("patient_name"), _name),
    "PatientID": ("study", _fact("patient_id"), _text),
    "IssuerOfPatientID": ("study", _fact("patient_id_issuer"), _text),
    "PatientBirthDate": ("study", _fact("patient_birth_date"), _date),
    "PatientSex": ("study", _fact("patient_sex"), _text),
    "StudyID": ("study", _fact("study_id"), _text),
    "StudyDescription": ("study", _fact("study_description"), _text),
    "Modality": ("series", _fact("modality"), _text),
    "SeriesInstanceUID": ("series", "series_instance_uid", _uids),
    "SeriesNumber": ("series", _fact("series_number"), _number),
    "SeriesDescription": ("series", _fact("series_description"), _text),
    "BodyPartExamined": ("series", _fact("body_part"), _text),
    "SOPClassUID": ("instance", "sop_class_uid", _uids),
    "SOPInstanceUID": ("instance", "sop_instance_uid", _uids),
    "InstanceNumber": ("instance", _fact("instance_number"), _number),
}
"""The matching keys of PS3.18 tables 10.6.1-5 that the index can answer: level, expression, kind of matching."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which instances a reader may see, where that is not all: a condition on `instance i`, with its arguments.

    Made by who knows whose a study is, and what an instance of ours tells (`reading.images.open_to`)."""

    sql: LiteralString
    args: tuple[Any, ...] = ()

    def __and__(self, other: Part) -> Part:
        return Part(f"({self.sql}) AND ({other.sql})", (*self.args, *other.args))


_ALL = Part("true")


async def find(
    conn: Connection,
    reader: Reader,
    level: Level,
    matches: Sequence[Match],
    *,
    limit: int,
    offset: int = 0,
    part: Part | None = None,
) -> tuple[Found, ...]:
    """What matches all keys, in an order that paging can rely on. An empty value matches anything.

    A study is found where one of its instances matches, latest study first; a series or instance by its number. Raises
    InvalidInput for a value that is not of its key's kind, Forbidden where the reader may not see all studies and no
    `part` is given.
    """
    seen = _within(reader, part)
    where, values = [f"({seen.sql})"], list(seen.args)
    for match in matches:
        _, expression, kind = KEYS[match.keyword]
        if match.value.strip("*") == "":
            continue
        condition, given = kind(f"({expression})", match.value)
        where.append(f"({condition})")
        values += given
    statement = _STATEMENTS[level].format(where=" AND ".join(where), seen=seen.sql)
    # The study and the series level ask once more what may be seen: for the counts, and for the facts that are shown.
    again = () if level == "instance" else (*seen.args, *seen.args)
    rows = await conn.execute(statement, [*values, limit, offset, *again])
    return tuple(
        Found(facts_of(facts), tuple(m for m in modalities if m), series, instances)
        for facts, modalities, series, instances in await rows.fetchall()
    )


_COUNTS = """
    SELECT array_agg(DISTINCT i.facts ->> 'modality') AS modalities, count(DISTINCT i.series_instance_uid) AS series,
        count(*) AS instances
    FROM instance i WHERE i.study_instance_uid = hit.study_instance_uid AND ({seen})
"""
_STATEMENTS: dict[Level, str] = {
    "study": f"""
        WITH hit AS (
            SELECT study_instance_uid FROM instance i WHERE {{where}} GROUP BY 1
            ORDER BY max(facts ->> 'study_date') DESC NULLS LAST, 1 LIMIT %s OFFSET %s
        )
        SELECT (array_agg(facts ORDER BY origin DESC, received_at, sop_instance_uid))[1], modalities, series, instances
        FROM instance i JOIN hit USING (study_instance_uid) JOIN LATERAL ({_COUNTS}) c ON true
        WHERE {{seen}}
        GROUP BY study_instance_uid, modalities, series, instances
        ORDER BY max(facts ->> 'study_date') DESC NULLS LAST, study_instance_uid
    """,
    "series": f"""
        WITH hit AS (
            SELECT study_instance_uid, series_instance_uid FROM instance i WHERE {{where}} GROUP BY 1, 2
            ORDER BY study_instance_uid, min((facts ->> 'series_number')::bigint) NULLS LAST, 2 LIMIT %s OFFSET %s
        )
        SELECT (array_agg(facts ORDER BY received_at, sop_instance_uid))[1], modalities, series, count(*)
        FROM instance i JOIN hit USING (study_instance_uid, series_instance_uid) JOIN LATERAL ({_COUNTS}) c ON true
        WHERE {{seen}}
        GROUP BY study_instance_uid, series_instance_uid, modalities, series
        ORDER BY study_instance_uid, min((facts ->> 'series_number')::bigint) NULLS LAST, series_instance_uid
    """,
    "instance": """
        SELECT facts, ARRAY[facts ->> 'modality'], 0, 0 FROM instance i WHERE {where}
        ORDER BY study_instance_uid, (facts ->> 'series_number')::bigint NULLS LAST, series_instance_uid,
                 (facts ->> 'instance_number')::bigint NULLS LAST, sop_instance_uid
        LIMIT %s OFFSET %s
    """,
}


@dataclass(frozen=True, slots=True)
class Blob:
    """Where an instance lies, and what it is."""

    sop_instance_uid: str
    transfer_syntax_uid: str
    key: str


async def blobs_of(
    conn: Connection,
    reader: Reader,
    study_instance_uid: str,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    *,
    part: Part | None = None,
) -> tuple[Blob, ...]:
    """The instances of a study, of one of its series, or the one instance, by series and instance number.

    `part` is as for `find`.
    """
    seen = _within(reader, part)
    where, values = [f"({seen.sql})"], list(seen.args)
    where.append("study_instance_uid = %s")
    values.append(study_instance_uid)
    for column, uid in (("series_instance_uid", series_instance_uid), ("sop_instance_uid", sop_instance_uid)):
        if uid is not None:
            where.append(f"{column} = %s")
            values.append(uid)
    rows = await conn.execute(
        f"""SELECT sop_instance_uid, transfer_syntax_uid, blob_key FROM instance i WHERE {" AND ".join(where)}
            ORDER BY (facts ->> 'series_number')::bigint NULLS LAST, series_instance_uid,
                     (facts ->> 'instance_number')::bigint NULLS LAST, sop_instance_uid""",
        values,
    )
    return tuple(Blob(*row) for row in await rows.fetchall())


def _within(reader: Reader, part: Part | None) -> Part:
    """Raises Forbidden."""
    if part is None:
        reader.require("r", "ImagingStudy")
    return part or _ALL
