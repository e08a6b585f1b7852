"""The worklist, the page of one study, and the door to both.

Every view leaves an AuditEvent, committed before the page leaves; so does every refusal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from starlette.responses import Response

from wetread.access.tokens import Tokens
from wetread.console.rendering import Pages, redirect, static_file, static_files
from wetread.console.study_page import study_view
from wetread.domain.reader import Reader
from wetread.errors import Forbidden, NotFound, StoreUnavailable, TooLarge, Unauthorized, WetreadError
from wetread.reading import worklist
from wetread.reading.studies import Study
from wetread.record.audit import audit
from wetread.store.database import Connection, Database

Authenticate: TypeAlias = Callable[[Request], Awaitable[Reader]]
_Build: TypeAlias = Callable[[Connection, Reader], Awaitable[tuple[dict[str, Any], Study | None]]]

_FORM_LIMIT_BYTES = 16 * 1024
_WORKLIST_LENGTH = 200


@dataclass(frozen=True)
class Console:
    """What the pages stand on. `cookie` is the name under which `authenticate` looks for the token."""

    database: Database
    tokens: Tokens
    authenticate: Authenticate
    cookie: str
    zone: ZoneInfo
    demo: bool
    https: bool


def router(console: Console) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    pages = Pages(console.zone, console.demo)
    files = static_files()

    async def shown(request: Request, template: str, build: _Build) -> Response:
        """One page in one transaction with its AuditEvent. Who is not signed in is sent to the door."""
        reader: Reader | None = None
        try:
            reader = await console.authenticate(request)
            async with console.database.transaction() as conn:
                values, study = await build(conn, reader)
                await audit.write(conn, _entry(request, reader, "page-viewed", study=study))
        except Unauthorized as error:
            await refused(request, reader, error)
            return redirect("/login")
        except WetreadError as error:
            await refused(request, reader, error)
            return pages.page(
                "error.html", {"error": error, "principal": reader and reader.principal}, error.http_status
            )
        return pages.page(template, {**values, "principal": reader.principal})

    async def refused(request: Request, reader: Reader | None, error: WetreadError) -> None:
        if not isinstance(error, StoreUnavailable):
            kind = "access-denied" if error.http_status in (401, 403) else "page-viewed"
            await written(_entry(request, reader, kind, error=error))

    async def written(entry: audit.AuditEntry) -> None:
        async with console.database.transaction() as conn:
            await audit.write(conn, entry)

    async def entries(conn: Connection, reader: Reader) -> tuple[dict[str, Any], None]:
        return {"entries": await worklist.entries(conn, reader, _WORKLIST_LENGTH)}, None

    @routes.get("/worklist")
    async def show_worklist(request: Request) -> Response:
        return await shown(request, "worklist.html", entries)

    @routes.get("/worklist/table")
    async def show_worklist_table(request: Request) -> Response:
        """The table alone, for the script that keeps the page live."""
        return await shown(request, "worklist_table.html", entries)

    @routes.get("/worklist/{study_id}")
    async def show_study(request: Request, study_id: str) -> Response:
        async def build(conn: Connection, reader: Reader) -> tuple[dict[str, Any], Study]:
            view = await study_view(conn, reader, study_id, demo=console.demo)
            return {"view": view}, view.study

        return await shown(request, "study.html", build)

    @routes.get("/login")
    async def show_login(request: Request) -> Response:
        await written(_entry(request, None, "page-viewed"))
        return pages.page("login.html", {"error": None, "principal": None})

    @routes.post("/login")
    async def login(request: Request) -> Response:
        """Takes a token in the form, and keeps it in a cookie that no script and no other site can use."""
        try:
            _require_own_form(request)
            token = (await _form(request)).get("token", "").strip()
            reader = console.tokens.verify(token)
        except WetreadError as error:
            await written(_entry(request, None, "login", error=error))
            return pages.page("login.html", {"error": error, "principal": None}, error.http_status)
        await written(_entry(request, reader, "login"))
        answer = redirect("/worklist")
        answer.set_cookie(console.cookie, token, secure=is_secure(request), httponly=True, samesite="strict")
        return answer

    @routes.post("/logout")
    async def logout(request: Request) -> Response:
        """Forgets the cookie. The token itself stays valid until it expires."""
        reader: Reader | None = None
        try:
            _require_own_form(request)
            reader = console.tokens.verify(request.cookies.get(console.cookie, ""))
        except Forbidden as error:
            await refused(request, None, error)
            return pages.page("error.html", {"error": error, "principal": None}, error.http_status)
        except Unauthorized:
            pass  # an expired cookie is forgotten like any other
        await written(_entry(request, reader, "logout"))
        answer = redirect("/login")
        answer.delete_cookie(console.cookie, secure=is_secure(request), httponly=True, samesite="strict")
        return answer

    def is_secure(request: Request) -> bool:
        return console.https or request.url.scheme == "https"

    @routes.get("/console/{name}")
    async def show_file(name: str) -> Response:
        if name not in files:
            raise NotFound("no file has this name")
        return static_file(name, files[name])

    return routes


def _require_own_form(request: Request) -> None:
    """Refuses a form that another site sent (Sec-Fetch-Site, W3C Fetch Metadata): it could sign a person in as
    someone else. Raises Forbidden."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("this form came from another site; open the page here and send it again")


async def _form(request: Request) -> dict[str, str]:
    """An application/x-www-form-urlencoded body. Raises TooLarge."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_LIMIT_BYTES:
            raise TooLarge(f"a form holds at most {_FORM_LIMIT_BYTES} bytes")
    return {name: values[0] for name, values in parse_qs(body.decode("ascii", "replace")).items()}


def _entry(
    request: Request,
    reader: Reader | None,
    kind: str,
    *,
    study: Study | None = None,
    error: WetreadError | None = None,
) -> audit.AuditEntry:
    """Who looked at which page from where, whose study it showed, and how it ended."""
    entry = audit.AuditEntry(
        kind=kind,
        action="E" if kind in ("login", "logout") else "R",
        outcome="0" if error is None else "8" if error.http_status >= 500 else "4",
        outcome_text=error.message if error else "",
        principal="",
        network=request.client.host if request.client else "",
        patient_id=study.patient_id if study else None,
        entities=(audit.Entity(f"ImagingStudy/{study.id}", identifier=f"urn:oid:{study.study_instance_uid}"),)
        if study
        else (),
        detail={"method": request.method, "path": request.url.path},
        request_id=request.headers.get("x-request-id", ""),
    )
    return audit.Asker.of(reader).said_of(entry)
