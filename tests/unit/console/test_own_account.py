"""A person's own page: password, second factor, and where they are signed in."""

from __future__ import annotations

import re

import httpx
import pyotp
from tests.forms import hidden, send
from tests.read_studies import Site, audited
from tests.unit.console.conftest import PASSWORD, Hire, SignIn

from wetread.access.people import accounts, sessions
from wetread.store.database import Database

NEW = "a better staple for the horse"
PASSWORD_FORM, FACTOR_FORM, END_FORM = "/account/password", "/account/second-factor", "/account/sessions/end"


async def _change(browser: httpx.AsyncClient, now: str, new: str, again: str) -> httpx.Response:
    page = await browser.get("/account")
    return await send(browser, page, PASSWORD_FORM, password=now, new=new, again=again)


async def test_the_page_opens_to_somebody_signed_in_only(
    visitor: httpx.AsyncClient, radiologist: httpx.AsyncClient
) -> None:
    assert (await visitor.get("/account")).headers["location"] == "/login?next=%2Faccount"
    assert (await visitor.get(FACTOR_FORM)).headers["location"].startswith("/login")
    for form in (PASSWORD_FORM, FACTOR_FORM, END_FORM):
        assert (await visitor.post(form)).headers["location"] == "/login"
    assert (await radiologist.get("/account")).status_code == 303, "the operator's token is no person's"


async def test_a_new_password_takes_the_place_of_the_old_one_and_ends_other_sessions(
    visitor: httpx.AsyncClient, other_browser: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    await sign_in(visitor)
    await sign_in(other_browser)

    assert (await _change(visitor, PASSWORD, NEW, NEW)).status_code == 303

    assert (await visitor.get("/account")).status_code == 200
    assert (await other_browser.get("/account")).status_code == 303
    assert (await sign_in(other_browser, password=PASSWORD)).status_code == 401
    assert (await sign_in(other_browser, password=NEW)).status_code == 303
    assert ("account-changed", "0", "maria") in [row[:3] for row in await audited(database)]


async def test_a_new_password_needs_the_old_one_and_is_a_good_one(
    visitor: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    await sign_in(visitor)
    for now, new, again, status in (
        ("not " + PASSWORD, NEW, NEW, 401),
        (PASSWORD, NEW, NEW + "?", 400),
        (PASSWORD, "short", "short", 400),
        (PASSWORD, "maria-maria-maria", "maria-maria-maria", 400),
    ):
        answer = await _change(visitor, now, new, again)
        assert answer.status_code == status
        assert new not in answer.text
        assert PASSWORD not in answer.text
    assert (await sign_in(visitor)).status_code == 303
    refusals = [row[:3] for row in await audited(database) if row[0] == "account-changed"]
    assert refusals == [("account-changed", "4", "maria")] * 4


async def test_the_old_password_cannot_be_guessed_at_a_screen_left_open(
    visitor: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    await sign_in(visitor)
    for _ in range(3):
        await _change(visitor, "a wrong guess", NEW, NEW)
    assert (await _change(visitor, PASSWORD, NEW, NEW)).status_code == 401
    assert [row[:3] for row in await audited(database)].count(("account-locked", "0", "maria")) == 1


async def test_a_form_of_another_page_or_browser_changes_nothing(
    visitor: httpx.AsyncClient, other_browser: httpx.AsyncClient, hire: Hire, sign_in: SignIn
) -> None:
    await hire()
    await hire("eve")
    await sign_in(visitor)
    await sign_in(other_browser, "eve")
    eves = await other_browser.get("/account")
    typed = {"password": PASSWORD, "new": NEW, "again": NEW}
    for stolen in (hidden(eves, PASSWORD_FORM), hidden(await visitor.get("/account"), END_FORM), {}):
        answer = await visitor.post(PASSWORD_FORM, data={**stolen, **typed})
        assert answer.status_code == 403
    assert (await sign_in(visitor, password=PASSWORD)).status_code == 303


async def test_a_person_sets_up_a_second_factor(
    visitor: httpx.AsyncClient, other_browser: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    await sign_in(visitor)
    await sign_in(other_browser)
    page = await visitor.get(FACTOR_FORM)
    found = re.search(r"secret=([A-Z2-7]{32})", page.text)
    assert found is not None
    app = pyotp.TOTP(found.group(1))

    for code, password, status in (("000000", PASSWORD, 400), (app.now(), "wrong", 401)):
        answer = await send(visitor, page, FACTOR_FORM, code=code, password=password)
        assert answer.status_code == status
        assert f"secret={app.secret}" in answer.text, "the app keeps what it has scanned"
    answer = await send(visitor, page, FACTOR_FORM, code=app.now(), password=PASSWORD)

    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    assert "set up" in (await visitor.get("/account")).text
    assert (await other_browser.get("/account")).status_code == 303
    assert (await sign_in(other_browser)).headers["location"] == "/login/code"
    replayed = await send(other_browser, await other_browser.get("/login/code"), "/login/code", code=app.now())
    assert replayed.status_code == 401, "the code of the set-up has counted"


async def test_a_seed_that_was_sealed_for_another_person_is_not_taken(
    visitor: httpx.AsyncClient, console: Site, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    await sign_in(visitor)
    seed = pyotp.random_base32(32)
    typed = {"code": pyotp.TOTP(seed).now(), "password": PASSWORD}
    for sealed in (console.people.seeds.seal("eve", seed).hex(), "00", "", "xyz"):
        page = await visitor.get(FACTOR_FORM)
        assert (await send(visitor, page, FACTOR_FORM, **{**typed, "sealed": sealed})).status_code == 400
    async with database.transaction() as conn:
        assert not (await accounts.named(conn, "maria")).has_totp


async def test_a_person_sees_and_ends_their_own_sessions_only(
    visitor: httpx.AsyncClient, other_browser: httpx.AsyncClient, hire: Hire, sign_in: SignIn, database: Database
) -> None:
    await hire()
    await hire("eve")
    await sign_in(other_browser)
    await sign_in(visitor)
    page = await visitor.get("/account")
    assert page.text.count('name="session"') == 2
    assert page.text.count("(this one)") == 1
    assert "10.1.2.3" in page.text
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT digest FROM login_session ORDER BY authenticated_at")
        [marias] = [row[0].hex() for row in (await rows.fetchall())[:1]]

    async with httpx.AsyncClient(transport=visitor._transport, base_url="http://wetread.test") as third:
        await sign_in(third, "eve")
        answer = await send(third, await third.get("/account"), END_FORM, session=marias)
        assert answer.status_code == 404
    assert (await other_browser.get("/account")).status_code == 200

    for session, status in (("zz", 400), (marias, 303)):
        assert (await send(visitor, page, END_FORM, session=session)).status_code == status
    assert (await other_browser.get("/account")).status_code == 303
    assert (await visitor.get("/account")).status_code == 200
    ended = [row for row in await audited(database) if row[:3] == ("logout", "0", "maria")]
    assert ended, await audited(database)


async def test_whom_an_identity_provider_vouches_for_changes_these_things_there(
    visitor: httpx.AsyncClient, console: Site, database: Database
) -> None:
    async with database.transaction() as conn:
        eve = await accounts.vouched(conn, "https://sso.example", "7", "Eve <b>", ["radiologist"], "")
        value = await sessions.begin(conn, eve.name, console.people.lifetime)
    visitor.cookies.set("wetread_session", value)
    page = await visitor.get("/account")
    assert "through https://sso.example" in page.text
    assert "Eve &lt;b&gt;" in page.text
    assert PASSWORD_FORM not in page.text
    assert 'name="code"' not in (await visitor.get(FACTOR_FORM)).text
