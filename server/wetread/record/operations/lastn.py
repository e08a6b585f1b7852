"""Observation/$lastn: the newest observations of each code (FHIR R4 observation-operation-lastn.html)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, TooCostly
from wetread.record.compartment import patients_of, visible
from wetread.record.condition import Condition, all_of
from wetread.record.cursors import OF_THIS_PROCESS, Cursors
from wetread.record.operations.input import Given
from wetread.record.operations.pages import Page, bundle
from wetread.record.page import PAGE_BYTES, cut
from wetread.record.search.plan import MOST_COUNT
from wetread.record.search.query import matching
from wetread.record.search.searchset import entry
from wetread.record.versions import Version
from wetread.store.database import Connection

MOST_OF_A_CODE = 1000
_MOST_OBSERVATIONS = 100_000
_SUBJECTS = ("patient", "subject")
_CANDIDATES = """
    SELECT r.key, d.low AS at, coalesce(c.codes, ARRAY[E'text\\n' || (r.body::jsonb #>> '{code,text}')]) AS codes
    FROM resource r
    LEFT JOIN LATERAL (
        SELECT min(low) AS low FROM index_date WHERE resource_key = r.key AND param = 'date'
    ) d ON TRUE
    LEFT JOIN LATERAL (
        SELECT array_agg(DISTINCT system || E'\\n' || code) AS codes FROM index_token
        WHERE resource_key = r.key AND param = 'code' AND code <> ''
    ) c ON TRUE
    WHERE r.resource_type = 'Observation' AND NOT r.deleted AND
"""
_BODIES: LiteralString = """
    SELECT resource_type, id, version_id, last_updated, body, deleted, array_position(%s::bigint[], key) FROM resource
    WHERE key = ANY (%s) AND NOT deleted ORDER BY array_position(%s::bigint[], key)
"""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """`at` is when the observed time began; `codes` has one text for each coding, None where there is no code."""

    key: int
    at: datetime | None
    codes: list[str | None]


async def lastn(
    conn: Connection, reader: Reader, given: Given, base_url: str, *, cursors: Cursors = OF_THIS_PROCESS
) -> Page:
    """One page of the newest `max` observations of each code, the newest first; those of equal time go together.

    Raises Forbidden, InvalidInput where no patient or subject is named and for a bad search parameter, TooCostly.
    """
    reader.require_some("s", "Observation")
    most = given.number("max", 1)
    if most > MOST_OF_A_CODE:
        raise InvalidInput(f"max is at most {MOST_OF_A_CODE}", location="http.max")
    if not any(name.partition(":")[0].partition(".")[0] in _SUBJECTS for name, _ in given.search):
        raise InvalidInput("name a patient or a subject, whose observations are meant", location="http.patient")
    filters = [(n, v) for n, v in given.search if n != "_count"]
    count = _count([v for n, v in given.search if n == "_count"])

    params = [("max", str(most)), *given.search]
    url = f"{base_url}/Observation/$lastn"
    newest, skipped = cursors.opened(reader, url, params, given.cursor) if given.cursor else (0, 0)
    where = all_of(
        [
            visible(reader, "Observation", "s"),
            await matching(conn, reader, "Observation", filters, base_url),
            *([Condition("r.key <= %s", (newest,))] if newest else []),
        ]
    )
    candidates = await _candidates(conn, where)
    keys = _last(candidates, most)
    page = keys[skipped : skipped + count]
    newest = newest or max((c.key for c in candidates), default=0)
    rows = await (await conn.execute(cut(_BODIES), (page, page, page, PAGE_BYTES))).fetchall()
    versions = [Version(*row[:6]) for row in rows]
    is_cut = bool(rows) and len(rows) < rows[0][-2]
    reached = skipped + (rows[-1][6] if is_cut else len(page))
    after = cursors.sealed(reader, url, params, [newest, reached]) if reached < len(keys) and count else ""
    entries = (entry(version, base_url, "match") for version in versions)
    return Page(
        bundle(entries, len(keys), url, params, given.cursor, after),
        await patients_of(conn, "Observation", [v.id for v in versions]),
    )


def _count(given: Sequence[str]) -> int:
    if not given:
        return MOST_COUNT
    if not (given[-1].isascii() and given[-1].isdigit() and len(given[-1]) < 10):
        raise InvalidInput("_count is a whole number, 0 or more", location="http._count")
    return min(int(given[-1]), MOST_COUNT)


async def _candidates(conn: Connection, where: Condition) -> list[_Candidate]:
    async with conn.cursor(row_factory=class_row(_Candidate)) as cursor:
        await cursor.execute(
            _CANDIDATES + "(" + where.sql + ") LIMIT %s", (*where.args, _MOST_OBSERVATIONS + 1), prepare=False
        )
        found = await cursor.fetchall()
    if len(found) > _MOST_OBSERVATIONS:
        raise TooCostly(f"more than {_MOST_OBSERVATIONS} observations to choose from; name a category, a code or dates")
    return found


def _last(candidates: Iterable[_Candidate], most: int) -> list[int]:
    """The keys of the newest `most` of each group of codes, and of those as new as the last of them."""
    ordered = sorted(candidates, key=lambda c: (c.at is not None, c.at.timestamp() if c.at else 0, c.key), reverse=True)
    group_of = _groups(ordered)
    taken: dict[str | None, list[datetime | None]] = {}
    keys = []
    for candidate in ordered:
        times = taken.setdefault(group_of[candidate.codes[0]], [])
        if len(times) < most or candidate.at == times[-1]:
            times.append(candidate.at)
            keys.append(candidate.key)
    return keys


def _groups(candidates: Iterable[_Candidate]) -> dict[str | None, str | None]:
    """Each code to the one that stands for its group: codings of one concept mean the same, and so on from concept to
    concept."""
    leader: dict[str | None, str | None] = {}

    def find(code: str | None) -> str | None:
        while leader.setdefault(code, code) != code:
            leader[code] = leader[leader[code]]
            code = leader[code]
        return code

    for candidate in candidates:
        first = find(candidate.codes[0])
        for code in candidate.codes[1:]:
            leader[find(code)] = first
    return {code: find(code) for code in list(leader)}
