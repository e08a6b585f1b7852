"""messages, studies, models, deliveries: looking at a server and helping it on, beside its running."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from wetread import app as composition
from wetread.archive import quarantine
from wetread.commands.options import Config, DataDir, Limit, database_url, opened, operator, settings_of, within
from wetread.commands.printing import table
from wetread.domain.phase import Phase
from wetread.domain.reader import Reader
from wetread.errors import NotFound
from wetread.governance import display, phases
from wetread.governance.display import Display
from wetread.reading import inbox, outbox, runs, studies, worklist
from wetread.reading.completion import declare_complete
from wetread.reading.joining import Joining
from wetread.record.audit import audit
from wetread.settings import Settings
from wetread.store.database import Connection
from wetread.work.jobs import Payload, Work

messages = typer.Typer(
    help="HL7v2 messages: what came, what we answered, what waits in the error list.", no_args_is_help=True
)
study = typer.Typer(help="Studies: how far each has come, and why.", no_args_is_help=True)
models = typer.Typer(help="Models and their phases: silent, concurrent, active.", no_args_is_help=True)
deliveries = typer.Typer(help="What left, what waits, and the dead letters.", no_args_is_help=True)

States = Annotated[list[str] | None, typer.Option("--state", help="Only this state; may be given again.")]


@messages.command("list")
def list_messages(state: States = None, limit: Limit = 50, config: Config = None, data_dir: DataDir = None) -> None:
    """The newest messages: accepted, mapped, error (accepted, not mapped), refused."""
    found = within(config, data_dir, lambda conn, reader: inbox.entries(conn, reader, state or (), limit))
    table(
        ("id", "received", "from", "control id", "type", "answer", "state", "error"),
        [
            (m.id, m.received_at, m.sending_application, m.control_id, m.message_type, m.verdict, m.state, m.error)
            for m in found
        ],
    )


@messages.command("show")
def show_message(message_id: int, config: Config = None, data_dir: DataDir = None) -> None:
    """A message as it came, byte for byte, on standard output. It holds patient data; the showing is audited."""

    async def show(conn: Connection, reader: Reader) -> bytes:
        content = await inbox.raw(conn, reader, message_id)
        await _note(conn, reader, "page-viewed", {"message": str(message_id)})
        return content

    sys.stdout.buffer.write(within(config, data_dir, show).replace(b"\r", b"\n") + b"\n")


@messages.command("replay")
def replay_message(message_id: int, config: Config = None, data_dir: DataDir = None) -> None:
    """Map a message of the error list again, after its map was mended."""

    async def replay(conn: Connection, reader: Reader) -> None:
        await inbox.replay(conn, reader, message_id)
        await _note(conn, reader, "message-replayed", {"message": str(message_id)})

    within(config, data_dir, replay)
    typer.echo(f"message {message_id} will be mapped again")


@study.command("list")
def list_studies(state: States = None, limit: Limit = 50, config: Config = None, data_dir: DataDir = None) -> None:
    """The newest studies: receiving, complete, read, failed."""
    found = within(config, data_dir, lambda conn, reader: studies.newest(conn, reader, state or (), limit))
    table(
        ("id", "last image", "modality", "images", "revision", "state", "order", "why here"),
        [
            (
                s.id,
                s.last_at,
                "/".join(s.modalities),
                s.instance_count,
                s.revision,
                s.state,
                s.match_state,
                worklist.reason(s),
            )
            for s in found
        ],
    )


@study.command("refused")
def list_refused(limit: Limit = 50, config: Config = None, data_dir: DataDir = None) -> None:
    """The newest instances that were refused, by C-STORE or STOW-RS, and why."""
    found = within(config, data_dir, lambda conn, reader: quarantine.refused(conn, reader, limit))
    table(
        ("number", "at", "from", "reason", "what to do", "SOP Instance UID", "bytes", "sha256"),
        [(r.id, r.at, r.source, r.reason, r.message, r.sop_instance_uid, r.size_bytes, r.digest[:12]) for r in found],
    )


@study.command("show")
def show_study(study_id: str, config: Config = None, data_dir: DataDir = None) -> None:
    """One study: its order, its runs, and what keeps it from going on."""

    async def show(conn: Connection, reader: Reader) -> tuple[studies.Study, list[runs.Run]]:
        found = await studies.by_id(conn, reader, study_id)
        await _note(conn, reader, "page-viewed", {"study": study_id})
        every = await runs.of_study(conn, found.study_instance_uid)
        return found, [run for run in every if run.phase.is_released]

    found, every = within(config, data_dir, show)
    for label, value in (
        ("Study Instance UID", found.study_instance_uid),
        ("state", f"{found.state}, revision {found.revision}, {found.instance_count} images"),
        ("complete because", found.completed_why or "-"),
        ("order", f"{found.match_state} {found.service_request_id or ''}".strip()),
        ("match", found.match_reason or "-"),
        ("candidates", ", ".join(found.candidates) or "-"),
        ("Task", found.task_id),
        ("why here", worklist.reason(found)),
    ):
        typer.echo(f"{label + ':':20}{value}")
    table(
        ("run", "model", "version", "revision", "phase", "state", "error"),
        [(r.id, r.model_name, r.model_version, r.revision, r.phase, r.state, r.error) for r in every],
    )


@study.command("complete")
def complete_study(study_id: str, config: Config = None, data_dir: DataDir = None) -> None:
    """Say that all images of a study have arrived, so that it is read now."""

    async def complete(conn: Connection, reader: Reader, work: Work) -> None:
        await declare_complete(conn, reader, work, study_id)
        await _note(conn, reader, "study-completed", {"study": study_id})

    _with_work(config, data_dir, complete)
    typer.echo("the study is complete and will be read")


@study.command("resolve")
def resolve_study(
    study_id: str,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit record.")],
    order: Annotated[
        str | None, typer.Option(help="The ServiceRequest that the study answers; none where left out.")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Decide which order a study answers. What was held back is reported then."""
    settings = settings_of(config, data_dir)

    async def resolve(conn: Connection, reader: Reader, work: Work) -> None:
        found = await studies.by_id(conn, reader, study_id)
        locked = await studies.lock(conn, found.study_instance_uid)
        if locked is None:
            raise NotFound("no study has this id")
        await _joining(settings, work).resolve(conn, reader, locked, order, reason)

    _with_work(config, data_dir, resolve)
    typer.echo("resolved")


@models.command("list")
def list_models(config: Config = None, data_dir: DataDir = None) -> None:
    """Installed models and their phase at this site."""
    settings = settings_of(config, data_dir)
    packages = composition.model_packages(settings)

    async def phases_of(conn: Connection, reader: Reader) -> list[tuple[object, ...]]:
        default = Phase(settings.models.default_phase)
        return [
            (
                p.name,
                p.identity.version,
                p.identity.digest[:12],
                await phases.phase_of(conn, p.name, p.identity.digest, default),
                "SYNTHETIC" if p.identity.synthetic else "",
                p.identity.intended_use,
            )
            for p in packages.values()
        ]

    table(("model", "version", "sha256", "phase", "", "intended use"), within(config, data_dir, phases_of))


@models.command("show")
def show_model(name: str, config: Config = None, data_dir: DataDir = None) -> None:
    """A model's card."""
    package = composition.model_packages(settings_of(config, data_dir)).get(name)
    if package is None:
        raise NotFound("no model has this name")
    typer.echo(package.card)


@models.command("phase")
def change_phase(
    name: str,
    phase: Phase,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit record.")],
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Set a model's phase from now on. Past runs stay as they were."""
    package = composition.model_packages(settings_of(config, data_dir)).get(name)
    if package is None:
        raise NotFound("no model has this name")
    digest = package.identity.digest
    within(config, data_dir, lambda conn, reader: phases.change_phase(conn, reader, name, digest, phase, reason))
    typer.echo(f"{name} is {phase.value}")


@models.command("display")
def change_display(
    name: str,
    how: Display,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit record.")],
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Show a model's findings to people at once, or only when they ask for them. That they asked is recorded."""
    if name not in composition.model_packages(settings_of(config, data_dir)):
        raise NotFound("no model has this name")
    within(config, data_dir, lambda conn, reader: display.change_display(conn, reader, name, how, reason))
    typer.echo(f"{name} is shown {how.value}")


@deliveries.command("list")
def list_deliveries(state: States = None, limit: Limit = 50, config: Config = None, data_dir: DataDir = None) -> None:
    """The newest deliveries: pending, sent, dead."""
    found = within(config, data_dir, lambda conn, reader: outbox.entries(conn, reader, state or (), limit))
    table(
        ("id", "created", "to", "what", "state", "tries", "answer", "last error"),
        [(d.id, d.created_at, d.destination, d.about, d.state, d.attempts, d.answer, d.last_error) for d in found],
    )


@deliveries.command("revive")
def revive_delivery(delivery_id: str, config: Config = None, data_dir: DataDir = None) -> None:
    """Send a dead letter again, the same bytes."""

    async def revive(conn: Connection, reader: Reader, work: Work) -> None:
        if not await outbox.revive(conn, reader, work, delivery_id):
            raise NotFound("no dead delivery has this id")

    _with_work(config, data_dir, revive)
    typer.echo("it will be sent again")


def _with_work(
    config: Path | None, data_dir: Path | None, do: Callable[[Connection, Reader, Work], Awaitable[None]]
) -> None:
    """Like `within`, for what enqueues steps; the running server's workers do them."""
    settings = settings_of(config, data_dir)

    async def nobody(step: str, payload: Payload, error: BaseException) -> None:
        """No step runs in this process."""

    async def run(url: str) -> None:
        async with opened(settings, url) as database:
            work = Work(database, nobody)
            await work.open()
            async with database.transaction() as conn:
                await do(conn, operator(), work)

    with database_url(settings) as url:
        asyncio.run(run(url))


def _joining(settings: Settings, work: Work) -> Joining:
    return Joining(work, timedelta(days=settings.study.propose_window_days), settings.study.match_on_patient)


async def _note(conn: Connection, reader: Reader, kind: str, detail: dict[str, str]) -> None:
    entry = audit.AuditEntry(kind=kind, action="R", outcome="0", principal=reader.principal, detail=detail)
    await audit.write(conn, entry)
