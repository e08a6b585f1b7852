"""The inbox of HL7v2 messages: every message as it came, our verdict, and how far it has got.

States: accepted (answered AA, not mapped yet), mapped, error (accepted, but its mapping failed: waits for a mended map
and a replay), refused (answered AE or AR). Messages that share a lane (patient or order) are mapped in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from wetread.domain.reader import Reader
from wetread.errors import Conflict, Forbidden, NotFound
from wetread.store.database import Connection

STAFF = frozenset({"administrator", "engineer", "system"})


@dataclass(frozen=True, slots=True)
class NewMessage:
    peer: str
    listener: str
    sending_application: str
    sending_facility: str
    control_id: str
    message_type: str
    version: str
    digest: bytes
    size_bytes: int
    raw: bytes
    verdict: str
    answer: bytes
    lanes: tuple[str, ...]
    error: str | None


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """A message as staff see it, without its content."""

    id: int
    received_at: datetime
    peer: str
    sending_application: str
    sending_facility: str
    control_id: str
    message_type: str
    version: str
    size_bytes: int
    verdict: str
    state: str
    attempts: int
    error: str | None


_ENTRY = """
    id, received_at, peer, sending_application, sending_facility, control_id, message_type, version, size_bytes,
    verdict, state, attempts, error
"""


async def stored_answer(
    conn: Connection, sending_application: str, sending_facility: str, control_id: str, digest: bytes
) -> bytes | None:
    """The answer that an accepted message got when it came first; None for a message that is new or was refused."""
    row = await (
        await conn.execute(
            """
            SELECT answer FROM hl7_message
             WHERE sending_application = %s AND sending_facility = %s AND control_id = %s AND digest = %s
               AND verdict = 'AA'
            """,
            (sending_application, sending_facility, control_id, digest),
        )
    ).fetchone()
    return None if row is None else bytes(row[0])


async def keep(conn: Connection, message: NewMessage) -> int | None:
    """Keeps a message with its verdict; None when the same accepted message came in the same moment elsewhere."""
    state = "accepted" if message.verdict == "AA" else "refused"
    row = await (
        await conn.execute(
            """
            INSERT INTO hl7_message (peer, listener, sending_application, sending_facility, control_id, message_type,
                                     version, digest, size_bytes, raw, verdict, answer, state, lanes, error)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT DO NOTHING RETURNING id
            """,
            (
                message.peer,
                message.listener,
                message.sending_application,
                message.sending_facility,
                message.control_id,
                message.message_type,
                message.version,
                message.digest,
                message.size_bytes,
                message.raw,
                message.verdict,
                message.answer,
                state,
                list(message.lanes),
                message.error,
            ),
        )
    ).fetchone()
    return None if row is None else int(row[0])


async def kept_bytes_today(conn: Connection, host: str) -> int:
    """How much of oversize and torn messages of a sender's address is kept from the last 24 hours."""
    row = await (
        await conn.execute(
            """
            SELECT coalesce(sum(octet_length(raw)), 0) FROM hl7_message
             WHERE state = 'refused' AND (size_bytes > octet_length(raw) OR answer = '')
               AND received_at > now() - interval '1 day'
               AND split_part(peer, ' ', 1) LIKE %s || ':%%'
            """,
            (host,),
        )
    ).fetchone()
    return int(row[0]) if row else 0


async def claim(conn: Connection) -> tuple[int, bytes] | None:
    """The oldest message that no earlier one of its lanes holds up, locked for this transaction."""
    row = await (
        await conn.execute(
            """
            SELECT m.id, m.raw FROM hl7_message m
             WHERE m.state = 'accepted'
               AND NOT EXISTS (SELECT 1 FROM hl7_message e
                                WHERE e.id < m.id AND e.state IN ('accepted', 'error') AND e.lanes && m.lanes)
             ORDER BY m.id LIMIT 1 FOR UPDATE OF m SKIP LOCKED
            """
        )
    ).fetchone()
    return None if row is None else (int(row[0]), bytes(row[1]))


async def settle(conn: Connection, message_id: int, error: str | None = None) -> None:
    """Marks a claimed message mapped, or in error with what went wrong."""
    await conn.execute(
        """
        UPDATE hl7_message SET state = %s, error = %s, attempts = attempts + 1, settled_at = now()
         WHERE id = %s AND state = 'accepted'
        """,
        ("mapped" if error is None else "error", error, message_id),
    )


async def raw(conn: Connection, reader: Reader, message_id: int) -> bytes:
    """The message as it came (the first 64 kB of one that was too large). Raises NotFound, Forbidden."""
    _require_staff(reader)
    row = await (await conn.execute("SELECT raw FROM hl7_message WHERE id = %s", (message_id,))).fetchone()
    if row is None:
        raise NotFound("no message has this number")
    return bytes(row[0])


async def entries(conn: Connection, reader: Reader, states: Sequence[str], limit: int) -> list[InboxEntry]:
    """The newest messages in these states; all states where none is named."""
    _require_staff(reader)
    async with conn.cursor(row_factory=class_row(InboxEntry)) as cursor:
        await cursor.execute(
            f"SELECT {_ENTRY} FROM hl7_message WHERE state = ANY(%s) OR %s ORDER BY id DESC LIMIT %s",
            (list(states), not states, limit),
        )
        return await cursor.fetchall()


async def replay(conn: Connection, reader: Reader, message_id: int) -> None:
    """Puts a message in error back to be mapped. Raises NotFound, and Conflict for one that is not in error."""
    _require_staff(reader)
    row = await (
        await conn.execute(
            "UPDATE hl7_message SET state = 'accepted', error = NULL WHERE id = %s AND state = 'error' RETURNING id",
            (message_id,),
        )
    ).fetchone()
    if row is None:
        await raw(conn, reader, message_id)
        raise Conflict(
            "only a message in error can be replayed; a mapped one has taken effect, a refused one must be sent again"
        )


def _require_staff(reader: Reader) -> None:
    if not reader.roles & STAFF:
        raise Forbidden("HL7v2 messages are shown to the roles administrator and engineer only")
