"""A person at their browser who lets an app in at a running server, without script; and the app that asks them.

What the app knows of the server it knows from discovery. Its JWTs are PyJWT's, which shares no code with ours.
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from tests.flow.conftest import Hospital
from tests.forms import hidden
from tests.smart_apps import ASSERTION, Key, Pkce
from wetread.access import secrets
from wetread.access.clients import clients, registration
from wetread.access.people import accounts, passwords
from wetread.store import embedded
from wetread.store.database import Connection, Database

_T = TypeVar("_T")

BACK = "http://127.0.0.1:9/back"
LAUNCH = "http://127.0.0.1:9/launch"
SCOPE = "launch/patient openid fhirUser offline_access patient/Patient.rs patient/Observation.rs patient/Encounter.rs"
PASSWORD = "correct horse battery staple"
_CHOICE = re.compile(r'name="patient" value="([^"]+)"')
_TICKED = re.compile(r'<input type="checkbox"[^>]*? name="(allow[^"]*)" value="([^"]*)" checked')
_VISIT = re.compile(r'name="encounter" value="([^"]+)"')


def add_person(hospital: Hospital, name: str, role: str = "radiologist", fhir_user: str = "") -> None:
    """Somebody who signs in with PASSWORD."""

    async def add(conn: Connection) -> None:
        await accounts.add(conn, name, "Ana Example", (role,), fhir_user=fhir_user)
        await passwords.keep(conn, name, await passwords.Passwords().hashed(PASSWORD))

    _within(hospital, add)


def add_client(hospital: Hospital, client_id: str, kind: str, scope: str, key: Key | None = None, **more: Any) -> str:
    """Registers a client; gives the secret of a symmetric one."""

    async def add(conn: Connection) -> str:
        jwks = {"keys": [key.jwk]} if key else None
        grants = ("client_credentials",) if "redirect_uris" not in more else ("authorization_code", "refresh_token")
        asked = {"name": "Launch check", "grant_types": grants, "jwks": jwks, **more}
        await clients.add(conn, client_id, registration.checked(kind=kind, scope=scope, **asked))
        return (await secrets.make(conn, client_id, timedelta(days=1))).text if kind == "symmetric" else ""

    return _within(hospital, add)


def _within(hospital: Hospital, work: Callable[[Connection], Awaitable[_T]]) -> _T:
    """Beside the running server, on its database, as the operator's commands are."""

    async def done(url: str) -> _T:
        database = Database(url)
        await database.open()
        try:
            async with database.transaction() as conn:
                return await work(conn)
        finally:
            await database.close()

    with embedded.borrowed(hospital.server.data_dir) as url:
        return asyncio.run(done(url))


@dataclass
class Person:
    """Their browser: cookies, and forms that are filled in."""

    url: str
    name: str
    cookies: httpx.Cookies = field(default_factory=httpx.Cookies)

    def asks(self, method: str, address: str, **sent: Any) -> httpx.Response:
        with httpx.Client(base_url=self.url, cookies=self.cookies, timeout=30) as browser:
            answer = browser.request(method, address, **sent)
            self.cookies = browser.cookies
            return answer

    def at(self, address: str) -> httpx.Response:
        """The page at an address, through the door where it is shut."""
        page = self.asks("GET", address)
        if page.is_redirect and urlsplit(page.headers["location"]).path == "/login":
            page = self.signed_in(page.headers["location"])
        return page

    def signed_in(self, address: str) -> httpx.Response:
        door = self.asks("GET", address)
        entered = self._send(door, "/login", name=self.name, password=PASSWORD)
        assert entered.is_redirect or "refresh" in entered.headers, entered.text
        onward = entered.headers.get("location") or entered.headers["refresh"].removeprefix("0; url=")
        return self.asks("GET", onward)

    def answers(
        self,
        address: str,
        *,
        patient: str = "",
        family: str = "",
        decision: str = "allow",
        without: Collection[str] = (),
        visit: bool = False,
    ) -> dict[str, str]:
        """From an app's request to what the app gets back: through login, choice of patient and consent."""
        page = self.at(address)
        if not page.is_redirect and "/oauth/authorize/patient" in page.text:
            found = self._send(page, "/oauth/authorize/patient", name=family)
            assert patient in _CHOICE.findall(found.text), found.text
            page = self._send(found, "/oauth/authorize/consent", patient=patient)
        if not page.is_redirect:
            assert page.status_code == 200, page.text
            ticked = {name: html.unescape(value) for name, value in _TICKED.findall(page.text)}
            given = {name: value for name, value in ticked.items() if value not in without}
            visits = {"encounter": _VISIT.findall(page.text)[0]} if visit else {}
            page = self._send(page, "/oauth/authorize/decision", decision=decision, **given, **visits)
        assert page.is_redirect, page.text
        return back(page)

    def _send(self, page: httpx.Response, action: str, **typed: str) -> httpx.Response:
        return self.asks("POST", action, data={**hidden(page, action), **typed})


def back(answer: httpx.Response) -> dict[str, str]:
    """The parameters that an app gets at its redirect URI."""
    location = answer.headers["location"]
    assert location.startswith(BACK), location
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


@dataclass
class App:
    """An app that finds the server by its FHIR base, and proves itself by its secret or key, or not at all."""

    fhir: str
    client_id: str
    secret: str = ""
    key: Key | None = None
    configuration: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.configuration = httpx.get(f"{self.fhir}/.well-known/smart-configuration", timeout=30).json()

    def parameters(self, pkce: Pkce, **changed: str | None) -> dict[str, str]:
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": BACK,
            "scope": SCOPE,
            "state": "st/ä +&",
            "aud": self.fhir,
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
            **changed,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def request(self, pkce: Pkce, **changed: str | None) -> str:
        """The address that the app sends the browser to."""
        return f"{self.configuration['authorization_endpoint']}?{urlencode(self.parameters(pkce, **changed))}"

    def token(self, **form: str | None) -> httpx.Response:
        sent = {name: value for name, value in form.items() if value is not None}
        auth = None
        if self.key is not None:
            audience = self.configuration["token_endpoint"]
            proof = self.key.assertion(self.client_id, aud=audience)
            sent = {"client_assertion_type": ASSERTION, "client_assertion": proof, **sent}
        elif self.secret:
            auth = httpx.BasicAuth(self.client_id, self.secret)
        else:
            sent = {"client_id": self.client_id, **sent}
        return httpx.post(self.configuration["token_endpoint"], data=sent, auth=auth, timeout=30)

    def exchange(self, code: str, pkce: Pkce, **changed: str | None) -> httpx.Response:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": BACK,
            "code_verifier": pkce.verifier,
            **changed,
        }
        return self.token(**form)

    def let_in(self, person: Person, *, patient: str = "", family: str = "", **changed: Any) -> dict[str, Any]:
        """All the way to the token response."""
        answer = {name: changed.pop(name) for name in ("without", "visit") if name in changed}
        pkce = Pkce.new()
        came_back = person.answers(self.request(pkce, **changed), patient=patient, family=family, **answer)
        assert "code" in came_back, came_back
        answered = self.exchange(came_back["code"], pkce)
        assert answered.status_code == 200, answered.text
        body: dict[str, Any] = answered.json()
        return body

    def read(self, token: str, path: str) -> httpx.Response:
        return httpx.get(f"{self.fhir}/{path}", headers={"Authorization": f"Bearer {token}"}, timeout=30)
