"""People and clients share one set of names, so that an audit record that names one cannot mean the other."""

from __future__ import annotations

from wetread.errors import Conflict
from wetread.store.database import Connection

RESERVED = frozenset({"anonymous", "system", "wetread"})
"""Principals of Wetread's own."""
OPERATOR = "operator:"
"""What the name of who works on the machine itself begins with; no person's and no client's does."""
_LOCK = 0x574E4D53


def is_of_this_machine(name: str) -> bool:
    """Whether a principal is neither a person nor a client, but Wetread or the operator of its machine."""
    return name in RESERVED - {"anonymous"} or name.startswith(OPERATOR)


async def require_free(conn: Connection, name: str) -> None:
    """Until the end of the transaction nobody else takes a name. Raises Conflict where this one is taken."""
    await conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    taken = await conn.execute(
        "SELECT FROM client WHERE client_id = %s UNION ALL SELECT FROM account WHERE name = %s", (name, name)
    )
    if name in RESERVED or taken.rowcount:
        raise Conflict("a person or client of this name exists")
