"""Log lines: one form for ours and those of the libraries, and no content of messages or resources."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from typing import Any

import structlog
import structlog.typing

from wetread.errors import WetreadError
from wetread.settings import Settings

logger = logging.getLogger(__name__)


def set_up_logging(settings: Settings) -> None:
    """Log lines of our own and of the libraries, in one form. Neither SQL nor payloads are ever logged."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _describe_exception,
    ]
    last = (
        structlog.processors.JSONRenderer()
        if settings.log.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
        )
    )
    # pydicom's warnings quote the values that they warn of.
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log.level)
    for chatty in (
        "procrastinate",
        "psycopg.pool",
        "alembic",
        "httpx",
        "pynetdicom",
        "pydicom",
        "uvicorn",
        "highdicom",
    ):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)


def _describe_exception(logger: object, name: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Types and places only, from the cause on: the text of an unknown exception may hold patient data."""
    error = sys.exc_info()[1] if line.get("exc_info") is True else (line.get("exc_info") or (None, None))[1]
    line.pop("exc_info", None)
    told: list[str] = []
    while error is not None:
        said = f": {error.message}" if isinstance(error, WetreadError) else ""
        places = traceback.extract_tb(error.__traceback__)
        told = [f"{type(error).__name__}{said}", *(f"  {p.filename}:{p.lineno} in {p.name}" for p in places), *told]
        error = error.__cause__ or error.__context__
    if told:
        line["exception"] = "\n".join(told)
    return line


def log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's own way would print the exception's text."""
    error = context.get("exception")
    logger.error("%s", context["message"], exc_info=(type(error), error, error.__traceback__) if error else None)
