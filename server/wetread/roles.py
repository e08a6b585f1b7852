"""Runs roles in this process: each listener and loop from its start to its graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_network

from wetread.access import upkeep
from wetread.api.turned_away import TurnedAway
from wetread.app import Front, House, audit_keeper, audit_streams, front, house
from wetread.archive.sweep import sweep
from wetread.domain.networks import Networks, networks
from wetread.errors import Unreachable
from wetread.inbound.dicom import DicomListener, DimseEvent
from wetread.inbound.dicom_negotiation import AllowedPeer
from wetread.inbound.http import Bounds, HttpListener
from wetread.inbound.mllp import MllpListener, Received
from wetread.reading.intake import ANYBODY
from wetread.record.audit import audit
from wetread.record.audit.stream import forget_others
from wetread.record.events import Sequencer
from wetread.record.search import units
from wetread.settings import Http, Role, Settings, Tls, is_loopback
from wetread.store.blobs import LocalBlobs
from wetread.store.database import SyncConnection, SyncDatabase
from wetread.wire.tls import ServerTls, server_context

logger = logging.getLogger(__name__)

_FIRST_SWEEP_S, _SWEEP_EVERY_S = 300.0, 6 * 3600.0
_LOOPBACK = ("127.0.0.0/8", "::1/128")
_QUEUES: Mapping[Role, str] = {"work": "work", "infer": "infer"}


async def run_roles(
    settings: Settings, database_url: str, roles: Sequence[Role], *, alone: bool, stop: asyncio.Event
) -> None:
    """Runs the roles in this process until `stop`. `alone`: no other process works these roles' queues."""
    async with house(settings, database_url, roles) as built, asyncio.TaskGroup() as group:
        await _audit_presence(built, "server-started", roles)
        if {"http", "work"} & set(roles):
            # The tables of units take a second to read; the first quantity must not wait for them.
            group.create_task(asyncio.to_thread(units.canonical, "mL"))
        queues = [queue for role, queue in _QUEUES.items() if role in roles]
        if queues:
            concurrency = 1 if queues == ["infer"] else 8
            group.create_task(built.work.run(queues, concurrency=concurrency, alone=alone, stop=stop))
        if "work" in roles:
            group.create_task(built.arrivals.run(stop))
            group.create_task(_sweep_blobs(database_url, built.blobs, stop))
        if "notify" in roles:
            group.create_task(Sequencer(built.database).run(stop))
            group.create_task(built.notifying.run(stop))
            await _keep_audit(built, group, stop)
        turned_away = TurnedAway(built.database)
        if {"mllp", "dicom", "http"} & set(roles):
            group.create_task(turned_away.run(stop))
        if "mllp" in roles:
            group.create_task(_serve_mllp(built, turned_away, stop))
        if "dicom" in roles:
            group.create_task(_serve_dicom(settings, database_url, built.blobs, turned_away, stop))
        if "http" in roles:
            faces = front(built)
            group.create_task(faces.run(stop))
            group.create_task(_serve_http(faces, settings.http, turned_away, stop))
            unseen = timedelta(days=settings.access.offline_unseen_days)
            group.create_task(upkeep.run(built.database, built.authority.tokens.revocations, stop, unseen=unseen))
        await stop.wait()
        await _audit_presence(built, "server-stopped", roles)


async def _keep_audit(built: House, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
    """The chain's signatures, removal by policy, and the copies that leave."""
    streams = audit_streams(built)
    async with built.database.transaction() as conn:
        await forget_others(conn, [stream.sink.name for stream in streams])
    group.create_task(audit_keeper(built).run(stop))
    for stream in streams:
        group.create_task(stream.run(stop))


async def _audit_presence(built: House, kind: str, roles: Sequence[Role]) -> None:
    async with built.database.transaction() as conn:
        entry = audit.AuditEntry(
            kind=kind, action="E", outcome="0", principal="wetread", detail={"roles": ",".join(roles)}
        )
        await audit.write(conn, entry)


async def _sweep_blobs(database_url: str, blobs: LocalBlobs, stop: asyncio.Event) -> None:
    """Removes, now and then, the blobs that a crash has left without a row."""

    def once() -> int:
        database = SyncDatabase(database_url, max_connections=1)
        database.open()
        try:
            with database.transaction() as conn:
                return sweep(conn, blobs)
        finally:
            database.close()

    wait_s = _FIRST_SWEEP_S
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), wait_s)
            return
        wait_s = _SWEEP_EVERY_S
        try:
            logger.info("%d abandoned blobs removed", await asyncio.to_thread(once))
        except (Unreachable, OSError) as error:
            logger.warning("the sweep for abandoned blobs will be tried again: %s", type(error).__name__)


async def _serve_mllp(built: House, turned_away: TurnedAway, stop: asyncio.Event) -> None:
    settings, intake = built.settings.mllp, built.intake

    async def handle(received: Received) -> bytes | None:
        now, peer, door = datetime.now(UTC), received.peer, received.listener
        names = received.certificate_names
        sender = audit.Asker(f"mllp:{names[0]}") if names else ANYBODY
        if received.oversize is not None:
            return await intake.refuse_oversize(received.oversize, peer=peer, listener=door, at=now, sender=sender)
        if received.truncated is not None:
            await intake.keep_truncated(received.truncated, peer=peer, listener=door, sender=sender)
        if received.raw is None:
            return None
        return await intake.receive(received.raw, peer=peer, listener=door, at=now, sender=sender)

    listener = MllpListener(
        settings.host,
        settings.port,
        handle,
        limit_bytes=settings.limit_mb * 1024 * 1024,
        idle_timeout_s=settings.idle_timeout_s,
        max_connections=settings.max_connections,
        allow=networks(settings.allow),
        tls=_tls(settings.tls),
        turned_away=partial(turned_away.at_listener, "mllp"),
    )
    await listener.start()
    logger.info("MLLP listens on %s:%d", settings.host, listener.port)
    await stop.wait()
    await listener.close()


async def _serve_dicom(
    settings: Settings, database_url: str, blobs: LocalBlobs, turned_away: TurnedAway, stop: asyncio.Event
) -> None:
    """The DIMSE threads have a pool of their own: a connection for each association that may store at once."""
    loop = asyncio.get_running_loop()

    def told(address: str, why: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before the thread
            loop.call_soon_threadsafe(turned_away.at_listener, "dicom", address, why)

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
        share_port=dicom.processes != 1,
        tls=_tls(dicom.tls),
        audit=_audit_dimse,
        turned_away=told,
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
    kind = {"received": "instance-stored", "refused": "instance-refused"}[event.kind]
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


def require_certificates(settings: Settings) -> None:
    """Raises Misconfigured where a listener's certificate cannot be used."""
    for tls in (settings.http.tls, settings.mllp.tls, settings.dicom.tls):
        _tls(tls)


def _tls(settings: Tls | None, *, protocols: Sequence[str] = ()) -> ssl.SSLContext | None:
    if settings is None:
        return None
    wanted = ServerTls(
        settings.certificate,
        settings.key,
        settings.client_ca,
        settings.require_client_certificate,
        settings.minimum_version,
    )
    return server_context(wanted, protocols=protocols)


async def _serve_http(faces: Front, http: Http, turned_away: TurnedAway, stop: asyncio.Event) -> None:
    listener = HttpListener(
        faces.app,
        http.host,
        http.port,
        allow=_http_peers(http),
        tls=_tls(http.tls, protocols=["http/1.1"]),
        bounds=Bounds(connections=http.max_connections),
        turned_away=partial(turned_away.at_listener, "http"),
    )
    await listener.start()
    logger.info("HTTP%s listens on %s:%d", "S" if http.tls else "", http.host, listener.port)
    await asyncio.wait(
        {asyncio.create_task(listener.wait()), asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    await listener.close()


def _http_peers(http: Http) -> Networks:
    """Who may connect at all. A proxy may, for those it asks for; whether they may is seen from what it tells. Beyond
    loopback plain HTTP is for proxies and this machine only, unless `allow` says more."""
    if not http.allow and (http.tls is not None or is_loopback(http.host)):
        return ()
    own = () if http.allow else _LOOPBACK
    return networks((*http.allow, *http.trusted_proxies, *own))
