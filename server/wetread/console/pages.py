"""The worklist and the page of one study; the door and the person's own page beside them.

Every view leaves an AuditEvent, committed before the page leaves; so does every refusal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from starlette.responses import Response

from wetread.access.clients.clients import Client
from wetread.access.oauth.core import Authority
from wetread.access.people import accounts
from wetread.access.providers.identity_providers import IdentityProvider
from wetread.access.tokens import Tokens
from wetread.console import (
    authorize,
    granted_apps,
    launching,
    own_account,
    provider_login,
    reveal,
    sign_in,
    subscriptions_page,
    visitor,
)
from wetread.console.audited import entry
from wetread.console.provider_login import ProviderDoor
from wetread.console.rendering import Pages, page_may_lead_to, static_file, static_files
from wetread.console.sign_in import Door, People
from wetread.console.study_page import study_view
from wetread.console.visitor import Cookies
from wetread.domain.reader import Reader
from wetread.errors import NotFound, StoreUnavailable, Unauthorized, WetreadError
from wetread.reading import worklist
from wetread.reading.studies import Study
from wetread.record.audit import audit
from wetread.record.subscriptions.overview import OPERATORS
from wetread.store.database import Connection, Database

Authenticate: TypeAlias = Callable[[Request], Awaitable[Reader]]
_Build: TypeAlias = Callable[[Connection, Reader], Awaitable[tuple[dict[str, Any], Study | None]]]

_WORKLIST_LENGTH = 200


@dataclass(frozen=True)
class Console:
    """What the pages stand on. `cookie` is the name under which `authenticate` looks for the operator's token."""

    database: Database
    tokens: Tokens
    authenticate: Authenticate
    people: People
    cookie: str
    zone: ZoneInfo
    demo: bool
    https: bool
    providers: Mapping[str, IdentityProvider] = field(default_factory=dict)
    """Identity providers by name."""
    base_url: str = ""
    authority: Authority | None = None
    """Who lets apps in; without it no page of that is here."""


def router(console: Console) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    pages = Pages(console.zone, console.demo)
    files = static_files()
    cookies = Cookies(console.cookie, console.https)
    labels = tuple((name, each.provider.display_name) for name, each in console.providers.items())
    door = Door(console.database, console.tokens, console.people, cookies, pages, labels)
    routes.include_router(sign_in.router(door))
    at = ProviderDoor(door, console.providers, f"{console.base_url}/login")
    routes.include_router(provider_login.router(at))
    routes.include_router(own_account.router(door))
    routes.include_router(reveal.router(door))
    routes.include_router(subscriptions_page.router(door, console.authenticate))
    if console.authority is not None:
        routes.include_router(authorize.router(door, console.authority))
        routes.include_router(granted_apps.router(door, console.authority))
        routes.include_router(launching.router(door, console.authority))

    async def shown(request: Request, template: str, build: _Build, *, unless_known: bool = False) -> Response:
        """One page in one transaction with its AuditEvent. Who is not signed in is sent to the door. `unless_known`:
        who has been shown just this is told so (304), and no row is added to that of the first time."""
        reader: Reader | None = None
        try:
            reader = await console.authenticate(request)
            async with console.database.transaction() as conn:
                values, study = await build(conn, reader)
                account = await accounts.by_name(conn, reader.principal)
                name = account.display_name if account else reader.principal
                answer = pages.page(template, {**values, **visitor.header(request, cookies, name)})
                if unless_known:
                    answer.headers["ETag"] = _mark(reader, answer)
                    if request.headers.get("if-none-match") == answer.headers["ETag"]:
                        request.state.told_nothing = True
                        return Response(None, 304, {"ETag": answer.headers["ETag"], "Cache-Control": "no-store"})
                await audit.write(conn, _viewed(request, reader, study))
        except Unauthorized as error:
            await refused(request, reader, error)
            return visitor.to_login(request)
        except WetreadError as error:
            await refused(request, reader, error)
            header = visitor.header(request, cookies, reader.principal) if reader else {}
            return pages.page("error.html", {"error": error, **header}, error.http_status)
        return answer

    async def refused(request: Request, reader: Reader | None, error: WetreadError) -> None:
        if not isinstance(error, StoreUnavailable):
            kind = "access-denied" if error.http_status in (401, 403) else "page-viewed"
            async with console.database.transaction() as conn:
                await audit.write(conn, entry(request, reader, kind, error=error))

    async def entries(conn: Connection, reader: Reader) -> tuple[dict[str, Any], None]:
        found = await worklist.entries(conn, reader, _WORKLIST_LENGTH)
        return {"entries": found, "looks_after_subscriptions": bool(reader.roles & OPERATORS)}, None

    @routes.get("/worklist")
    async def show_worklist(request: Request) -> Response:
        return await shown(request, "worklist.html", entries)

    @routes.get("/worklist/table")
    async def show_worklist_table(request: Request) -> Response:
        """The table alone, for the script that keeps the page live."""
        return await shown(request, "worklist_table.html", entries, unless_known=True)

    @routes.get("/worklist/{study_id}")
    async def show_study(request: Request, study_id: str) -> Response:
        apps: list[Client] = []

        async def build(conn: Connection, reader: Reader) -> tuple[dict[str, Any], Study]:
            view = await study_view(conn, reader, study_id, demo=console.demo)
            apps.extend(await launching.apps(conn) if console.authority else [])
            forms = {
                "reveal_token": reveal.form_token(request, cookies),
                "launch_token": launching.token(request, cookies),
            }
            return {"view": view, "apps": apps, **forms}, view.study

        answer = await shown(request, "study.html", build)
        # An app that is launched may send the browser on at once to ask for access, and hear there of a refusal.
        return page_may_lead_to(answer, *(uri for app in apps for uri in (app.launch_uri, *app.redirect_uris)))

    @routes.get("/console/{name}")
    async def show_file(name: str) -> Response:
        if name not in files:
            raise NotFound("no file has this name")
        return static_file(name, files[name])

    return routes


def _mark(reader: Reader, answer: Response) -> str:
    """An ETag (RFC 9110 8.8.3) of what this reader is shown; another's is of no use to them."""
    digest = hashlib.sha256(f"{reader.principal}\n".encode() + bytes(answer.body))
    return f'"{digest.hexdigest()}"'


def _viewed(request: Request, reader: Reader, study: Study | None) -> audit.AuditEntry:
    """Who looked at which page, and whose study it showed."""
    viewed = entry(request, reader, "page-viewed")
    if study is None:
        return viewed
    about = audit.Entity(f"ImagingStudy/{study.id}", identifier=f"urn:oid:{study.study_instance_uid}")
    return replace(viewed, patient_id=study.patient_id, entities=(about,))
