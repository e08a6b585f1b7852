"""Asking for findings that the site shows on request."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response

from wetread.access.people import sessions
from wetread.console import forms, visitor
from wetread.console.audited import entry
from wetread.console.rendering import redirect
from wetread.console.sign_in import Door
from wetread.console.visitor import Cookies
from wetread.domain.reader import Reader
from wetread.errors import WetreadError
from wetread.reading import answers
from wetread.record.audit import audit

_PURPOSE = "show findings"


def form_token(request: Request, cookies: Cookies) -> str:
    return sessions.form_token(cookies.value(request), _PURPOSE)


def router(door: Door) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    database, cookies = door.database, door.cookies

    @routes.post("/worklist/{study_id}/reveal")
    async def reveal(request: Request, study_id: str) -> Response:
        """Shows what one run found, from now on, to the person who asks."""
        reader: Reader | None = None
        try:
            given = await forms.own_fields(request, cookies.value(request), _PURPOSE)
            async with database.transaction() as conn:
                signed = await visitor.signed_in(conn, request, cookies)
                operator = request.cookies.get(cookies.operator, "")
                reader = signed.account.reader() if signed else door.tokens.verify(operator)
                study = await answers.reveal(conn, reader, given.get("run", ""))
        except WetreadError as error:
            kind = "access-denied" if error.http_status in (401, 403) else "page-viewed"
            async with database.transaction() as conn:
                await audit.write(conn, entry(request, reader, kind, error=error))
            return door.pages.page("error.html", {"error": error}, error.http_status)
        return redirect(f"/worklist/{quote(study.id, safe='')}")

    return routes
