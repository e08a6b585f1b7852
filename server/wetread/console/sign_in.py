"""The door: name and password, then the code of an authenticator app; or, for the operator, a token of `wetread token`.

What a refusal says is the same for a name that nobody has, a closed name, a wrong password and a disabled account.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from wetread.access.people import accounts, attempts, known_devices, passwords, pending_logins, sessions, totp
from wetread.access.people.accounts import Account
from wetread.access.people.attempts import Attempt, LockOut
from wetread.access.people.passwords import Passwords
from wetread.access.people.sessions import Lifetime
from wetread.access.people.totp import Seeds
from wetread.access.tokens import Tokens
from wetread.console import forms, visitor
from wetread.console.audited import entry
from wetread.console.rendering import Pages, redirect
from wetread.console.visitor import Cookies
from wetread.errors import Forbidden, Unauthorized, WetreadError
from wetread.record.audit import audit
from wetread.store.database import Connection, Database

_BY_PASSWORD, _BY_TOKEN, _BY_CODE = "sign in", "sign in by token", "sign in by code"
_PENDING = timedelta(minutes=10)
_REFUSED = (
    "name and password do not fit, or there were too many attempts; after several failures a name is closed for a while"
)
_WRONG_CODE = "this code does not fit, or was used before, or there were too many attempts; try the next one"


@dataclass(frozen=True)
class People:
    """How people sign in here. People of `totp_roles` need a second factor."""

    passwords: Passwords
    seeds: Seeds
    rule: LockOut
    lifetime: Lifetime
    totp_roles: frozenset[str]


@dataclass(frozen=True)
class Door:
    database: Database
    tokens: Tokens
    people: People
    cookies: Cookies
    pages: Pages
    providers: tuple[tuple[str, str], ...] = ()
    """Identity providers that people sign in through, by name and label."""


def router(door: Door) -> APIRouter:
    routes = APIRouter(include_in_schema=False)
    database, people, cookies, pages = door.database, door.people, door.cookies, door.pages

    @routes.get("/login")
    async def show_login(request: Request) -> Response:
        async with database.transaction() as conn:
            await audit.write(conn, entry(request, None, "page-viewed"))
        return login_page(request, forms.own_path(request.query_params.get("next", "")))

    def login_page(request: Request, goal: str, error: WetreadError | None = None) -> Response:
        """With the browser's own form tokens; the cookie that they hang on is made where there is none."""
        known = request.cookies.get(cookies.login, "")
        value = known or secrets.token_urlsafe(32)
        shown = {
            "error": error,
            "next": goal,
            "providers": door.providers,
            "password_token": sessions.form_token(value, _BY_PASSWORD),
            "operator_token": sessions.form_token(value, _BY_TOKEN),
        }
        answer = pages.page("login.html", shown, error.http_status if error else 200)
        if not known:
            cookies.put(answer, cookies.login, value)
        return visitor.on_the_way(answer, goal)

    async def refused(request: Request, principal: str, error: WetreadError, *also: audit.AuditEntry) -> None:
        async with database.transaction() as conn:
            await audit.write_many(conn, [entry(request, principal, "login", error=error), *also])

    @routes.post("/login")
    async def login(request: Request) -> Response:
        goal = forms.HOME
        try:
            given = await forms.own_fields(request, request.cookies.get(cookies.login, ""), _BY_PASSWORD)
            goal = forms.own_path(given.get("next", ""))
            return await by_password(request, given.get("name", "").strip().casefold(), given.get("password", ""), goal)
        except NotProven as error:
            closed = [entry(request, error.principal, "account-locked")] if error.closes else []
            await refused(request, error.principal, error, *closed)
            return login_page(request, goal, error)
        except WetreadError as error:
            await refused(request, "anonymous", error)
            return login_page(request, goal, error)

    async def by_password(request: Request, name: str, password: str, goal: str) -> Response:
        account = await proven(database, people, name, password, request.cookies.get(cookies.device, ""))
        if account.has_totp:
            return await further(request, {"account": account.name, "next": goal})
        if account.roles & people.totp_roles:
            sealed = people.seeds.seal(account.name, totp.new_seed()).hex()
            return await further(request, {"account": account.name, "next": goal, "seed": sealed})
        async with database.transaction() as conn:
            return await enter(conn, request, account.name, goal, "password")

    async def further(request: Request, state: Mapping[str, Any]) -> Response:
        """To the page of the second factor, with a new value in the browser: what it held before opens nothing."""
        async with database.transaction() as conn:
            value = await pending_logins.put(conn, state, _PENDING)
        answer = redirect("/login/code")
        cookies.put(answer, cookies.login, value)
        return visitor.on_the_way(answer, state["next"])

    async def enter(conn: Connection, request: Request, name: str, goal: str, how: str) -> Response:
        """A new session, whatever the browser held before."""
        before = await visitor.signed_in(conn, request, cookies)
        if before is not None:
            await sessions.end(conn, before.account.name, before.digest)
        device = request.cookies.get(cookies.device, "")
        await attempts.succeeded(conn, name, device)
        network = request.client.host if request.client else ""
        value = await sessions.begin(conn, name, people.lifetime, network)
        await audit.write(conn, entry(request, name, "login", detail={"by": how}))
        answer = onward(goal)
        cookies.put(answer, cookies.session, value)
        cookies.remember(answer, await known_devices.remember(conn, name, device))
        cookies.drop(answer, cookies.login, cookies.operator)
        return answer

    def onward(goal: str) -> Response:
        """Where the person wanted to go. To an app's request by a page of its own: a browser holds all redirects that
        follow a form to the form-action of its page (CSP 3 6.4.1), and this one may end at the app."""
        if not visitor.is_of_an_app(goal):
            return redirect(goal)
        answer = pages.page("onward.html", {"goal": goal})
        answer.headers["Refresh"] = f"0; url={goal}"
        return visitor.on_the_way(answer, goal)

    @routes.get("/login/code")
    async def show_code(request: Request) -> Response:
        async with database.transaction() as conn:
            state = await pending_logins.look(conn, request.cookies.get(cookies.login, ""))
            await audit.write(conn, entry(request, state["account"] if state else None, "page-viewed"))
        return code_page(request, state) if state else redirect("/login")

    def code_page(request: Request, state: Mapping[str, Any], error: WetreadError | None = None) -> Response:
        shown: dict[str, Any] = {
            "error": error,
            "code_token": sessions.form_token(request.cookies[cookies.login], _BY_CODE),
            "seed": None,
        }
        if "seed" in state:
            shown["seed"] = people.seeds.open(state["account"], bytes.fromhex(state["seed"]))
            shown["address"] = totp.address(shown["seed"], state["account"])
        answer = pages.page("login_code.html", shown, error.http_status if error else 200)
        return visitor.on_the_way(answer, state["next"])

    @routes.post("/login/code")
    async def login_by_code(request: Request) -> Response:
        value = request.cookies.get(cookies.login, "")
        try:
            given = await forms.own_fields(request, value, _BY_CODE)
        except WetreadError as error:
            await refused(request, "anonymous", error)
            return login_page(request, forms.HOME, error)
        async with database.transaction() as conn:
            state = await pending_logins.look(conn, value)
            if state is None:
                await audit.write(conn, entry(request, None, "login", error=Unauthorized("the login took too long")))
                return redirect("/login")
            right, attempt = await is_right(conn, state, given.get("code", ""), request.cookies.get(cookies.device, ""))
            if right and await pending_logins.take(conn, value) is not None:
                return await enter(conn, request, state["account"], state["next"], "password and code")
            wrong = Unauthorized(_WRONG_CODE)
            await audit.write(conn, entry(request, state["account"], "login", error=wrong))
            if attempt is not None and attempt.closes:
                await audit.write(conn, entry(request, state["account"], "account-locked"))
        return code_page(request, state, wrong)

    async def is_right(
        conn: Connection, state: Mapping[str, Any], code: str, device: str
    ) -> tuple[bool, Attempt | None]:
        """Whether the code is the person's; a seed that they have just been shown becomes theirs by it."""
        name = state["account"]
        attempt = await attempts.begin(conn, name, people.rule, device)
        if attempt is None:
            return False, None
        if "seed" not in state:
            return await totp.count(conn, people.seeds, name, code), attempt
        seed = people.seeds.open(name, bytes.fromhex(state["seed"]))
        step = totp.step_of(seed, code)
        if step is None or (await accounts.named(conn, name)).has_totp:
            return False, attempt
        await totp.keep(conn, people.seeds, name, seed, step)
        await audit.write(conn, audit.AuditEntry("account-changed", "U", "0", name, detail={"what": "second factor"}))
        return True, attempt

    @routes.post("/login/token")
    async def login_by_token(request: Request) -> Response:
        """Takes the operator's token, and keeps it in a cookie that no script and no other site can use."""
        try:
            given = await forms.own_fields(request, request.cookies.get(cookies.login, ""), _BY_TOKEN)
            token = given.get("token", "").strip()
            reader = door.tokens.verify(token)
            if reader.client_id:
                raise Unauthorized("this token was given to an app; only one of `wetread token` signs in here")
        except WetreadError as error:
            await refused(request, "anonymous", error)
            return login_page(request, forms.HOME, error)
        async with database.transaction() as conn:
            await audit.write(conn, entry(request, reader, "login", detail={"by": "token"}))
        answer = redirect(forms.own_path(given.get("next", "")))
        cookies.put(answer, cookies.operator, token)
        cookies.drop(answer, cookies.login)
        return answer

    @routes.post("/logout")
    async def logout(request: Request) -> Response:
        """Ends the session. The operator's token is forgotten here, but stays valid until it expires."""
        value = cookies.value(request)
        try:
            await forms.own_fields(request, value, visitor.SIGN_OUT)
        except Forbidden as error:
            async with database.transaction() as conn:
                await audit.write(conn, entry(request, None, "access-denied", error=error))
            return pages.page("error.html", {"error": error}, error.http_status)
        async with database.transaction() as conn:
            signed = await visitor.signed_in(conn, request, cookies)
            if signed is not None:
                await sessions.end(conn, signed.account.name, signed.digest)
            await audit.write(conn, entry(request, signed.account.name if signed else operator(value), "logout"))
        answer = redirect("/logout/provider" if request.cookies.get(cookies.provider_logout) else "/login")
        cookies.drop(answer, cookies.session, cookies.operator, cookies.login)
        return answer

    def operator(value: str) -> str | None:
        try:
            return door.tokens.verify(value).principal
        except Unauthorized:
            return None  # an expired cookie is forgotten like any other

    return routes


class NotProven(Unauthorized):
    """`principal` is whose name it was, where there is such a one; `closes`: the name is closed by this failure."""

    def __init__(self, principal: str, *, closes: bool) -> None:
        super().__init__(_REFUSED)
        self.principal = principal
        self.closes = closes


async def proven(database: Database, people: People, name: str, password: str, device: str) -> Account:
    """The person, who has shown the password; what a failure counts is committed before the password is looked at.
    `device` is the cookie of a browser that somebody has signed in with, empty where there is none.

    Raises Unauthorized. What was typed as a name is told to nobody unless it is one: it may be a password.
    """
    async with database.transaction() as conn:
        attempt = await attempts.begin(conn, name, people.rule, device)
    if not await people.passwords.match(attempt.password_hash if attempt else None, password) or attempt is None:
        raise NotProven(attempt.name if attempt else "anonymous", closes=attempt is not None and attempt.closes)
    renewed = await people.passwords.hashed(password) if people.passwords.outdated(attempt.password_hash) else None
    async with database.transaction() as conn:
        await attempts.take_back(conn, attempt)
        if renewed is not None:
            await passwords.keep(conn, name, renewed)
        return await accounts.named(conn, name)
