"""The only composition root: settings in, running roles out. Whoever wants to know what uses what reads this file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import TypeAlias
from zoneinfo import ZoneInfo

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import Response

from wetread import __version__
from wetread.access.tokens import Tokens, signing_key
from wetread.api import credentials, dicomweb, fhir, health, ops, pictures, problem
from wetread.api import hl7 as hl7_http
from wetread.console import pages
from wetread.domain.destination import Destination
from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.phase import Phase
from wetread.domain.reader import Reader
from wetread.domain.study import CompletenessRule
from wetread.errors import WetreadError
from wetread.inbound.dicom import DicomListener, DimseEvent
from wetread.inbound.dicom_negotiation import AllowedPeer
from wetread.inbound.mllp import MllpListener, Received
from wetread.mapping import maps
from wetread.mapping.site import Site
from wetread.outbound.deliver import Deliver
from wetread.outbound.http import HttpPoster
from wetread.outbound.notify import STEP_HANDSHAKE, STEP_NOTIFY, Notifier
from wetread.reading import outbox, routing
from wetread.reading.arrivals import Arrivals
from wetread.reading.infer import Infer
from wetread.reading.intake import Intake, accepted
from wetread.reading.joining import Joining
from wetread.reading.models import ModelPackage, load_packages, with_spacing
from wetread.reading.report import Report, Sender
from wetread.reading.runtime import Runtime
from wetread.reading.settle import Settle
from wetread.reading.steps import INFER, REPORT, SETTLE
from wetread.record import audit, topics
from wetread.record.events import Sequencer
from wetread.record.resources import Version
from wetread.record.subscriptions import Subscriptions
from wetread.settings import Role, Settings, Tls, share_dir
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Connection, Database, SyncConnection, SyncDatabase
from wetread.work.jobs import Payload, Work

logger = logging.getLogger(__name__)

GiveUp: TypeAlias = Callable[[Payload, BaseException], Awaitable[None]]
_QUEUES: Mapping[Role, str] = {"work": "work", "infer": "infer", "notify": "notify"}
TOKEN_AUDIENCE = "urn:wetread:server"  # noqa: S105


def site_key(data_dir: Path) -> bytes:
    """The key under which ids made from patient identifiers are HMACs; made once, kept with the data."""
    file = data_dir / "site.key"
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(os.urandom(32))
    return file.read_bytes()


def tokens(settings: Settings) -> Tokens:
    return Tokens(signing_key(settings.data_dir / "token.key"), TOKEN_AUDIENCE)


def model_packages(settings: Settings) -> dict[str, ModelPackage]:
    """Every installed model, on the grid that the site chose. Raises Misconfigured."""
    folders = ([share_dir() / "models"] if settings.models.shipped else []) + list(settings.models.folders)
    packages = load_packages(*folders)
    for name, spacing_mm in settings.models.spacing_mm.items():
        if name in packages:
            packages[name] = with_spacing(packages[name], spacing_mm)
    return packages


def destinations(settings: Settings) -> tuple[Destination, ...]:
    return tuple(Destination(**{**d.model_dump(), "sends": frozenset(d.sends)}) for d in settings.outbound.destinations)


@dataclass(frozen=True)
class House:
    """The rooms of one process, built once and handed to its roles. Nothing here is global."""

    settings: Settings
    database: Database
    work: Work
    blobs: LocalBlobs
    site: Site
    maps: maps.Maps
    packages: Mapping[str, ModelPackage]
    joining: Joining
    subscriptions: Subscriptions
    notifier: Notifier

    @property
    def intake(self) -> Intake:
        return Intake(
            self.database,
            self.site,
            accepted({"P", "T", "D"} if self.settings.demo else {self.settings.site.processing_id}),
            self.settings.mllp.default_charset or None,
            self.settings.mllp.oversize_quota_mb * 1024 * 1024,
        )

    @property
    def completeness_rule(self) -> CompletenessRule:
        study = self.settings.study
        return CompletenessRule(timedelta(seconds=study.quiet_s), timedelta(seconds=study.deadline_s))

    @property
    def infer(self) -> Infer:
        models = self.settings.models
        threads = models.threads or os.cpu_count() or 1
        return Infer(
            self.database,
            self.work,
            self.blobs,
            self.packages,
            Runtime(models.device, threads),
            self.settings.demo,
        )

    @property
    def arrivals(self) -> Arrivals:
        return Arrivals(self.database, self.work, self.maps, self.site, self.joining, self.completeness_rule)


@contextlib.asynccontextmanager
async def house(settings: Settings, database_url: str) -> AsyncIterator[House]:
    """Builds the rooms and opens the database. Raises Misconfigured for a setting or a site's file that is wrong."""
    shipped = share_dir()
    loaded = maps.load(shipped / "mappings", settings.overlay_dir)
    site = Site(
        site_key(settings.data_dir),
        {**loaded.authorities, **settings.site.authorities},
        settings.site.default_authority,
        ZoneInfo(settings.site.time_zone),
    )
    database = Database(database_url)
    blobs = LocalBlobs(settings.data_dir / "blobs")
    on_dead = _OnDead()
    work = Work(database, on_dead)
    wanted = destinations(settings)
    packages = model_packages(settings)
    joining = Joining(work, timedelta(days=settings.study.propose_window_days), settings.study.match_on_patient)
    deliver = Deliver(database, blobs, {d.name: d for d in wanted}, settings.dicom.ae_title)
    endpoints = AllowedEndpoints.parse(settings.outbound.allow)
    known_topics = topics.load(shipped / "conformance" / "topics")
    subscriptions = Subscriptions(known_topics, endpoints, work, settings.fhir_base)
    poster = HttpPoster(endpoints)
    notifier = Notifier(database, subscriptions, poster)
    built = House(settings, database, work, blobs, site, loaded, packages, joining, subscriptions, notifier)
    rules = routing.load(shipped / "mappings", settings.overlay_dir, list(packages))
    default_phase = Phase(settings.models.default_phase)
    report = Report(database, work, blobs, site, _sender(settings), wanted, settings.base_url)
    work.bind(SETTLE, Settle(database, work, site, rules, packages, joining, built.completeness_rule, default_phase))
    work.bind(REPORT, report)
    work.bind(outbox.DELIVER, deliver)
    infer = built.infer
    work.bind(INFER, infer)
    work.bind(STEP_HANDSHAKE, notifier.handshake)
    work.bind(STEP_NOTIFY, notifier.notify)
    on_dead.rooms = {
        REPORT.name: report.give_up,
        INFER.name: infer.give_up,
        outbox.DELIVER.name: deliver.give_up,
    }
    await database.open()
    try:
        await work.open()
        yield built
    finally:
        await deliver.close()
        await poster.close()
        await database.close()


class _OnDead:
    """Hands a step that is given up to the room that knows what that means."""

    def __init__(self) -> None:
        self.rooms: Mapping[str, GiveUp] = {}

    async def __call__(self, step: str, payload: Payload, error: BaseException) -> None:
        logger.error("%s is given up after %s", step, type(error).__name__)
        if step in self.rooms:
            await self.rooms[step](payload, error)


def _sender(settings: Settings) -> Sender:
    site = settings.site
    return Sender(site.application, site.facility, site.processing_id, site.name)


async def run_roles(
    settings: Settings, database_url: str, roles: Sequence[Role], *, alone: bool, stop: asyncio.Event
) -> None:
    """Runs the roles in this process until `stop`. `alone`: no other process works these roles' queues."""
    async with house(settings, database_url) as built, asyncio.TaskGroup() as group:
        await _audit_presence(built, "server-started", roles)
        queues = [queue for role, queue in _QUEUES.items() if role in roles]
        if queues:
            concurrency = 1 if queues == ["infer"] else 8
            group.create_task(built.work.run(queues, concurrency=concurrency, alone=alone, stop=stop))
        if "work" in roles:
            group.create_task(built.arrivals.run(stop))
        if "notify" in roles:
            group.create_task(Sequencer(built.database).run(stop))
            group.create_task(built.notifier.run(stop))
        if "mllp" in roles:
            group.create_task(_serve_mllp(built, stop))
        if "dicom" in roles:
            group.create_task(_serve_dicom(settings, database_url, built.blobs, stop))
        if "http" in roles:
            group.create_task(_serve_http(built, stop))
        await stop.wait()
        await _audit_presence(built, "server-stopped", roles)


async def _audit_presence(built: House, kind: str, roles: Sequence[Role]) -> None:
    async with built.database.transaction() as conn:
        entry = audit.AuditEntry(
            kind=kind, action="E", outcome="0", principal="wetread", detail={"roles": ",".join(roles)}
        )
        await audit.write(conn, entry)


async def _serve_mllp(built: House, stop: asyncio.Event) -> None:
    settings, intake = built.settings.mllp, built.intake

    async def handle(received: Received) -> bytes | None:
        now = datetime.now(UTC)
        if received.oversize is not None:
            return await intake.refuse_oversize(
                received.oversize, peer=received.peer, listener=received.listener, at=now
            )
        if received.raw is None:
            return None
        return await intake.receive(received.raw, peer=received.peer, listener=received.listener, at=now)

    listener = MllpListener(
        settings.host,
        settings.port,
        handle,
        limit_bytes=settings.limit_mb * 1024 * 1024,
        idle_timeout_s=settings.idle_timeout_s,
        max_connections=settings.max_connections,
        allow=tuple(ip_network(network) for network in settings.allow),
        tls=_tls(settings.tls),
    )
    await listener.start()
    logger.info("MLLP listens on %s:%d", settings.host, listener.port)
    await stop.wait()
    await listener.close()


async def _serve_dicom(settings: Settings, database_url: str, blobs: LocalBlobs, stop: asyncio.Event) -> None:
    """The DIMSE threads have a pool of their own: a connection for each association that may store at once."""
    dicom = settings.dicom
    database = SyncDatabase(database_url, max_connections=min(dicom.max_associations, 16))
    await asyncio.to_thread(database.open)
    listener = DicomListener(
        dicom.ae_title,
        dicom.host,
        dicom.port,
        database,
        blobs,
        allow=_allowed_peers(dicom.allow, dicom.allow_ae_titles),
        max_associations=dicom.max_associations,
        tls=_tls(dicom.tls),
        audit=_audit_dimse,
    )
    listener.start()
    logger.info("DICOM listens on %s:%d as %s", dicom.host, listener.port, dicom.ae_title)
    await stop.wait()
    await asyncio.to_thread(listener.stop)
    database.close()


def _allowed_peers(networks: Sequence[str], ae_titles: Sequence[str]) -> tuple[AllowedPeer, ...]:
    return tuple(
        AllowedPeer(ip_network(network) if network else None, ae_title or None)
        for network in networks or ("",)
        for ae_title in ae_titles or ("",)
        if network or ae_title
    )


def _audit_dimse(conn: SyncConnection, event: DimseEvent) -> None:
    kind = {"received": "instance-stored", "refused": "instance-refused", "rejected": "access-denied"}[event.kind]
    detail = {"calling-ae": event.calling_ae, "called-ae": event.called_ae, "reason": event.reason}
    audit.write_sync(
        conn,
        audit.AuditEntry(
            kind=kind,
            action="C",
            outcome="0" if event.kind == "received" else "4",
            principal=event.calling_ae or "dicom",
            network=event.address,
            entities=(audit.Entity(identifier=f"urn:oid:{event.study_instance_uid}"),)
            if event.study_instance_uid
            else (),
            detail={key: value for key, value in detail.items() if value},
        ),
    )


def _tls(settings: Tls | None) -> ssl.SSLContext | None:
    if settings is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(settings.certificate, settings.key)
    if settings.client_ca is not None:
        context.load_verify_locations(settings.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def web_app(built: House) -> FastAPI:
    """The HTTP faces under one roof."""
    settings = built.settings
    authenticate = credentials.bearer(tokens(settings))
    web = FastAPI(title="Wetread", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    web.include_router(health.router(built.database, authenticate))
    web.include_router(
        fhir.router(
            built.database, authenticate, audit.write, settings.fhir_base, on_write=_subscribing(built.subscriptions)
        )
    )
    web.include_router(dicomweb.router(built.database, built.blobs, authenticate))
    web.include_router(pictures.router(built.database, built.blobs, authenticate))
    web.include_router(
        pages.router(
            pages.Console(
                built.database,
                tokens(settings),
                authenticate,
                credentials.COOKIE,
                built.site.time_zone,
                settings.demo,
                settings.base_url.startswith("https:"),
            )
        )
    )
    web.include_router(
        ops.router(
            ops.Ops(
                built.database,
                built.work,
                built.joining,
                built.packages,
                Phase(settings.models.default_phase),
            ),
            authenticate,
        )
    )
    web.include_router(hl7_http.router(built.intake, authenticate, settings.mllp.limit_mb * 1024 * 1024))

    @web.exception_handler(WetreadError)
    async def on_error(request: Request, error: WetreadError) -> Response:
        return problem.problem(error)

    return web


def _subscribing(subscriptions: Subscriptions) -> fhir.OnWrite:
    """A Subscription that a client writes or deletes takes effect in the transaction that writes it."""

    async def on_write(
        conn: Connection, reader: Reader, resource_type: str, resource_id: str, version: Version | None
    ) -> None:
        if resource_type == "Subscription" and version is not None:
            await subscriptions.accept(conn, reader, version.resource())
        elif resource_type == "Subscription":
            await subscriptions.withdraw(conn, resource_id)

    return on_write


async def _serve_http(built: House, stop: asyncio.Event) -> None:
    http = built.settings.http
    server = _Server(
        uvicorn.Config(
            web_app(built), host=http.host, port=http.port, log_config=None, access_log=False, lifespan="off"
        )
    )
    serving = asyncio.create_task(server.serve())
    logger.info("HTTP listens on %s:%d", http.host, http.port)
    await asyncio.wait({serving, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving


class _Server(uvicorn.Server):
    """Leaves signals to the process that runs the roles."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
