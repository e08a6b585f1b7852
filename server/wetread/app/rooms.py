"""The rooms of one process, and what hangs them together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias
from zoneinfo import ZoneInfo

from wetread.access.oauth.core import Authority
from wetread.access.owners import reader_now
from wetread.app.keys import site_key
from wetread.app.models import infer, model_packages
from wetread.app.notifying import Notifying
from wetread.app.peers import destinations, peer_tls, sender
from wetread.app.people import authority
from wetread.app.topics import served_topics
from wetread.app.ways import carried, hl7_messages
from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.phase import Phase
from wetread.domain.study import CompletenessRule
from wetread.mapping import maps
from wetread.mapping.model import Maps
from wetread.mapping.site import Site
from wetread.outbound.deliver import Deliver
from wetread.reading import outbox, routing
from wetread.reading.arrivals import Arrivals
from wetread.reading.intake import Intake, accepted
from wetread.reading.joining import Joining
from wetread.reading.models import ModelPackage
from wetread.reading.report import Report
from wetread.reading.settle import Settle
from wetread.reading.steps import INFER, REPORT, SETTLE
from wetread.record.export.export import Exporter
from wetread.record.export.jobs import EXPORT, SWEEP
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.settings import Role, Settings, share_dir
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database
from wetread.wire.fetch import Fetch, trusted
from wetread.work.jobs import Payload, Work

logger = logging.getLogger(__name__)

GiveUp: TypeAlias = Callable[[Payload, BaseException], Awaitable[None]]


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
    notifying: Notifying
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
    database = Database(database_url, bases=settings.fhir_bases)
    blobs = LocalBlobs(settings.data_dir / "blobs")
    on_dead = _OnDead()
    work = Work(database, on_dead)
    wanted = destinations(settings)
    packages = model_packages(settings)
    joining = Joining(work, timedelta(days=settings.study.propose_window_days), settings.study.match_on_patient)
    deliver = Deliver(database, blobs, {d.name: d for d in wanted}, settings.dicom.ae_title, peer_tls(settings))
    endpoints = AllowedEndpoints.parse(settings.outbound.allow)
    known_topics = served_topics(settings)
    notified = AllowedEndpoints.parse(settings.outbound.allow, plain=settings.outbound.plain)
    messages = hl7_messages(settings, shipped / "mappings", loaded, site)
    subscriptions = Subscriptions(
        known_topics, notified, settings.fhir_base, owner_now=reader_now, carried=carried(settings, messages)
    )
    fetch = Fetch(endpoints, trusted(settings.outbound.authority, settings.outbound.minimum_version))
    notifying = Notifying(settings, database, subscriptions, messages)
    lets_in = authority(settings, database, fetch)
    built = House(
        settings, database, work, blobs, site, loaded, packages, joining, subscriptions, notifying, fetch, lets_in
    )
    rules = routing.load(shipped / "mappings", settings.overlay_dir, list(packages))
    default_phase = Phase(settings.models.default_phase)
    report = Report(database, work, blobs, site, sender(settings), wanted, settings.base_url)
    work.bind(SETTLE, Settle(database, work, site, rules, packages, joining, built.completeness_rule, default_phase))
    work.bind(REPORT, report)
    work.bind(outbox.DELIVER, deliver)
    exporter = _exporter(settings, database, work)
    work.bind(EXPORT, exporter)
    work.bind(SWEEP, exporter.sweep)
    on_dead.rooms = {
        REPORT.name: report.give_up,
        outbox.DELIVER.name: deliver.give_up,
        EXPORT.name: exporter.give_up,
    }
    if "infer" in roles:
        reads = infer(settings, database, work, blobs, packages)
        work.bind(INFER, reads)
        on_dead.rooms |= {INFER.name: reads.give_up}
    await database.open()
    try:
        await work.open()
        yield built
    finally:
        await deliver.close()
        await notifying.close()
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


class _OnDead:
    """Hands a step that is given up to the room that knows what that means."""

    def __init__(self) -> None:
        self.rooms: dict[str, GiveUp] = {}

    async def __call__(self, step: str, payload: Payload, error: BaseException) -> None:
        logger.error("%s is given up after %s", step, type(error).__name__)
        if step in self.rooms:
            await self.rooms[step](payload, error)
