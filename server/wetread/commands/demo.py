"""demo: the main job played from end to end."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import to_jsonable_python

from wetread.commands.options import Config, DataDir
from wetread.commands.serve import issue_token
from wetread.demo.play import TOKEN_LIFETIME, play, stage
from wetread.settings import load, read, share_dir


def demo(
    output: Annotated[Path, typer.Option(help="The folder for what comes out; emptied first.")] = Path("demo-output"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server up afterwards.")] = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Play real orders and real studies through a server of its own, and show what comes out.

    The data are open and licensed (demo/README.md); the models are for research, one is synthetic, and every output
    is marked DEMO. Nothing leaves this machine: ports and destinations are the demonstration's own, whatever --config
    says of them. Data are kept in the output folder unless --data-dir names another place.
    """
    site = to_jsonable_python(read(config)) if config else {}
    on = stage(output.resolve(), share_dir() / "demo", data_dir.resolve() if data_dir else None, site)

    def make_token(config: Path) -> str:
        settings = load(config, {"data_dir": on.data})
        return issue_token(settings, "system/*.cruds", ["administrator"], TOKEN_LIFETIME)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(play(on, make_token, _say, keep=keep))


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()
