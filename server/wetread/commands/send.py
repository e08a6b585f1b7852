"""send hl7, send dicom: being a sender, for trying a server out."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated

import typer

from wetread.commands.options import Config, DataDir, settings_of
from wetread.errors import InvalidInput, Refused
from wetread.outbound import dicom, mllp
from wetread.wire.hl7_batch import split_batch

send = typer.Typer(help="Send messages and images to any listener.", no_args_is_help=True)


@send.command("hl7")
def send_hl7(
    files: Annotated[list[Path], typer.Argument(help="Files of one message or a batch each.", exists=True)],
    to: Annotated[str, typer.Option("--to", help="host:port of an MLLP listener. Default: our own.")] = "",
    timeout_s: Annotated[float, typer.Option(help="How long to wait for each acknowledgement.")] = 30.0,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Send HL7v2 messages over MLLP, one after the other, and print each acknowledgement."""
    own = settings_of(config, data_dir).mllp
    host, port = _address(to) if to else (own.host, own.port)
    refused = 0
    for file in files:
        for message in split_batch(file.read_bytes()):
            try:
                ack = asyncio.run(mllp.send(host, port, message, timeout_s=timeout_s))
                typer.echo(f"{file.name}: {ack.code} {ack.control_id} {ack.text}".rstrip())
            except Refused as error:
                refused += 1
                typer.echo(f"{file.name}: {error.message}", err=True)
    if refused:
        raise typer.Exit(1)


@send.command("dicom")
def send_dicom(
    folder: Annotated[Path, typer.Argument(help="A folder of DICOM files, or one file.", exists=True)],
    to: Annotated[str, typer.Option("--to", help="AET@host:port of a DICOM listener. Default: our own.")] = "",
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "WETREAD-SCU",
    timeout_s: Annotated[float, typer.Option(help="How long to wait for each answer.")] = 60.0,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Send DICOM instances by C-STORE."""
    own = settings_of(config, data_dir).dicom
    called_ae, at, address = to.rpartition("@")
    if to and not at:
        raise InvalidInput(f"not a DICOM address: {to!r}; expected AET@host:port")
    host, port = _address(address) if to else (own.host, own.port)
    called_ae = called_ae or own.ae_title
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
    dicom.send(
        [file.read_bytes() for file in files],
        host=host,
        port=port,
        called_ae=called_ae,
        calling_ae=calling,
        timeout_s=timeout_s,
    )
    typer.echo(f"{len(files)} instances stored by {called_ae}")


def _address(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[.+\]|[^:]+):(\d+)", text)
    if not found:
        raise InvalidInput(f"not an address: {text!r}; expected host:port")
    return found.group(1).strip("[]"), int(found.group(2))
