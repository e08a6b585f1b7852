"""Who is at the browser: the cookies that say so, and what every page's header shows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from wetread.access.people import known_devices, sessions
from wetread.access.people.sessions import Signed
from wetread.console.rendering import keeps_its_opener, redirect
from wetread.store.database import Connection

SIGN_OUT = "sign out"
AUTHORIZE = "/oauth/authorize"
"""Where an app sends people."""


@dataclass(frozen=True, slots=True)
class Cookies:
    """Names of our cookies: of a session, of a login under way here or at an identity provider, of the logout there, of
    a browser that somebody has signed in with, and of the operator's token. With https they are bound to this host
    (`__Host-`, RFC 6265bis 4.1.3.2) and never sent without it."""

    operator: str
    https: bool

    @property
    def session(self) -> str:
        return sessions.cookie_name(https=self.https)

    @property
    def login(self) -> str:
        return "__Host-wetread_login" if self.https else "wetread_login"

    @property
    def provider_login(self) -> str:
        return "__Host-wetread_provider_login" if self.https else "wetread_provider_login"

    @property
    def provider_logout(self) -> str:
        return "__Host-wetread_provider_logout" if self.https else "wetread_provider_logout"

    @property
    def device(self) -> str:
        return "__Host-wetread_device" if self.https else "wetread_device"

    def value(self, request: Request) -> str:
        """What the browser is signed in by; empty where it is not."""
        return request.cookies.get(self.operator) or request.cookies.get(self.session, "")

    def put(self, answer: Response, name: str, value: str) -> None:
        """For the browser's own session, out of reach of scripts. It comes with a link from elsewhere, such as an EHR's
        launch or a provider's answer (SameSite=Lax); the operator's token does not, nor what a logout needs."""
        strict = name in (self.operator, self.provider_logout)
        answer.set_cookie(
            name, value, secure=self.https, httponly=True, samesite="strict" if strict else "lax", path="/"
        )

    def remember(self, answer: Response, value: str) -> None:
        """Of the browser, longer than it is open."""
        most_s = int(known_devices.REMEMBERED.total_seconds())
        answer.set_cookie(self.device, value, most_s, secure=self.https, httponly=True, samesite="strict", path="/")

    def drop(self, answer: Response, *names: str) -> None:
        for name in names:
            answer.delete_cookie(name, secure=self.https, httponly=True, samesite="lax", path="/")


async def signed_in(conn: Connection, request: Request, cookies: Cookies) -> Signed | None:
    """The person whose session the browser shows; None also for the operator's token, which is no person's."""
    value = request.cookies.get(cookies.session)
    return await sessions.person(conn, value) if value else None


def to_login(request: Request) -> Response:
    """To the door, and from there back here."""
    goal = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return on_the_way(redirect(f"/login?next={quote(goal, safe='')}"), goal)


def on_the_way(answer: Response, goal: str) -> Response:
    """A page or redirect on somebody's way to `goal`: the window may be one that an app has opened."""
    return keeps_its_opener(answer) if is_of_an_app(goal) else answer


def is_of_an_app(goal: str) -> bool:
    return goal == AUTHORIZE or goal.startswith((f"{AUTHORIZE}?", f"{AUTHORIZE}/"))


def header(request: Request, cookies: Cookies, name: str) -> dict[str, Any]:
    """What every page of somebody signed in shows at its top."""
    return {
        "principal": name,
        "has_own_page": cookies.session in request.cookies,
        "sign_out_token": sessions.form_token(cookies.value(request), SIGN_OUT),
    }
