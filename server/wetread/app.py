"""The only composition root: settings in, running roles out. Whoever wants to know what uses what reads this file."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from wetread import __version__
from wetread.access.audit_keys import AuditKeys
from wetread.access.clients.assertions import ClientKeys
from wetread.access.clients.known import KnownClients
from wetread.access.oauth.core import Authority, Lifetimes
from wetread.access.oauth.signing_keys import FILE_NAME, SigningKeys
from wetread.access.people.attempts import LockOut
from wetread.access.people.passwords import Passwords
from wetread.access.people.sessions import Lifetime
from wetread.access.people.totp import Seeds
from wetread.access.providers.documents import ProviderDocuments
from wetread.access.providers.identity_providers import IdentityProvider, Provider
from wetread.access.tokens import Tokens, secret_file, signing_key
from wetread.api import (
    audit_proof,
    credentials,
    dicomweb,
    every_request,
    fhir,
    fhir_export,
    fhir_views,
    health,
    ops,
    pictures,
    problem,
)
from wetread.api import hl7 as hl7_http
from wetread.api.forwarded import Forwarded
from wetread.api.limits import Limits, Rates
from wetread.api.security_headers import SecurityHeaders
from wetread.api.smart import discovery, endpoints
from wetread.api.smart.cors import Cors
from wetread.api.turned_away import TurnedAway
from wetread.console import pages
from wetread.console.rendering import static_files
from wetread.console.sign_in import People
from wetread.domain.destination import Destination
from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.networks import networks
from wetread.domain.phase import Phase
from wetread.domain.reader import Reader
from wetread.domain.study import CompletenessRule
from wetread.errors import Misconfigured, WetreadError
from wetread.mapping import maps
from wetread.mapping.model import Maps
from wetread.mapping.site import Site
from wetread.outbound.audit_file import FileSink
from wetread.outbound.audit_streams import Sink, Stream
from wetread.outbound.audit_syslog import SyslogSink
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
from wetread.record.audit import audit
from wetread.record.audit.keeper import Keeper
from wetread.record.cursors import Cursors
from wetread.record.export.export import Exporter
from wetread.record.export.jobs import EXPORT, SWEEP
from wetread.record.resources import Version
from wetread.record.subscriptions import topics
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.record.views.run import shipped
from wetread.settings import Role, Settings, share_dir
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Connection, Database
from wetread.wire.fetch import Fetch, trusted
from wetread.wire.tls import ClientTls, Contexts, client_contexts
from wetread.work.jobs import Payload, Work

logger = logging.getLogger(__name__)

GiveUp: TypeAlias = Callable[[Payload, BaseException], Awaitable[None]]
_FIRST_SWEEP_S, _SWEEP_EVERY_S = 300.0, 6 * 3600.0
_UNRECORDED = ("/healthz", "/readyz", *(f"/console/{name}" for name in static_files()))
"""Paths whose reading tells nothing about anybody."""
TOKEN_AUDIENCE = "urn:wetread:server"  # noqa: S105


def site_key(data_dir: Path) -> bytes:
    """The key under which ids made from patient identifiers are HMACs; made once, kept with the data."""
    return secret_file(data_dir / "site.key", lambda: os.urandom(32))


def cursors(data_dir: Path) -> Cursors:
    """The seal of what pages of results go on from: the same in all processes of a site."""
    return Cursors(hmac.digest(site_key(data_dir), b"cursors", "sha256"))


def authority(settings: Settings, database: Database, fetch: Fetch) -> Authority:
    """Who lets apps in, and gives them tokens."""
    access = settings.access
    return Authority(
        database,
        tokens(settings),
        signing_keys(settings),
        ClientKeys(fetch),
        settings.base_url,
        settings.fhir_base,
        Lifetimes(
            timedelta(minutes=access.token_minutes),
            timedelta(days=access.offline_days),
            timedelta(hours=access.session_hours),
        ),
    )


def signing_keys(settings: Settings) -> SigningKeys:
    """Those of id_tokens."""
    return SigningKeys(settings.data_dir / FILE_NAME)


def tokens(settings: Settings) -> Tokens:
    return Tokens(signing_key(settings.data_dir / "token.key"), TOKEN_AUDIENCE)


def audit_keys(settings: Settings) -> AuditKeys:
    """What signs the audit record's checkpoints. Raises Misconfigured."""
    file = settings.data_dir / "audit.key"
    try:
        return AuditKeys.parse(secret_file(file, AuditKeys.made))
    except ValueError as error:
        raise Misconfigured(f"{file}: {error}") from error


def audit_keeper(built: House) -> Keeper:
    """Who signs the audit record, and removes of it what the policy lets go. Raises Misconfigured."""
    wanted = built.settings.audit
    after = timedelta(minutes=wanted.checkpoint_minutes)
    return Keeper(
        built.database, audit_keys(built.settings), wanted.checkpoint_records, after, wanted.keep_days, wanted.archive
    )


def audit_streams(built: House) -> list[Stream]:
    """The ways on which the audit record leaves. Raises Misconfigured."""
    wanted = built.settings.audit
    sinks: list[Sink] = [FileSink(wanted.file.folder)] if wanted.file else []
    for to in wanted.syslog:
        contexts = client_contexts(ClientTls(to.tls.authority, to.tls.certificate, to.tls.key, to.tls.minimum_version))
        sinks.append(SyslogSink(to.name, to.host, to.port, contexts))
    return [Stream(built.database, sink) for sink in sinks]


def model_packages(settings: Settings) -> dict[str, ModelPackage]:
    """Every installed model, on the grid that the site chose. Raises Misconfigured."""
    folders = ([share_dir() / "models"] if settings.models.shipped else []) + list(settings.models.folders)
    packages = load_packages(*folders)
    for name, spacing_mm in settings.models.spacing_mm.items():
        if name not in packages:
            known = ", ".join(sorted(packages))
            raise Misconfigured(f"models.spacing_mm.{name}: no model has this name; known: {known}")
        packages[name] = with_spacing(packages[name], spacing_mm)
    return packages


def destinations(settings: Settings) -> tuple[Destination, ...]:
    return tuple(
        Destination(**{**d.model_dump(exclude={"tls"}), "sends": frozenset(d.sends)})
        for d in settings.outbound.destinations
    )


def peer_tls(settings: Settings) -> dict[str, Contexts]:
    """Raises Misconfigured."""
    return {
        d.name: client_contexts(ClientTls(d.tls.authority, d.tls.certificate, d.tls.key, d.tls.minimum_version))
        for d in settings.outbound.destinations
        if d.tls is not None
    }


@dataclass(frozen=True)
class House:
    """The rooms of one process, built once and handed to its roles. Nothing here is global."""

    settings: Settings
    database: Database
    work: Work
    blobs: LocalBlobs
    site: Site
    maps: Maps
    packages: Mapping[str, ModelPackage]
    joining: Joining
    subscriptions: Subscriptions
    notifier: Notifier
    fetch: Fetch
    authority: Authority

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
    def arrivals(self) -> Arrivals:
        return Arrivals(self.database, self.work, self.maps, self.site, self.joining, self.completeness_rule)


@contextlib.asynccontextmanager
async def house(settings: Settings, database_url: str, roles: Sequence[Role]) -> AsyncIterator[House]:
    """Builds the rooms and opens the database; the model runtime only where the role infer runs.

    Raises Misconfigured for a setting or a site's file that is wrong.
    """
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
    deliver = Deliver(database, blobs, {d.name: d for d in wanted}, settings.dicom.ae_title, peer_tls(settings))
    endpoints = AllowedEndpoints.parse(settings.outbound.allow)
    known_topics = topics.load(shipped / "conformance" / "topics")
    subscriptions = Subscriptions(known_topics, endpoints, work, settings.fhir_base)
    fetch = Fetch(endpoints, trusted(settings.outbound.authority, settings.outbound.minimum_version))
    notifier = Notifier(database, subscriptions, HttpPoster(fetch))
    lets_in = authority(settings, database, fetch)
    built = House(
        settings, database, work, blobs, site, loaded, packages, joining, subscriptions, notifier, fetch, lets_in
    )
    rules = routing.load(shipped / "mappings", settings.overlay_dir, list(packages))
    default_phase = Phase(settings.models.default_phase)
    report = Report(database, work, blobs, site, _sender(settings), wanted, settings.base_url)
    work.bind(SETTLE, Settle(database, work, site, rules, packages, joining, built.completeness_rule, default_phase))
    work.bind(REPORT, report)
    work.bind(outbox.DELIVER, deliver)
    work.bind(STEP_HANDSHAKE, notifier.handshake)
    work.bind(STEP_NOTIFY, notifier.notify)
    exporter = _exporter(settings, database, work)
    work.bind(EXPORT, exporter)
    work.bind(SWEEP, exporter.sweep)
    on_dead.rooms = {
        REPORT.name: report.give_up,
        outbox.DELIVER.name: deliver.give_up,
        EXPORT.name: exporter.give_up,
    }
    if "infer" in roles:
        infer = _infer(settings, database, work, blobs, packages)
        work.bind(INFER, infer)
        on_dead.rooms |= {INFER.name: infer.give_up}
    await database.open()
    try:
        await work.open()
        yield built
    finally:
        await deliver.close()
        await fetch.close()
        await database.close()


def _exporter(settings: Settings, database: Database, work: Work) -> Exporter:
    wanted = settings.export
    return Exporter(
        database,
        work,
        exports_dir(settings),
        settings.fhir_base,
        retention=timedelta(hours=wanted.retention_hours),
        file_bytes=wanted.file_mb * 1024 * 1024,
        batch_bytes=wanted.batch_kb * 1024,
    )


def exports_dir(settings: Settings) -> Path:
    return settings.export.folder or settings.data_dir / "exports"


def _infer(
    settings: Settings, database: Database, work: Work, blobs: LocalBlobs, packages: Mapping[str, ModelPackage]
) -> Infer:
    threads = settings.models.threads or os.cpu_count() or 1
    return Infer(database, work, blobs, packages, Runtime(settings.models.device, threads), settings.demo)


class _OnDead:
    """Hands a step that is given up to the room that knows what that means."""

    def __init__(self) -> None:
        self.rooms: dict[str, GiveUp] = {}

    async def __call__(self, step: str, payload: Payload, error: BaseException) -> None:
        logger.error("%s is given up after %s", step, type(error).__name__)
        if step in self.rooms:
            await self.rooms[step](payload, error)


def _sender(settings: Settings) -> Sender:
    site = settings.site
    return Sender(site.application, site.facility, site.processing_id, site.name)


@dataclass(frozen=True)
class Front:
    """What the HTTP listener is given: the faces, behind what every request must pass. `run` must run beside it."""

    app: ASGIApp
    run: Callable[[asyncio.Event], Coroutine[Any, Any, None]]


def front(built: House) -> Front:
    http = built.settings.http
    rates = Rates(
        http.limits.client_per_minute,
        http.limits.anonymous_per_minute,
        http.limits.refused_per_minute,
        http.limits.guesses_per_minute,
        http.limits.guesses_per_name,
    )
    turned_away = TurnedAway(built.database)
    limits = Limits(web_app(built), rates, turned_away, _UNRECORDED)
    forwarded = Forwarded(limits, networks(http.trusted_proxies), networks(http.allow), turned_away)
    return Front(SecurityHeaders(forwarded), turned_away.run)


def web_app(built: House) -> FastAPI:
    """The HTTP faces under one roof."""
    settings = built.settings
    signed_tokens = built.authority.tokens
    https = settings.base_url.startswith("https:")
    known = KnownClients(built.database)
    authenticate = every_request.remembered(
        credentials.authenticator(credentials.Credentials(built.database, signed_tokens, known, https))
    )
    web = FastAPI(title="Wetread", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    web.include_router(health.router(built.database, authenticate))
    exports = fhir_export.Export(
        built.database, built.work, exports_dir(settings), settings.fhir_base, settings.export.most_jobs
    )
    web.include_router(fhir_export.router(exports, authenticate, audit.write_many))
    views = fhir_views.Views(
        built.database, shipped(share_dir() / "conformance" / "views"), exports_dir(settings), settings.fhir_base
    )
    web.include_router(fhir_views.router(views, authenticate, audit.write_many))
    web.include_router(discovery.router(built.authority))
    web.include_router(endpoints.router(built.authority, authenticate))
    web.include_router(
        fhir.router(
            built.database,
            authenticate,
            audit.write_many,
            settings.fhir_base,
            on_write=_subscribing(built.subscriptions),
            update_create=settings.fhir.update_create,
            topics=sorted(built.subscriptions.topics),
            cursors=cursors(settings.data_dir),
        )
    )
    web.include_router(dicomweb.router(built.database, built.blobs, authenticate))
    web.include_router(pictures.router(built.database, built.blobs, authenticate))
    web.include_router(
        pages.router(
            pages.Console(
                built.database,
                signed_tokens,
                authenticate,
                _people(settings),
                credentials.COOKIE,
                built.site.time_zone,
                settings.demo,
                https,
                _identity_providers(settings, built.fetch),
                settings.base_url,
                built.authority,
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
    web.include_router(audit_proof.router(built.database, authenticate, audit_keys(settings).public()))
    web.include_router(hl7_http.router(built.intake, authenticate, settings.mllp.limit_mb * 1024 * 1024))

    @web.get("/api/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> JSONResponse:
        await authenticate(request)
        return JSONResponse(web.openapi())

    @web.exception_handler(WetreadError)
    async def on_error(request: Request, error: WetreadError) -> Response:
        return problem.problem(error)

    web.add_middleware(Cors, database=built.database)
    # The last to be added stands around all others.
    web.add_middleware(every_request.EveryRequest, database=built.database, unrecorded=_UNRECORDED)
    return web


def _identity_providers(settings: Settings, fetch: Fetch) -> Mapping[str, IdentityProvider]:
    found: dict[str, IdentityProvider] = {}
    for given in settings.access.providers:
        provider = Provider(
            given.name,
            given.display_name,
            given.issuer,
            given.client_id,
            given.client_secret.get_secret_value(),
            given.scopes,
            given.groups_claim,
            given.roles,
            given.without_group,
            given.fhir_user_claim,
            given.userinfo,
            given.prompt,
        )
        callback = f"{settings.base_url}/login/provider/{given.name}/callback"
        found[given.name] = IdentityProvider(provider, callback, fetch, ProviderDocuments(given.issuer, fetch))
    return found


def _people(settings: Settings) -> People:
    access = settings.access
    return People(
        Passwords(access.password_length),
        Seeds(site_key(settings.data_dir)),
        LockOut(access.lockout_after, timedelta(seconds=access.lockout_s), timedelta(seconds=access.lockout_most_s)),
        Lifetime(timedelta(hours=access.session_hours), timedelta(minutes=access.idle_minutes)),
        frozenset(access.totp_roles),
    )


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
