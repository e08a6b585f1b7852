"""How much one page of results holds."""

from __future__ import annotations

from typing import LiteralString

PAGE_BYTES = 4 * 1024 * 1024
"""Of the texts on one page, the last of which may go beyond."""
MOST_BYTES = 32 * 1024 * 1024
"""Of what cannot be parted: one match with what it includes."""


def cut(sql: LiteralString) -> LiteralString:
    """The rows of an ordered query, up to and with the one whose `body` reaches a number of bytes; that is an argument
    after those of the query.

    After its columns come `held`, how many rows there were before the cut, and `before`, the bytes of those before
    this one. `octet_length` is known without reading what is stored out of line.
    """
    return (
        "SELECT * FROM (SELECT listed.*, count(*) OVER () AS held,"
        " sum(octet_length(listed.body)) OVER (ROWS UNBOUNDED PRECEDING) - octet_length(listed.body) AS before"
        " FROM (" + sql + ") listed) part WHERE before < %s"
    )
