"""The door through the hospital's identity provider, and the way out again. Answers and refusals are audited; what the
provider sends in an address (code, state) is kept nowhere."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from wetread.access.people import sessions
from wetread.access.people.accounts import Account
from wetread.access.providers import identity_providers, logout_tokens
from wetread.access.providers.identity_providers import IdentityProvider, UnderWay, Vouched
from wetread.console import forms, visitor
from wetread.console.audited import entry
from wetread.console.rendering import redirect
from wetread.console.sign_in import Door
from wetread.errors import Forbidden, NotFound, Unauthorized, WetreadError
from wetread.record.audit import audit
from wetread.store.database import Connection

_NOT_UNDER_WAY = "this login is over, was used before, or was begun in another browser; sign in once more"
_IN_NO_GROUP = "you are in no group that may use this server; ask who manages it"
_DISABLED = "your account is disabled here; ask who manages this server"


@dataclass(frozen=True)
class ProviderDoor:
    """`providers` by the name in their addresses; `after_logout` is our page that a provider sends people back to."""

    door: Door
    providers: Mapping[str, IdentityProvider]
    after_logout: str


def router(at: ProviderDoor) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    door = at.door
    database, pages = door.database, door.pages
    cookies = door.cookies

    async def refused(
        request: Request, error: WetreadError, provider: str, who: str = "anonymous", kind: str = "login"
    ) -> Response:
        async with database.transaction() as conn:
            await audit.write(conn, entry(request, who, kind, error=error, detail={"by": provider}))
        return pages.page("error.html", {"error": error}, error.http_status)

    @routes.get("/login/provider/{name}")
    async def begin(request: Request, name: str) -> Response:
        """To the provider. A link and no form: a browser follows no redirect of a form to another site (CSP 3
        form-action), and whoever is sent here by another site ends where they would have, as themselves."""
        browser = request.cookies.get(cookies.provider_login) or secrets.token_urlsafe(32)
        try:
            provider = _named(at.providers, name)
            metadata = await provider.documents.metadata()
        except WetreadError as error:
            return await refused(request, error, name)
        goal = forms.own_path(request.query_params.get("next", ""))
        async with database.transaction() as conn:
            answer = redirect(await provider.begin(conn, metadata, browser, goal))
        cookies.put(answer, cookies.provider_login, browser)
        return visitor.on_the_way(answer, goal)

    @routes.get("/login/provider/{name}/callback")
    async def come_back(request: Request, name: str) -> Response:
        """The provider's authorization response (OpenID Connect Core 1.0, 3.1.2.5)."""
        given = dict(request.query_params)
        async with database.transaction() as conn:
            under_way = await identity_providers.take(
                conn, given.get("state", ""), request.cookies.get(cookies.provider_login, "")
            )
        who = "anonymous"
        try:
            provider = _named(at.providers, name)
            if under_way is None or under_way.provider != name:
                raise Unauthorized(_NOT_UNDER_WAY)
            vouched = await provider.redeem(await provider.documents.metadata(), under_way, given)
            who = f"{provider.provider.issuer}#{vouched.claims['sub']}"
            async with database.transaction() as conn:
                account = await provider.admit(conn, vouched.claims)
            if account is None or account.disabled_at is not None:
                raise Forbidden(_IN_NO_GROUP if account is None else _DISABLED)
            async with database.transaction() as conn:
                return await enter(conn, request, account, under_way, vouched)
        except WetreadError as error:
            return await refused(request, error, name, who)

    async def enter(
        conn: Connection, request: Request, account: Account, under_way: UnderWay, vouched: Vouched
    ) -> Response:
        """A new session, whatever the browser held before."""
        before = await visitor.signed_in(conn, request, cookies)
        if before is not None:
            await sessions.end(conn, before.account.name, before.digest)
        lifetime = door.people.lifetime
        network = request.client.host if request.client else ""
        sid = vouched.claims.get("sid", "")
        provider_session = sid if isinstance(sid, str) else ""
        value = await sessions.begin(conn, account.name, lifetime, network, provider_session)
        logout = await identity_providers.keep_for_logout(conn, under_way.provider, vouched.id_token, lifetime.most)
        detail = {"by": under_way.provider, "roles": " ".join(sorted(account.roles))}
        await audit.write(conn, entry(request, account.name, "login", detail=detail))
        answer = redirect(under_way.onward)
        cookies.put(answer, cookies.session, value)
        cookies.drop(answer, cookies.login, cookies.operator, cookies.provider_login)
        cookies.put(answer, cookies.provider_logout, logout)
        return visitor.on_the_way(answer, under_way.onward)

    @routes.post("/login/provider/{name}/backchannel-logout")
    async def signed_out_there(request: Request, name: str) -> Response:
        """The provider tells that somebody is signed out there (OpenID Connect Back-Channel Logout 1.0, 2.5, 2.8)."""
        try:
            provider = _named(at.providers, name)
            token = (await forms.fields(request)).get("logout_token", "")
            told = await provider.logged_out(token)
            async with database.transaction() as conn:
                offline_too = provider.provider.logout_ends_offline
                ended = await logout_tokens.end(conn, door.tokens.revocations, told, offline_too=offline_too)
                detail = {"by": name, "how": "back-channel"}
                await audit.write_many(
                    conn, [entry(request, who, "logout", detail=detail) for who in ended or ("anonymous",)]
                )
        except WetreadError as error:
            await refused(request, error, name, kind="logout")
            return _told({"error": "invalid_request", "error_description": error.message}, 400)
        return _told({}, 200)

    @routes.get("/logout/provider")
    async def leave(request: Request) -> Response:
        """Who has just signed out here goes on to sign out at the provider (OpenID Connect RP-Initiated Logout 1.0, 2),
        by themselves after a moment or by the link."""
        async with database.transaction() as conn:
            signed = await visitor.signed_in(conn, request, cookies)
            kept = (
                None
                if signed
                else await identity_providers.take_for_logout(conn, request.cookies.get(cookies.provider_logout, ""))
            )
        if signed is not None:
            return redirect(forms.HOME)
        provider = at.providers.get(kept[0]) if kept else None
        if kept is None or provider is None:
            return redirect("/login")
        try:
            url = provider.logout_url(await provider.documents.metadata(), kept[1], at.after_logout)
        except WetreadError as error:
            answer = await refused(request, error, provider.provider.name, kind="logout")
            cookies.drop(answer, cookies.provider_logout)
            return answer
        if url is None:
            answer = redirect("/login")
        else:
            shown = {"url": url, "provider": provider.provider.display_name}
            answer = pages.page("logout_provider.html", shown)
            answer.headers["Refresh"] = f"0; url={url}"
        cookies.drop(answer, cookies.provider_logout)
        return answer

    return routes


def _told(content: Mapping[str, str], status: int) -> Response:
    return JSONResponse(content, status, {"Cache-Control": "no-store"})


def _named(providers: Mapping[str, IdentityProvider], name: str) -> IdentityProvider:
    if name not in providers:
        raise NotFound("no identity provider has this name here")
    return providers[name]
