"""Brings the database to this version's schema. Alembic walks `store/migrations/`; an advisory lock lets one walk."""

from __future__ import annotations

from pathlib import Path

from alembic import command, op
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

_LOCK = 0x57455452


def upgrade(url: str, revision: str = "head") -> None:
    """Applies every migration up to `revision`, in one transaction. Safe to call from several processes at once."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def script(sql: str) -> None:
    """For a migration: runs SQL statements as they stand, `%` and `:` included."""
    connection = op.get_bind().connection.driver_connection
    assert connection is not None  # noqa: S101
    connection.execute(sql)
