"""The one match of a conditional interaction (FHIR R4 http.html 3.1.0.8.1), and whose turn it is to write for it."""

from __future__ import annotations

from urllib.parse import parse_qsl

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, PreconditionFailed
from wetread.record.reads import find, locked
from wetread.record.versions import Version
from wetread.store.database import Connection


async def only_match(conn: Connection, reader: Reader, resource_type: str, condition: str) -> Version | None:
    """The one resource that a query string matches, None where none does; PreconditionFailed where several do.

    Until the transaction ends nobody else gets an answer for the same condition: who finds nothing may create.
    """
    params = conditions(resource_type, condition)
    await _wait_turn(conn, resource_type, *(f"{name}={value}" for name, value in params))
    return await match(conn, reader, resource_type, condition)


async def match(conn: Connection, reader: Reader, resource_type: str, condition: str) -> Version | None:
    """`only_match` for who will not write what the condition names, and so need not wait."""
    matches = await find(conn, reader, resource_type, conditions(resource_type, condition), most=2)
    if len(matches) > 1:
        raise PreconditionFailed("the condition matches more than one resource; make it more specific")
    return matches[0] if matches else None


async def held_match(conn: Connection, reader: Reader, resource_type: str, condition: str) -> Version | None:
    """`only_match`, and until the transaction ends nobody changes the match, so that it goes on matching."""
    while (found := await only_match(conn, reader, resource_type, condition)) is not None:
        current = await locked(conn, resource_type, found.id)
        if current is not None and current.version_id == found.version_id:
            return current
    return None


def conditions(resource_type: str, condition: str) -> list[tuple[str, str]]:
    """The search parameters of a conditional interaction, in an order of their own. Some clients send the type with
    them, `Patient?identifier=x`. Raises InvalidInput on none."""
    query = condition.removeprefix(f"{resource_type}?").removeprefix("?")
    params = sorted(parse_qsl(query, keep_blank_values=True))
    if not params:
        raise InvalidInput("a conditional interaction needs at least one search parameter")
    return params


async def _wait_turn(conn: Connection, *condition: str) -> None:
    """Holds, until the transaction ends, the one turn at creating under this condition."""
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 3))", ("\x1f".join(condition),))
