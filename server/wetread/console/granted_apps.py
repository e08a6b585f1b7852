"""What a person has let in: which apps, since when, for what; and taking it back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from wetread.access.clients import clients
from wetread.access.oauth import grants
from wetread.access.oauth.core import Authority
from wetread.access.people.sessions import Signed, form_token
from wetread.console import consent_words, forms, visitor
from wetread.console.audited import entry
from wetread.console.rendering import redirect
from wetread.console.sign_in import Door
from wetread.errors import NotFound, WetreadError
from wetread.record.audit import audit
from wetread.store.database import Connection

_PATH = "/account/apps"
_WITHDRAW = "withdraw access"


@dataclass(frozen=True, slots=True)
class GrantedApp:
    grant_id: str
    name: str
    sentences: tuple[str, ...]
    since: datetime
    until: datetime
    ends_with_login: bool


def router(door: Door, authority: Authority) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    database, cookies, pages = door.database, door.cookies, door.pages

    @routes.get(_PATH)
    async def show(request: Request) -> Response:
        async with database.transaction() as conn:
            signed = await visitor.signed_in(conn, request, cookies)
            if signed is None:
                return visitor.to_login(request)
            await audit.write(conn, entry(request, signed.account.name, "page-viewed"))
            shown: dict[str, Any] = {
                "apps": await _apps(conn, authority, signed),
                "withdraw_token": form_token(request.cookies[cookies.session], _WITHDRAW),
            }
        return pages.page("apps.html", {**shown, **visitor.header(request, cookies, signed.account.display_name)})

    @routes.post(f"{_PATH}/withdraw")
    async def withdraw(request: Request) -> Response:
        name: str | None = None
        try:
            async with database.transaction() as conn:
                signed = await visitor.signed_in(conn, request, cookies)
                if signed is None:
                    return redirect("/login")
                name = signed.account.name
                given = await forms.own_fields(request, request.cookies[cookies.session], _WITHDRAW)
                forms.require_text(given)
                grant = await grants.by_id(conn, given.get("grant", ""))
                if grant is None or grant.account_name != name:
                    raise NotFound("you have let in no app by this name, or took it back before")
                kept = authority.lifetimes.access
                await grants.revoke(conn, authority.tokens.revocations, grant.id, kept)
                detail = {"client": grant.client_id, "grant": grant.id}
                await audit.write(conn, entry(request, name, "access-withdrawn", detail=detail))
        except WetreadError as error:
            async with database.transaction() as conn:
                await audit.write(conn, entry(request, name, "access-withdrawn", error=error))
            return pages.page("error.html", {"error": error}, error.http_status)
        return redirect(_PATH)

    return routes


async def _apps(conn: Connection, authority: Authority, signed: Signed) -> list[GrantedApp]:
    names = {client.client_id: client.name for client in await clients.all_of_them(conn)}
    days = authority.lifetimes.offline.days
    return [
        GrantedApp(
            grant.id,
            names.get(grant.client_id, grant.client_id),
            tuple(consent_words.sentence(word, days) for word in grant.scope.split()),
            grant.created_at,
            grant.expires_at,
            grant.session_digest is not None,
        )
        for grant in await grants.of_account(conn, signed.account.name)
    ]
