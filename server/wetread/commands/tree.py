"""The command line, as one tree."""

from __future__ import annotations

import typer

from wetread import __version__
from wetread.commands import audit, clients, demo, keys, operate, people, send, serve, subscriptions, views

cli = typer.Typer(
    name="wetread",
    help="Clinical integration server for imaging AI: HL7v2 orders and DICOM studies in, ONNX models read them, "
    "and FHIR, DICOM SR and SEG, and HL7v2 alerts go out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
cli.command()(serve.serve)
cli.command()(demo.demo)
cli.command("check-config")(serve.check_config)
cli.command()(serve.token)
cli.add_typer(send.send, name="send")
cli.add_typer(operate.messages, name="messages")
cli.add_typer(operate.study, name="studies")
cli.add_typer(operate.models, name="models")
cli.add_typer(operate.deliveries, name="deliveries")
cli.add_typer(subscriptions.subscription, name="subscription")
cli.add_typer(audit.trail, name="audit")
cli.add_typer(views.views, name="views")
cli.add_typer(clients.client, name="client")
cli.add_typer(people.user, name="user")
cli.add_typer(keys.keys, name="keys")
db = typer.Typer(help="The database.", no_args_is_help=True)
db.command("upgrade")(serve.upgrade)
db.command("reindex")(serve.reindex)
cli.add_typer(db, name="db")


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
