"""What a command shows: tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

_WHOLE = ("id", "run", "control id", "model", "client", "name")
"""Columns that a person copies from: never broken."""
_WIDE = 400


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """As wide as its content where output is not a terminal, so that other programs can read it."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        shown.add_column(column, no_wrap=column in _WHOLE, overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(value) for value in row))
    console = Console()
    (console if console.is_terminal else Console(width=_WIDE)).print(shown)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%S}" if hasattr(value, "strftime") else str(value)
