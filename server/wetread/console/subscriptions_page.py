"""Subscriptions, as those see them who look after them: which lag, which fail, and what can be done about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response

from wetread.access.people import accounts, sessions
from wetread.console import forms, visitor
from wetread.console.audited import entry
from wetread.console.rendering import redirect
from wetread.console.sign_in import Door
from wetread.domain.reader import Reader
from wetread.errors import StoreUnavailable, Unauthorized, WetreadError
from wetread.record.audit import audit
from wetread.record.subscriptions import overview, switching, undecided
from wetread.store.database import Connection

Authenticate: TypeAlias = Callable[[Request], Awaitable[Reader]]
_Switch: TypeAlias = Callable[[Connection, Reader, str], Awaitable[audit.AuditEntry]]

_PURPOSE = "switch a subscription"
_MOST, _EVENTS = 200, 50


def router(door: Door, authenticate: Authenticate) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    database, cookies, pages = door.database, door.cookies, door.pages

    async def shown(
        request: Request, template: str, build: Callable[[Connection, Reader], Awaitable[dict[str, Any]]]
    ) -> Response:
        reader: Reader | None = None
        try:
            reader = await authenticate(request)
            async with database.transaction() as conn:
                values = await build(conn, reader)
                account = await accounts.by_name(conn, reader.principal)
                header = visitor.header(request, cookies, account.display_name if account else reader.principal)
                await audit.write(conn, entry(request, reader, "page-viewed"))
        except WetreadError as error:
            return await refused(request, reader, error, "page-viewed")
        return pages.page(template, {**values, **header})

    async def refused(request: Request, reader: Reader | None, error: WetreadError, kind: str) -> Response:
        if not isinstance(error, StoreUnavailable):
            said = "access-denied" if error.http_status in (401, 403) else kind
            async with database.transaction() as conn:
                await audit.write(conn, entry(request, reader, said, error=error))
        if isinstance(error, Unauthorized):
            return visitor.to_login(request) if request.method == "GET" else redirect("/login")
        header = visitor.header(request, cookies, reader.principal) if reader else {}
        return pages.page("error.html", {"error": error, **header}, error.http_status)

    @routes.get("/subscriptions")
    async def show_all(request: Request) -> Response:
        state = request.query_params.get("state", "")
        chosen = (state,) if state in overview.STATES else ()

        async def build(conn: Connection, reader: Reader) -> dict[str, Any]:
            found = await overview.subscriptions(conn, reader, _MOST, chosen)
            totals = await overview.totals(conn)
            failed = await undecided.for_operators(conn, reader)
            return {"found": found, "totals": totals, "chosen": chosen, "most": _MOST, "undecided": failed}

        return await shown(request, "subscriptions.html", build)

    @routes.get("/subscriptions/{subscription_id}")
    async def show_one(request: Request, subscription_id: str) -> Response:
        async def build(conn: Connection, reader: Reader) -> dict[str, Any]:
            one = await overview.subscription(conn, reader, subscription_id)
            return {
                "one": one,
                "events": await overview.events_about(conn, reader, one, _EVENTS),
                "switch_token": sessions.form_token(cookies.value(request), _PURPOSE),
            }

        return await shown(request, "subscription.html", build)

    async def switched(request: Request, subscription_id: str, switch: _Switch) -> Response:
        reader: Reader | None = None
        try:
            await forms.own_fields(request, cookies.value(request), _PURPOSE)
            async with database.transaction() as conn:
                signed = await visitor.signed_in(conn, request, cookies)
                operator = request.cookies.get(cookies.operator, "")
                reader = signed.account.reader() if signed else door.tokens.verify(operator)
                await audit.write(conn, await switch(conn, reader, subscription_id))
        except WetreadError as error:
            return await refused(request, reader, error, "subscription-changed")
        return redirect(f"/subscriptions/{quote(subscription_id, safe='')}")

    @routes.post("/subscriptions/{subscription_id}/off")
    async def switch_off(request: Request, subscription_id: str) -> Response:
        return await switched(request, subscription_id, switching.switch_off)

    @routes.post("/subscriptions/{subscription_id}/ask-again")
    async def ask_again(request: Request, subscription_id: str) -> Response:
        return await switched(request, subscription_id, switching.ask_again)

    return routes
