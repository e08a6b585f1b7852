"""One driver, psycopg 3, and one connection per unit of work.

`transaction()` is the unit of work: domain rows, FHIR versions, events, audit rows and the next job commit or roll
back together on the connection that it yields.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from wetread.errors import Contended, Misconfigured, OutOfSpace, StoreUnavailable

SyncConnection: TypeAlias = psycopg.Connection[TupleRow]
T = TypeVar("T")


class Connection(psycopg.AsyncConnection[TupleRow]):
    """One unit of work."""

    bases: tuple[str, ...] = ()
    """What the world calls this server's record, without closing slashes: a reference that begins so stays here."""


_MINIMUM_VERSION = 140000
_RECONNECT_S = 5.0
"""A pool tries so long, ever more slowly, then anew when next asked: so it is soon back after a long outage."""
_OPEN_S = _RECONNECT_S + 1.0
"""No longer, since nobody asks a pool that is being opened; whoever runs the process starts it again."""


_SOON_KNOWN_LOST = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}
"""In s, the last in ms: a host that is gone without a word, as at a failover, is given up after 20 s and not after a
quarter of an hour. What the operator's address says goes before."""
_IN_UTC = "SET TIME ZONE 'UTC'"  # the first year of our era has no form in a zone west of Greenwich
_ATTEMPTS = 6
_PAUSE_S = 0.02
"""Before the second attempt, on average; doubled before each one after."""


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """Turns a database that is away or full into our own passing errors; every other fault stays what it is.

    For whoever uses a connection outside `transaction`.
    """
    try:
        yield
    except pg.DiskFull as error:
        raise OutOfSpace("the database has no space left; free space and send again") from error
    except (pg.DeadlockDetected, pg.SerializationFailure) as error:
        raise Contended("others change the same things at this moment; send again") from error
    except (PoolTimeout, psycopg.OperationalError) as error:
        raise StoreUnavailable("the database does not answer; send again later") from error
    except Exception as error:
        # The job engine wraps what the driver raises.
        if isinstance(error.__cause__, psycopg.OperationalError):
            raise StoreUnavailable("the database does not answer; send again later") from error
        raise


def _check(conn: psycopg.Connection[TupleRow] | psycopg.AsyncConnection[TupleRow]) -> None:
    """Finds a connection that the server has closed, without a round trip: the pool then gives another."""
    conn.pgconn.consume_input()


async def _check_async(conn: Connection) -> None:
    _check(conn)


def _in_utc(conn: SyncConnection) -> None:
    conn.execute(_IN_UTC)
    conn.commit()


def _address(url: str) -> str:
    return make_conninfo("", **{**_SOON_KNOWN_LOST, **conninfo_to_dict(url)})


class Database:
    """The async pool. Open it once per process; hand it to whoever needs a unit of work.

    `bases` is what its connections know of the server's own addresses (`Connection.bases`).
    """

    def __init__(self, url: str, *, bases: Sequence[str] = (), max_connections: int = 10, wait_s: float = 10.0) -> None:
        self.url = url
        self.bases = tuple(bases)
        self.pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            _address(url),
            connection_class=Connection,
            min_size=1,
            max_size=max_connections,
            open=False,
            timeout=wait_s,
            name="wetread",
            check=_check_async,
            configure=self._made,
            reconnect_timeout=_RECONNECT_S,
        )

    async def _made(self, conn: Connection) -> None:
        """Autocommit, so that `statements` costs one round trip; a `transaction` begins and commits by itself."""
        conn.bases = self.bases
        await conn.set_autocommit(True)
        await conn.execute(_IN_UTC)

    async def open(self) -> None:
        """Opens the pool. Raises StoreUnavailable, or Misconfigured when the server would not keep its promises."""
        with own_errors():
            await self.pool.open(wait=True, timeout=_OPEN_S)
        async with self.transaction() as conn:
            await _check_promises(conn)

    async def close(self) -> None:
        await self.pool.close()

    async def alone(self, application_name: str) -> Connection:
        """A connection outside of the pool, for who listens or holds a lock; each statement is a unit of work."""
        conn = await Connection.connect(_address(self.url), autocommit=True, application_name=application_name)
        conn.bases = self.bases
        return conn

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One unit of work: committed when the block ends, rolled back when it raises."""
        with own_errors():
            async with self.pool.connection() as conn, conn.transaction():
                yield conn

    @contextlib.asynccontextmanager
    async def statements(self) -> AsyncIterator[Connection]:
        """A connection on which each statement is a unit of work of its own: one round trip in place of three.

        For reading: what belongs together goes into `transaction`.
        """
        with own_errors():
            async with self.pool.connection() as conn:
                yield conn

    async def retried(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """`work` as a unit of work of its own; again, a few times, where another's was in its way.

        For work whose only effects are in the database. Raises Contended when no attempt came through.
        """
        for attempt in range(_ATTEMPTS):
            try:
                async with self.transaction() as conn:
                    return await work(conn)
            except Contended:
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(random.uniform(0, 2 * _PAUSE_S * 2**attempt))  # noqa: S311
        raise AssertionError


class SyncDatabase:
    """The same for code that lives in threads: the DIMSE receiver."""

    def __init__(self, url: str, *, max_connections: int = 10, wait_s: float = 10.0) -> None:
        self.pool: ConnectionPool[SyncConnection] = ConnectionPool(
            _address(url),
            min_size=1,
            max_size=max_connections,
            open=False,
            timeout=wait_s,
            name="wetread-sync",
            check=_check,
            configure=_in_utc,
            reconnect_timeout=_RECONNECT_S,
        )

    def open(self) -> None:
        with own_errors():
            self.pool.open(wait=True, timeout=_OPEN_S)

    def close(self) -> None:
        self.pool.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[SyncConnection]:
        """One unit of work: committed when the block ends, rolled back when it raises."""
        with own_errors(), self.pool.connection() as conn, conn.transaction():
            yield conn


async def _check_promises(conn: Connection) -> None:
    """An acknowledgement means durable, so a server that does not flush its log is refused at start."""
    version = conn.info.server_version
    if version < _MINIMUM_VERSION:
        raise Misconfigured(f"PostgreSQL 14 or later is needed; database_url leads to {version // 10000}")
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        row = await (await conn.execute("SELECT current_setting(%s)", (setting,))).fetchone()
        if row is None or row[0] == "off":
            raise Misconfigured(f"PostgreSQL runs with {setting}=off: what is acknowledged would not be durable")
