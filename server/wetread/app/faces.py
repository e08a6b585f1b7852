"""The HTTP faces under one roof, behind what every request must pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sized
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from wetread import __version__
from wetread.access.clients.known import KnownClients
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
    subscription_sockets,
)
from wetread.api import hl7 as hl7_http
from wetread.api.forwarded import Forwarded
from wetread.api.limits import Limits, Rates
from wetread.api.security_headers import SecurityHeaders
from wetread.api.smart import discovery, endpoints
from wetread.api.smart.cors import Cors, Preflights
from wetread.api.socket_hub import Hub
from wetread.api.subscription_sockets import Sockets
from wetread.api.turned_away import TurnedAway
from wetread.app.keys import audit_keys, cursors
from wetread.app.people import identity_providers, people
from wetread.app.rooms import House, exports_dir
from wetread.console import pages
from wetread.console.rendering import static_files
from wetread.domain.networks import networks
from wetread.domain.phase import Phase
from wetread.domain.reader import Reader
from wetread.errors import WetreadError
from wetread.record.audit import audit
from wetread.record.resources import Version
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.record.views.run import shipped
from wetread.settings import share_dir
from wetread.store.database import Connection

_UNRECORDED = ("/healthz", "/readyz", *(f"/console/{name}" for name in static_files()))
"""Paths whose reading tells nothing about anybody."""


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
    hub = Hub(built.database, built.subscriptions, of_one_client=built.settings.subscriptions.sockets_per_client)
    limits = Limits(web_app(built, hub, turned_away), rates, turned_away, _UNRECORDED)
    forwarded = Forwarded(limits, networks(http.trusted_proxies), networks(http.allow), turned_away)

    async def run(stop: asyncio.Event) -> None:
        await asyncio.gather(turned_away.run(stop), hub.run(stop))

    return Front(SecurityHeaders(Cors(forwarded, built.database)), run)


def web_app(built: House, hub: Hub | None = None, turned_away: TurnedAway | None = None) -> FastAPI:
    """The HTTP faces under one roof. With a hub, which must run beside them, websockets of subscriptions."""
    settings = built.settings
    signed_tokens = built.authority.tokens
    https = settings.base_url.startswith("https:")
    known = KnownClients(built.database)
    authenticate = every_request.remembered(
        credentials.authenticator(credentials.Credentials(built.database, signed_tokens, known, https))
    )
    web = FastAPI(title="Wetread", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    open_sockets: Sized = ()
    if hub is not None and turned_away is not None:
        most = settings.subscriptions.most_sockets
        sockets = Sockets(built.database, hub, authenticate, turned_away, settings.fhir_base, most)
        web.router.routes.append(subscription_sockets.route(sockets))
        open_sockets = sockets.open
    web.include_router(health.router(built.database, authenticate, open_sockets))
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
            topics=built.subscriptions.topics,
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
                people(settings),
                credentials.COOKIE,
                built.site.time_zone,
                settings.demo,
                https,
                identity_providers(settings, built.fetch),
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

    web.add_middleware(Preflights, database=built.database)
    # The last to be added stands around all others.
    web.add_middleware(every_request.EveryRequest, database=built.database, unrecorded=_UNRECORDED)
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
