"""serve, check-config, token, db: running a server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import typer

from wetread import app as composition
from wetread import child
from wetread.access.rights import ROLES as PERSON_ROLES
from wetread.commands.options import Config, DataDir, database_url, duration, opened, operator, settings_of
from wetread.commands.weaknesses import weaknesses
from wetread.errors import InvalidInput, Misconfigured, StoreUnavailable
from wetread.logs import set_up_logging
from wetread.mapping import maps
from wetread.mapping.messages import load as messages
from wetread.processes import Child, stop_on_signals, supervise
from wetread.reading import routing
from wetread.record.audit import audit
from wetread.record.search import reindex as reindexing
from wetread.roles import require_certificates
from wetread.settings import ROLES, Role, Settings, share_dir
from wetread.store import embedded, migrate

logger = logging.getLogger(__name__)

_GROUPS: tuple[tuple[Role, ...], ...] = (
    ("http", "mllp"),
    ("work", "notify"),
    ("dicom",),
    ("infer",),
)
"""Which roles share a process: what answers on sockets; what works afterwards; DIMSE threads; the model runtime."""


def serve(
    config: Config = None,
    data_dir: DataDir = None,
    profile: Annotated[
        str | None,
        typer.Option(help="production, or demo: shipped models active, two-second quiet period, loopback only."),
    ] = None,
    http_port: Annotated[int | None, typer.Option(help="HTTP port [8080].", show_default=False)] = None,
    mllp_port: Annotated[int | None, typer.Option(help="MLLP port [2575].", show_default=False)] = None,
    dicom_port: Annotated[int | None, typer.Option(help="DICOM port [11112].", show_default=False)] = None,
    roles: Annotated[
        str | None,
        typer.Option(help=f"Comma list of {', '.join(ROLES)}. All where not given.", show_default=False),
    ] = None,
) -> None:
    """Run the server.

    Without WETREAD_DATABASE_URL a private PostgreSQL starts in the data directory, and this process owns it. To split
    the work over processes or hosts, give each the same database and its own --roles.
    """
    ports = {
        name: {"port": port}
        for name, port in (("http", http_port), ("mllp", mllp_port), ("dicom", dicom_port))
        if port is not None
    }
    settings = settings_of(config, data_dir, profile=profile, **ports)
    set_up_logging(settings)
    wanted = _roles(roles)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _owned_database(settings) as url:
        migrate.upgrade(url)
        groups = [chosen for group in _GROUPS if (chosen := [role for role in group if role in wanted])]
        owner = settings.database_url is None
        children = [
            Child("+".join(group), partial(child.run, settings, url, group, alone=owner))
            for group in groups
            for _ in range(_processes(settings, group))
        ]
        raise typer.Exit(asyncio.run(_supervise(children, settings.data_dir if owner else None)))


def _processes(settings: Settings, group: list[Role]) -> int:
    """One for each group, but for DICOM: its receivers share their port, once it is known that no stranger has it."""
    if group != ["dicom"] or settings.dicom.processes == 1:
        return 1
    with socket.socket(socket.AF_INET6 if ":" in settings.dicom.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.dicom.host, settings.dicom.port))
        except OSError as error:
            address = f"{settings.dicom.host}:{settings.dicom.port}"
            raise Misconfigured(f"dicom.port: cannot listen on {address}: {error.strerror}") from error
    return settings.dicom.processes or min(os.cpu_count() or 1, 4)


def check_config(
    config: Config = None,
    data_dir: DataDir = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 where there is a warning.")] = False,
) -> None:
    """Read settings, certificates, maps, routing rules, subscription topics and model packages, and say what is wrong
    and what is weak, without starting anything."""
    settings = settings_of(config, data_dir)
    shipped = share_dir() / "mappings"
    maps.load(shipped, settings.overlay_dir)
    messages.load(shipped, settings.overlay_dir)
    require_certificates(settings)
    composition.peer_tls(settings)
    packages = composition.model_packages(settings)
    rules = routing.load(shipped, settings.overlay_dir, list(packages))
    known = composition.served_topics(settings)
    typer.echo(f"settings, {len(packages)} models, {len(rules)} routing rules and {len(known)} topics are in order")
    if not settings.outbound.destinations:
        typer.echo("note: no destination is named under outbound.destinations; results stay here")
    if not settings.site.default_authority:
        typer.echo("note: site.default_authority is empty; patient identifiers without an authority are refused")
    warnings = list(weaknesses(settings, config))
    for warning in warnings:
        typer.echo(f"warning: {warning}")
    if strict and warnings:
        raise typer.Exit(1)


def token(
    scope: Annotated[str, typer.Option(help='SMART scopes, e.g. "system/*.cruds" or "system/Observation.rs".')],
    config: Config = None,
    data_dir: DataDir = None,
    expires: Annotated[str, typer.Option(help="How long it is valid: 30m, 1h, 1d.")] = "1h",
    role: Annotated[
        list[str] | None,
        typer.Option(help=f"What else it opens; of {', '.join(PERSON_ROLES)}. May be given again.", show_default=False),
    ] = None,
) -> None:
    """Make a signed, short-lived access token for the local operator. Its making is audited."""
    settings = settings_of(config, data_dir)
    for name in role or ():
        if name not in PERSON_ROLES:
            raise InvalidInput(f"no role is named {name!r}; known: {', '.join(PERSON_ROLES)}")
    typer.echo(issue_token(settings, scope, role or ["administrator"], duration(expires)))


def issue_token(settings: Settings, scope: str, roles: Sequence[str], lifetime: timedelta) -> str:
    """A token of the local operator, after the audit row of its making is committed."""
    issued = composition.tokens(settings).issue(operator().principal, scope, roles, lifetime)
    detail = {"token": issued.token_id, "scope": scope, "expires-s": str(issued.expires_s)}
    entry = audit.AuditEntry(kind="token-issued", action="E", outcome="0", principal=issued.principal, detail=detail)

    async def record(url: str) -> None:
        async with opened(settings, url) as database, database.transaction() as conn:
            await audit.write(conn, entry)

    with database_url(settings) as url:
        asyncio.run(record(url))
    return issued.token


def upgrade(config: Config = None, data_dir: DataDir = None) -> None:
    """Bring the database to this version's schema. `serve` does so too; give this a moment of its own on big sites."""
    settings = settings_of(config, data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _owned_database(settings) as url:
        migrate.upgrade(url)
    typer.echo("the database has this version's schema")


def reindex(config: Config = None, data_dir: DataDir = None) -> None:
    """Read every resource's search parameters anew, after an upgrade whose notes ask for it. The server may run on."""
    settings = settings_of(config, data_dir)

    async def run(url: str) -> None:
        done: int | None = 0
        async with opened(settings, url) as database:
            while done is not None:
                async with database.transaction() as conn:
                    done = await reindexing.reindex(conn, after=done)
                if done is not None:
                    typer.echo(f"resources up to key {done} are indexed")

    with database_url(settings) as url:
        asyncio.run(run(url))
    typer.echo("every resource is indexed")


async def _supervise(children: list[Child], database_dir: Path | None) -> int:
    """`database_dir`: where our own PostgreSQL lives, which is kept running too."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    keeping = asyncio.create_task(_keep_database(database_dir, stop)) if database_dir is not None else None
    status = await supervise(children, stop)
    if keeping is not None:
        await keeping
    return status


async def _keep_database(data_dir: Path, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            if await asyncio.to_thread(embedded.keep_running, data_dir):
                logger.error("PostgreSQL had died and was started again")
        except StoreUnavailable as error:
            logger.error("PostgreSQL has died and does not start yet: %s", error.message)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0)


@contextlib.contextmanager
def _owned_database(settings: Settings) -> Iterator[str]:
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
    else:
        with embedded.owned(settings.data_dir) as url:
            yield url


def _roles(text: str | None) -> tuple[Role, ...]:
    if text is None:
        return ROLES
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in get_args(Role):
            raise Misconfigured(f"--roles: no role is named {name!r}; known: {', '.join(ROLES)}")
    return tuple(role for role in ROLES if role in names)
