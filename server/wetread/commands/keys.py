"""keys: those under which id_tokens are signed."""

from __future__ import annotations

import typer

from wetread import app as composition
from wetread.commands.options import Config, DataDir, settings_of, within
from wetread.domain.reader import Reader
from wetread.record.audit import audit
from wetread.store.database import Connection

keys = typer.Typer(help="Keys that id_tokens are signed with.", no_args_is_help=True)


@keys.command("rotate")
def rotate(config: Config = None, data_dir: DataDir = None) -> None:
    """Sign with a new key from now on. The one until now stays published, so that what it signed still counts."""
    signing = composition.signing_keys(settings_of(config, data_dir))

    async def change(conn: Connection, reader: Reader) -> str:
        kid = signing.rotate()
        detail = {"what": "key of id_tokens", "kid": kid}
        await audit.write(conn, audit.AuditEntry("configuration-changed", "U", "0", reader.principal, detail=detail))
        return kid

    typer.echo(within(config, data_dir, change))
