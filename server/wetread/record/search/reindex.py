"""Makes the index anew from the stored resources: after an upgrade that reads them otherwise than the one before."""

from __future__ import annotations

from wetread.record import lossless
from wetread.record.search import index
from wetread.store.database import Connection

_SELECT = """
    SELECT key, resource_type, body FROM resource WHERE key > %s AND NOT deleted ORDER BY key LIMIT %s FOR UPDATE
"""


async def reindex(conn: Connection, *, after: int = 0, most: int = 500) -> int | None:
    """Does the next resources after a key; the last key done, None where there are no more.

    Searches go on meanwhile; call it again, each time in a transaction of its own, with the key that it gave.
    """
    rows = await (await conn.execute(_SELECT, (after, most))).fetchall()
    for key, resource_type, body in rows:
        await index.write(conn, key, resource_type, index.extract(lossless.parse(body), conn.bases), replace=True)
    return int(rows[-1][0]) if rows else None
