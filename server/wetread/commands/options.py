"""What every command takes, and how a command comes by settings and a database."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from wetread.access.names import OPERATOR
from wetread.domain.reader import Reader, Scope
from wetread.errors import InvalidInput
from wetread.record.audit import audit
from wetread.settings import Settings, load
from wetread.store import embedded
from wetread.store.database import Connection, Database

Config = Annotated[
    Path | None,
    typer.Option("--config", help="The TOML file of settings; see wetread.example.toml.", show_default=False),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Where data live: database, blobs, keys. Default: wetread-data.", show_default=False
    ),
]
Limit = Annotated[int, typer.Option("--limit", help="How many at the most.", min=1)]

T = TypeVar("T")


def settings_of(config: Path | None, data_dir: Path | None, **overrides: Any) -> Settings:
    """File, environment and command line in one. Raises Misconfigured."""
    given = {key: value for key, value in overrides.items() if value is not None}
    if data_dir is not None:
        given["data_dir"] = data_dir
    return load(config, given)


@contextlib.contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """The database beside a running server: the named one, or the embedded one, borrowed."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
    else:
        with embedded.borrowed(settings.data_dir) as url:
            yield url


def operator() -> Reader:
    """The local operator: who may read the data directory may do all; every act is audited under their name."""
    scope = Scope("system", "*", frozenset("cruds"))
    return Reader(f"{OPERATOR}{getpass.getuser()}", (scope,), frozenset({"administrator"}))


def within(config: Path | None, data_dir: Path | None, do: Callable[[Connection, Reader], Awaitable[T]]) -> T:
    """Does one thing in one transaction as the local operator."""
    settings = settings_of(config, data_dir)

    async def run(url: str) -> T:
        async with opened(settings, url) as database, database.transaction() as conn:
            return await do(conn, operator())

    with database_url(settings) as url:
        return asyncio.run(run(url))


@contextlib.asynccontextmanager
async def opened(settings: Settings, url: str) -> AsyncIterator[Database]:
    database = Database(url, bases=settings.fhir_bases, max_connections=4)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def duration(text: str) -> timedelta:
    """Raises InvalidInput."""
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if not found:
        raise InvalidInput(f"not a duration: {text!r}; expected e.g. 30m, 1h, 1d")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found.group(2)]
    return timedelta(**{unit: int(found.group(1))})


async def noted(conn: Connection, reader: Reader, kind: str, name: str, detail: Mapping[str, str]) -> None:
    """Puts on record what the operator changed of the person or client of this name."""
    about = audit.Entity(identifier=name, type_code="1" if kind == "account-changed" else "2", role_code="11")
    entry = audit.AuditEntry(
        kind=kind, action="U", outcome="0", principal=reader.principal, entities=(about,), detail=detail
    )
    await audit.write(conn, entry)
