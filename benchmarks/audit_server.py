"""One process that serves FHIR, or the same with nothing put on record: for `benchmarks.audit`.

python -m benchmarks.audit_server DATABASE_URL PORT FOLDER audited|unaudited|sequencer
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from wetread import app as composition
from wetread.api import fhir_audit, fhir_reads
from wetread.api.every_request import EveryRequest
from wetread.record.events import Sequencer
from wetread.settings import load


async def _unrecorded(*_: object, **__: object) -> None:
    """In the place of what writes an AuditEvent."""


async def _passed(self: EveryRequest, scope: Scope, receive: Receive, send: Send) -> None:
    await self._app(scope, receive, send)


async def main(url: str, port: int, folder: Path, audited: bool) -> None:
    if not audited:
        fhir_audit.Visit.record = _unrecorded  # type: ignore[method-assign]
        fhir_reads.Reads._recorded = _unrecorded  # type: ignore[method-assign]
        EveryRequest.__call__ = _passed  # type: ignore[method-assign]
    settings = load(None, {"data_dir": folder, "http": {"port": port}})
    async with composition.house(settings, url, ["http"]) as built:
        config = uvicorn.Config(composition.web_app(built), port=port, log_config=None, access_log=False)
        await uvicorn.Server(config).serve()


async def sequence(url: str, folder: Path) -> None:
    """What numbers events and chains the record beside it, in a process of its own."""
    settings = load(None, {"data_dir": folder})
    async with composition.house(settings, url, ["notify"]) as built:
        await Sequencer(built.database).run(asyncio.Event())


if __name__ == "__main__":
    given_url, given_port, given_folder, mode = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if mode == "sequencer":
            runner.run(sequence(given_url, Path(given_folder)))
        else:
            runner.run(main(given_url, int(given_port), Path(given_folder), mode == "audited"))
