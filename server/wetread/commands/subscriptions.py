"""subscription list, show, off, restart: beside a running server, whose notify role does the rest."""

from __future__ import annotations

from typing import Annotated

import typer

from wetread.commands.options import Config, DataDir, Limit, within
from wetread.commands.printing import table
from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record.audit import audit
from wetread.record.subscriptions import overview, switching
from wetread.record.subscriptions.overview import Overview, ToldEvent
from wetread.store.database import Connection

subscription = typer.Typer(help="Subscriptions: lag, failures, and what can be done about them.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The id of the Subscription.")]


@subscription.command("list")
def list_subscriptions(
    state: Annotated[
        list[str] | None,
        typer.Option(help=f"Only those in this state; may be given again: {', '.join(overview.STATES)}."),
    ] = None,
    limit: Limit = 50,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Subscriptions, worst first: in error, failing, then by what waits. Lag is in seconds."""
    if unknown := sorted(set(state or ()) - set(overview.STATES)):
        raise InvalidInput(f"no such state: {', '.join(unknown)}; there are {', '.join(overview.STATES)}")

    async def listed(conn: Connection, reader: Reader) -> list[Overview]:
        await _note(conn, reader, {"command": "subscription list"})
        return await overview.subscriptions(conn, reader, limit, state or ())

    found = within(config, data_dir, listed)
    table(
        ("id", "state", "tells of", "goes to", "owner", "delivered", "numbered", "lag", "failures", "last error"),
        [
            (
                one.id,
                one.status,
                one.topic.rpartition("/")[2] or one.criteria,
                f"{one.kind} {one.host}".strip(),
                one.owner,
                one.delivered,
                one.numbered,
                round(one.lag_s) if one.pending else "",
                one.failures,
                one.error,
            )
            for one in found
        ],
    )


@subscription.command("show")
def show_subscription(id: Id, limit: Limit = 20, config: Config = None, data_dir: DataDir = None) -> None:
    """One subscription: how far it has come, what is wrong, and the events about what goes out next."""

    async def shown(conn: Connection, reader: Reader) -> tuple[Overview, list[ToldEvent]]:
        one = await overview.subscription(conn, reader, id)
        await _note(conn, reader, {"command": "subscription show", "subscription": id})
        return one, await overview.events_about(conn, reader, one, limit)

    one, events = within(config, data_dir, shown)
    for label, value in (
        ("state", one.status + (f" since {one.since:%Y-%m-%d %H:%M:%S %Z}" if one.since else "")),
        ("tells of", one.topic or one.criteria),
        ("goes to", f"{one.kind} {one.host}".strip() + (f", payload {one.content}" if one.content else "")),
        ("owner", one.owner + (f" through {one.client}" if one.client not in ("", one.owner) else "")),
        ("events", f"{one.numbered} numbered, {one.delivered} delivered, {one.pending} waiting"),
        ("lag", f"{one.lag_s:.0f} s" if one.pending else "-"),
        ("failures", f"{one.failures} since one succeeded" if one.failures else "-"),
        ("last error", one.error or "-"),
        ("next attempt", f"{one.due_at:%Y-%m-%d %H:%M:%S %Z}" if one.failures and one.due_at else "-"),
        ("last delivery", f"{one.last_sent_at:%Y-%m-%d %H:%M:%S %Z}" if one.last_sent_at else "-"),
    ):
        typer.echo(f"{label + ':':16}{value}")
    table(
        ("number", "at", "what", "of", "outcome"),
        [
            (e.number, e.at, e.kind, f"{e.resource_type}/{e.resource_id}/_history/{e.version_id}", e.outcome)
            for e in events
        ],
    )


@subscription.command("off")
def switch_off(id: Id, config: Config = None, data_dir: DataDir = None) -> None:
    """Switch a subscription off: nothing goes out, no event is counted any more. Its client sees it."""

    async def switched(conn: Connection, reader: Reader) -> None:
        await audit.write(conn, await switching.switch_off(conn, reader, id))

    within(config, data_dir, switched)
    typer.echo(f"{id} is off")


@subscription.command("restart")
def restart(id: Id, config: Config = None, data_dir: DataDir = None) -> None:
    """Ask for a subscription again: a new handshake, then everything that was not delivered."""

    async def asked(conn: Connection, reader: Reader) -> None:
        await audit.write(conn, await switching.ask_again(conn, reader, id))

    within(config, data_dir, asked)
    typer.echo(f"{id} is asked for again; `wetread subscription show {id}` tells how that went")


async def _note(conn: Connection, reader: Reader, detail: dict[str, str]) -> None:
    entry = audit.AuditEntry(kind="page-viewed", action="R", outcome="0", principal=reader.principal, detail=detail)
    await audit.write(conn, entry)
