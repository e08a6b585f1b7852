"""A person's own page: their password, their second factor, and where they are signed in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from fastapi import APIRouter, Request
from starlette.responses import Response

from wetread.access.people import passwords, sessions, totp
from wetread.access.people.sessions import Signed
from wetread.console import forms, visitor
from wetread.console.audited import entry
from wetread.console.rendering import redirect
from wetread.console.sign_in import Door, NotProven, proven
from wetread.errors import Forbidden, InvalidInput, NotFound, WetreadError
from wetread.record.audit import audit
from wetread.store.database import Connection

_Fields: TypeAlias = dict[str, str]
_Do: TypeAlias = Callable[[Request, Signed, _Fields], Awaitable[Response]]
_Again: TypeAlias = Callable[[Request, Signed, _Fields, WetreadError], Awaitable[Response]]

_PASSWORD, _FACTOR, _END = "change password", "change second factor", "end session"


def router(door: Door) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    database, people, cookies, pages = door.database, door.people, door.cookies, door.pages

    async def who(request: Request, conn: Connection) -> Signed | None:
        return await visitor.signed_in(conn, request, cookies)

    @routes.get("/account")
    async def show(request: Request) -> Response:
        async with database.transaction() as conn:
            signed = await who(request, conn)
            if signed is None:
                return visitor.to_login(request)
            await audit.write(conn, entry(request, signed.account.name, "page-viewed"))
            return await account_page(conn, request, signed)

    async def account_page(
        conn: Connection, request: Request, signed: Signed, error: WetreadError | None = None
    ) -> Response:
        shown = {
            "account": signed.account,
            "sessions": await sessions.open_ones(conn, signed.account.name),
            "this": signed.digest,
            "minimum_length": people.passwords.minimum_length,
            "error": error,
            **tokens(request, password_token=_PASSWORD, end_token=_END),
        }
        return page(request, signed, "account.html", shown, error)

    def page(
        request: Request, signed: Signed, template: str, shown: dict[str, Any], error: WetreadError | None
    ) -> Response:
        header = visitor.header(request, cookies, signed.account.display_name)
        return pages.page(template, {**shown, **header}, error.http_status if error else 200)

    def tokens(request: Request, **purposes: str) -> dict[str, str]:
        cookie = request.cookies.get(cookies.session, "")
        return {name: sessions.form_token(cookie, purpose) for name, purpose in purposes.items()}

    async def changing(request: Request, purpose: str, do: _Do, again: _Again) -> Response:
        """One form of somebody signed in. A refusal is put on record, and shown on the page that `again` makes."""
        async with database.transaction() as conn:
            signed = await who(request, conn)
        if signed is None:
            return redirect("/login")
        given: _Fields = {}
        try:
            given = await forms.own_fields(request, request.cookies[cookies.session], purpose)
            return await do(request, signed, given)
        except WetreadError as error:
            name, kind = signed.account.name, "access-denied" if isinstance(error, Forbidden) else "account-changed"
            async with database.transaction() as conn:
                await audit.write(conn, entry(request, name, kind, error=error))
                if isinstance(error, NotProven) and error.closes:
                    await audit.write(conn, entry(request, name, "account-locked"))
            return await again(request, signed, given, error)

    async def account_again(request: Request, signed: Signed, given: _Fields, error: WetreadError) -> Response:
        async with database.transaction() as conn:
            return await account_page(conn, request, signed, error)

    @routes.post("/account/password")
    async def change_password(request: Request) -> Response:
        return await changing(request, _PASSWORD, set_password, account_again)

    async def set_password(request: Request, signed: Signed, given: _Fields) -> Response:
        """Ends the person's other sessions: who knew the old password may be in one of them."""
        name, wanted = signed.account.name, given.get("new", "")
        await require_password(request, signed, given)
        if wanted != given.get("again", ""):
            raise InvalidInput("the new password was not typed twice the same")
        people.passwords.require_good(name, wanted)
        hashed = await people.passwords.hashed(wanted)
        async with database.transaction() as conn:
            await passwords.keep(conn, name, hashed)
            await sessions.end_all(conn, name, but=signed.digest)
            await audit.write(conn, entry(request, name, "account-changed", detail={"what": "password"}))
        return redirect("/account")

    async def require_password(request: Request, signed: Signed, given: _Fields) -> None:
        """That it is still the person who sits there. Raises Unauthorized; failures count as at the door."""
        device = request.cookies.get(cookies.device, "")
        await proven(database, people, signed.account.name, given.get("password", ""), device)

    @routes.get("/account/second-factor")
    async def show_second_factor(request: Request) -> Response:
        async with database.transaction() as conn:
            signed = await who(request, conn)
            if signed is None:
                return visitor.to_login(request)
            await audit.write(conn, entry(request, signed.account.name, "page-viewed"))
        return factor_page(request, signed, totp.new_seed())

    def factor_page(request: Request, signed: Signed, seed: str, error: WetreadError | None = None) -> Response:
        name = signed.account.name
        shown = {
            "account": signed.account,
            "seed": seed,
            "sealed": people.seeds.seal(name, seed).hex(),
            "address": totp.address(seed, name),
            "error": error,
            **tokens(request, factor_token=_FACTOR),
        }
        return page(request, signed, "second_factor.html", shown, error)

    async def factor_again(request: Request, signed: Signed, given: _Fields, error: WetreadError) -> Response:
        """With the same seed, so that the app has it but once."""
        try:
            seed = opened(signed, given)
        except WetreadError:
            seed = totp.new_seed()
        return factor_page(request, signed, seed, error)

    def opened(signed: Signed, given: _Fields) -> str:
        try:
            return people.seeds.open(signed.account.name, bytes.fromhex(given.get("sealed", "")))
        except ValueError as error:
            raise InvalidInput("the seed of this form is not of this server; open the page again") from error

    @routes.post("/account/second-factor")
    async def change_second_factor(request: Request) -> Response:
        return await changing(request, _FACTOR, set_second_factor, factor_again)

    async def set_second_factor(request: Request, signed: Signed, given: _Fields) -> Response:
        name, seed = signed.account.name, opened(signed, given)
        await require_password(request, signed, given)
        step = totp.step_of(seed, given.get("code", ""))
        if step is None:
            raise InvalidInput("this code does not fit; look whether the clocks agree, and try the next one")
        async with database.transaction() as conn:
            await totp.keep(conn, people.seeds, name, seed, step)
            await sessions.end_all(conn, name, but=signed.digest)
            await audit.write(conn, entry(request, name, "account-changed", detail={"what": "second factor"}))
        return redirect("/account")

    @routes.post("/account/sessions/end")
    async def end_session(request: Request) -> Response:
        return await changing(request, _END, end_one, account_again)

    async def end_one(request: Request, signed: Signed, given: _Fields) -> Response:
        try:
            session = bytes.fromhex(given.get("session", ""))
        except ValueError as error:
            raise InvalidInput("no session has this name") from error
        async with database.transaction() as conn:
            if not await sessions.end(conn, signed.account.name, session):
                raise NotFound("this session is over")
            await audit.write(conn, entry(request, signed.account.name, "logout", detail={"of": "another session"}))
        return redirect("/account")

    return routes
