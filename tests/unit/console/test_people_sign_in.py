"""People at the door: by password, by password and code, and whoever tries to get past it."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import timedelta

import httpx
import pyotp
import pytest
from argon2 import PasswordHasher
from tests.forms import hidden, send
from tests.read_studies import Site, audited, site
from tests.unit.console.conftest import PASSWORD, Hire, SignIn

from wetread.access.people import accounts, attempts, passwords, sessions, totp
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
WRONG = "wrong horse battery staple"


async def test_name_and_password_open_the_worklist(
    visitor: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    answer = await sign_in(visitor, " Maria ")

    assert (answer.status_code, answer.headers["location"]) == (303, "/worklist")
    [cookie] = [line for line in answer.headers.get_list("set-cookie") if line.startswith("wetread_session=")]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie
    assert not re.search("max-age|expires|domain", cookie, re.IGNORECASE)
    page = await visitor.get("/worklist")
    assert page.status_code == 200
    assert 'Signed in as <a href="/account">Maria Curie</a>' in page.text
    assert [row[:3] for row in await audited(database)] == [
        ("page-viewed", "0", "anonymous"),
        ("login", "0", "maria"),
        ("page-viewed", "0", "maria"),
    ]


async def test_with_https_the_cookies_are_bound_to_this_host(
    database: Database, blobs: LocalBlobs, hire: Hire, sign_in: SignIn
) -> None:
    await hire()
    behind_tls = site(database, blobs, https=True)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(behind_tls.app), base_url="https://wetread.test"
    ) as browser:
        answer = await sign_in(browser)
        assert answer.status_code == 303
        [cookie] = [
            line for line in answer.headers.get_list("set-cookie") if line.startswith("__Host-wetread_session=")
        ]
        assert "Secure" in cookie
        assert (await browser.get("/worklist")).status_code == 200


async def test_what_is_refused_tells_nobody_which_names_there_are(
    visitor: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    """A wrong password, a name that nobody has, a disabled person, one of an identity provider, and a closed name."""
    await hire("maria")
    await hire("gone")
    await hire("closed")
    async with database.transaction() as conn:
        await accounts.disable(conn, "gone")
        await accounts.vouched(conn, "https://sso.example", "7", "Eve", ["radiologist"], "")
        await conn.execute(
            "UPDATE account SET failures = 3, locked_until = now() + interval '1 h' WHERE name = 'closed'"
        )
    told = set()
    for name, password in (
        ("maria", WRONG),
        ("nobody", PASSWORD),
        ("gone", PASSWORD),
        ("https://sso.example#7", PASSWORD),
        ("closed", PASSWORD),
        ("\x00", "\x00"),
        ("", ""),
    ):
        answer = await sign_in(visitor, name, password)
        assert not [line for line in answer.headers.get_list("set-cookie") if "session" in line]
        told.add((answer.status_code, answer.text))
    [(status, page)] = told
    assert status == 401
    assert WRONG not in page
    assert PASSWORD not in page


async def test_a_name_that_nobody_has_takes_as_long(
    visitor: httpx.AsyncClient, console: Site, hire: Hire, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hire()
    hashes: list[str] = []
    verify = console.people.passwords._verified
    monkeypatch.setattr(
        console.people.passwords, "_verified", lambda kept, password: (hashes.append(kept), verify(kept, password))[1]
    )
    for name in ("maria", "nobody"):
        await sign_in(visitor, name, WRONG)
    known, unknown = hashes
    assert known != unknown
    assert known.split("$")[:4] == unknown.split("$")[:4]


async def test_what_was_typed_as_a_name_is_not_kept_since_it_may_be_a_password(
    visitor: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    await sign_in(visitor, PASSWORD, "")
    await sign_in(visitor, "maria", WRONG)
    assert [row[:3] for row in await audited(database) if row[0] == "login"] == [
        ("login", "4", "anonymous"),
        ("login", "4", "maria"),
    ]
    async with database.transaction() as conn:
        [(bodies,)] = await (await conn.execute("SELECT string_agg(body, '') FROM audit_event")).fetchall()
    assert PASSWORD not in bodies
    assert WRONG not in bodies


async def test_guessing_closes_the_name_even_to_the_right_password(
    visitor: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    for _ in range(3):
        assert (await sign_in(visitor, password=WRONG)).status_code == 401
    assert (await sign_in(visitor)).status_code == 401
    kinds = [row[:3] for row in await audited(database)]
    assert kinds.count(("account-locked", "0", "maria")) == 1

    async with database.transaction() as conn:
        await conn.execute("UPDATE account SET locked_until = clock_timestamp() - interval '1 second'")
    assert (await sign_in(visitor)).status_code == 303
    async with database.transaction() as conn:
        assert (await accounts.named(conn, "maria")).failures == 0


async def test_guesses_that_come_all_at_once_are_no_more_than_those_one_by_one(
    console: Site, database: Database, visitor: httpx.AsyncClient, hire: Hire
) -> None:
    await hire()
    page = await visitor.get("/login")
    guesses = [f"guess number {number}" for number in range(20)]
    answers = await asyncio.gather(
        *(send(visitor, page, "/login", name="maria", password=guess) for guess in [*guesses, PASSWORD])
    )
    assert {answer.status_code for answer in answers} <= {303, 401}
    async with database.transaction() as conn:
        account = await accounts.named(conn, "maria")
    assert account.failures <= console.people.rule.after


async def test_a_session_that_was_planted_before_is_worth_nothing_after(
    visitor: httpx.AsyncClient, other_browser: httpx.AsyncClient, hire: Hire, sign_in: SignIn
) -> None:
    await hire()
    for name in ("wetread_session", "wetread_login"):
        for browser in (visitor, other_browser):
            browser.cookies.set(name, "planted-by-eve", "wetread.test", "/")
    assert (await sign_in(visitor)).status_code == 303
    assert visitor.cookies["wetread_session"] != "planted-by-eve"
    assert (await visitor.get("/worklist")).status_code == 200
    assert (await other_browser.get("/worklist")).status_code == 303


async def test_signing_in_anew_ends_the_session_before(visitor: httpx.AsyncClient, hire: Hire, sign_in: SignIn) -> None:
    await hire()
    await sign_in(visitor)
    before = visitor.cookies["wetread_session"]
    await sign_in(visitor)
    assert visitor.cookies["wetread_session"] != before
    visitor.cookies.clear()
    visitor.cookies.set("wetread_session", before)
    assert (await visitor.get("/worklist")).status_code == 303


async def test_a_form_that_was_not_made_for_this_browser_signs_nobody_in(
    visitor: httpx.AsyncClient, other_browser: httpx.AsyncClient, hire: Hire
) -> None:
    """Login CSRF: Eve's site sends Eve's name and password from Maria's browser, with a token of Eve's own page."""
    await hire("eve")
    eves_page = await other_browser.get("/login")
    await visitor.get("/login")
    for stolen in (hidden(eves_page, "/login"), {}, {"form_token": ""}, {"form_token": "\u00e9"}):
        answer = await visitor.post("/login", data={**stolen, "name": "eve", "password": PASSWORD})
        assert answer.status_code == 403
        assert "wetread_session" not in visitor.cookies
    other_purpose = hidden(await visitor.get("/login"), "/login/token")
    answer = await visitor.post("/login", data={**other_purpose, "name": "eve", "password": PASSWORD})
    assert answer.status_code == 403


async def test_without_the_cookie_of_the_page_its_form_token_is_worth_nothing(
    visitor: httpx.AsyncClient, hire: Hire
) -> None:
    await hire()
    page = await visitor.get("/login")
    visitor.cookies.clear()
    assert (await send(visitor, page, "/login", name="maria", password=PASSWORD)).status_code == 403
    empty = sessions.form_token("", "sign in")
    answer = await visitor.post("/login", data={"form_token": empty, "name": "maria", "password": PASSWORD})
    assert answer.status_code == 403


async def test_after_the_door_people_go_on_here_and_nowhere_else(visitor: httpx.AsyncClient, hire: Hire) -> None:
    await hire()
    page = await visitor.get("/login", params={"next": "//evil.example/"})
    assert hidden(page, "/login")["next"] == "/worklist"
    forged = {**hidden(page, "/login"), "next": "//evil.example/", "name": "maria", "password": PASSWORD}
    answer = await visitor.post("/login", data=forged)
    assert (answer.status_code, answer.headers["location"]) == (303, "/worklist")


async def _with_second_factor(console: Site, database: Database, name: str) -> None:
    async with database.transaction() as conn:
        await totp.keep(conn, console.people.seeds, name, SEED, 0)


def _code(ahead_s: int = 0) -> str:
    return pyotp.TOTP(SEED).at(int(time.time()) + ahead_s)


async def test_strangers_who_guess_do_not_shut_out_who_has_been_here_before(
    visitor: httpx.AsyncClient,
    other_browser: httpx.AsyncClient,
    console: Site,
    hire: Hire,
    sign_in: SignIn,
    database: Database,
) -> None:
    await hire()
    await _with_second_factor(console, database, "maria")
    await sign_in(visitor)
    first = await send(visitor, await visitor.get("/login/code"), "/login/code", code=_code())
    [cookie] = [line for line in first.headers.get_list("set-cookie") if line.startswith("wetread_device=")]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Max-Age=7776000" in cookie
    visitor.cookies.delete("wetread_session")
    for _ in range(4):
        assert (await sign_in(other_browser, password=WRONG)).status_code == 401
    assert (await sign_in(other_browser)).status_code == 401
    again = await sign_in(visitor)
    assert (again.status_code, again.headers["location"]) == (303, "/login/code")
    page = await visitor.get("/login/code")
    assert (await send(visitor, page, "/login/code", code=_code(30))).headers["location"] == "/worklist"
    for _ in range(3):
        assert (await sign_in(visitor, password=WRONG)).status_code == 401
    assert (await sign_in(visitor)).status_code == 401, "a browser closes by its own failures"


async def test_who_has_a_second_factor_shows_its_code_too(
    visitor: httpx.AsyncClient, console: Site, database: Database, hire: Hire, sign_in: SignIn
) -> None:
    await hire()
    await _with_second_factor(console, database, "maria")
    answer = await sign_in(visitor, path="/login?next=/worklist?x=1")
    assert answer.headers["location"] == "/login/code"
    assert "wetread_session" not in visitor.cookies
    assert (await visitor.get("/worklist")).headers["location"].startswith("/login?")
    page = await visitor.get("/login/code")
    assert SEED not in page.text
    answer = await send(visitor, page, "/login/code", code=_code())
    assert (answer.status_code, answer.headers["location"]) == (303, "/worklist?x=1")
    assert (await visitor.get("/worklist")).status_code == 200


async def test_a_code_counts_once(
    visitor: httpx.AsyncClient,
    other_browser: httpx.AsyncClient,
    console: Site,
    database: Database,
    hire: Hire,
    sign_in: SignIn,
) -> None:
    """Eve looks over Maria's shoulder, and knows her password too."""
    await hire()
    await _with_second_factor(console, database, "maria")
    for browser in (visitor, other_browser):
        await sign_in(browser)
    code = _code()
    assert (await send(visitor, await visitor.get("/login/code"), "/login/code", code=code)).status_code == 303
    answer = await send(other_browser, await other_browser.get("/login/code"), "/login/code", code=code)
    assert answer.status_code == 401
    assert "wetread_session" not in other_browser.cookies


async def test_codes_cannot_be_guessed_by_beginning_again(
    visitor: httpx.AsyncClient, console: Site, database: Database, hire: Hire, sign_in: SignIn
) -> None:
    """The right password does not end the count of wrong codes, and a closed name stays closed to the right code."""
    await hire()
    await _with_second_factor(console, database, "maria")
    guessed = 0
    for _ in range(10):
        if (await sign_in(visitor)).status_code == 303:
            page = await visitor.get("/login/code")
            assert (await send(visitor, page, "/login/code", code="000000")).status_code == 401
            guessed += 1
    assert guessed == console.people.rule.after
    page = await visitor.get("/login/code")
    assert (await send(visitor, page, "/login/code", code=_code())).status_code == 401


async def test_the_code_page_opens_to_nobody_who_did_not_show_a_password(visitor: httpx.AsyncClient) -> None:
    assert (await visitor.get("/login/code")).headers["location"] == "/login"
    await visitor.get("/login")
    assert (await visitor.get("/login/code")).headers["location"] == "/login"
    value = visitor.cookies["wetread_login"]
    token = sessions.form_token(value, "sign in by code")
    answer = await visitor.post("/login/code", data={"form_token": token, "code": "123456"})
    assert answer.headers["location"] == "/login"
    assert (await visitor.post("/login/code", data={"code": "123456"})).status_code == 403


async def test_a_login_that_is_under_way_does_not_wait_for_ever(
    visitor: httpx.AsyncClient, console: Site, database: Database, hire: Hire, sign_in: SignIn
) -> None:
    await hire()
    await _with_second_factor(console, database, "maria")
    await sign_in(visitor)
    page = await visitor.get("/login/code")
    async with database.transaction() as conn:
        await conn.execute("UPDATE pending_login SET expires_at = clock_timestamp()")
    answer = await send(visitor, page, "/login/code", code=_code())
    assert answer.headers["location"] == "/login"


async def test_a_role_that_needs_the_second_factor_sets_it_up_at_the_door(
    visitor: httpx.AsyncClient, other_browser: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire("root", ["administrator"])
    for browser in (visitor, other_browser):
        assert (await sign_in(browser, "root")).headers["location"] == "/login/code"
    page = await visitor.get("/login/code")
    address = re.search(r'href="(otpauth://[^"]+)"', page.text)
    assert address is not None
    app = pyotp.parse_uri(address.group(1).replace("&amp;", "&"))
    assert isinstance(app, pyotp.TOTP)
    assert (app.name, app.issuer) == ("root", "Wetread")
    assert (await send(visitor, page, "/login/code", code="000000")).status_code == 401
    assert (await visitor.get("/worklist")).status_code == 303
    answer = await send(visitor, page, "/login/code", code=app.now())
    assert (answer.status_code, answer.headers["location"]) == (303, "/worklist")
    assert ("account-changed", "0", "root") in [row[:3] for row in await audited(database)]

    late = await other_browser.get("/login/code")
    seed = re.search(r"secret=([A-Z2-7]+)", late.text)
    assert seed is not None
    answer = await send(other_browser, late, "/login/code", code=pyotp.TOTP(seed.group(1)).now())
    assert answer.status_code == 401, "a seed that somebody else was shown does not take the place of the one set up"


async def test_a_disabled_person_is_out_at_once(
    visitor: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    await sign_in(visitor)
    async with database.transaction() as conn:
        await accounts.disable(conn, "maria")
    assert (await visitor.get("/worklist")).status_code == 303


async def test_signing_out_ends_the_session_and_not_only_the_cookie(
    visitor: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    await sign_in(visitor)
    value = visitor.cookies["wetread_session"]
    page = await visitor.get("/worklist")
    assert (await visitor.post("/logout")).status_code == 403
    assert (await visitor.get("/worklist")).status_code == 200
    answer = await send(visitor, page, "/logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "wetread_session" not in visitor.cookies
    visitor.cookies.set("wetread_session", value)
    assert (await visitor.get("/worklist")).status_code == 303
    assert ("logout", "0", "maria") in [row[:3] for row in await audited(database)]


async def test_a_page_that_refreshes_itself_does_not_keep_an_absent_person_signed_in(
    visitor: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    await sign_in(visitor)

    async def idle_for(minutes: int) -> None:
        async with database.transaction() as conn:
            await conn.execute("UPDATE login_session SET seen_at = seen_at - %s", (timedelta(minutes=minutes),))

    by_script = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    await idle_for(20)
    assert (await visitor.get("/worklist/table", headers=by_script)).status_code == 200
    await idle_for(15)
    assert (await visitor.get("/worklist/table", headers=by_script)).status_code == 303
    await sign_in(visitor)
    for _ in range(3):
        await idle_for(20)
        assert (await visitor.get("/worklist")).status_code == 200


async def test_a_password_that_was_hashed_with_older_parameters_is_hashed_anew(
    visitor: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    older = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1).hash(PASSWORD)
    async with database.transaction() as conn:
        await passwords.keep(conn, "maria", older)
    assert (await sign_in(visitor)).status_code == 303
    async with database.transaction() as conn:
        newer = await passwords.kept(conn, "maria")
    assert newer is not None
    assert "t=1," in newer
    assert (await sign_in(visitor)).status_code == 303


async def test_a_right_password_takes_its_attempt_back(database: Database, hire: Hire, console: Site) -> None:
    await hire()
    async with database.transaction() as conn:
        attempt = await attempts.begin(conn, "maria", console.people.rule)
        assert attempt is not None
        await attempts.take_back(conn, attempt)
        assert (await accounts.named(conn, "maria")).failures == 0
