"""The pages on which a person lets an app in: without script, by keyboard, and by nobody else's form."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import httpx
import pytest
from argon2 import PasswordHasher
from markupsafe import escape
from tests.forms import hidden, send
from tests.smart_apps import BACK, App, Pkce, Site, smart_site

from wetread.access.people import accounts, passwords
from wetread.access.people.passwords import Passwords
from wetread.access.people.sessions import Signed
from wetread.store.database import Database

AUTHORIZE = "/oauth/authorize"
DECISION = f"{AUTHORIZE}/decision"
PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
async def site(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with smart_site(module_database, tmp_path_factory.mktemp("keys")) as built:
        await built.put(
            resourceType="Patient",
            id="pat1",
            name=[{"family": "Doe", "given": ["Jane"]}],
            birthDate="1970-01-02",
            identifier=[{"system": "urn:mrn", "value": "M-17"}],
        )
        await built.put(resourceType="Patient", id="pat2", name=[{"family": "Doering"}])
        coded = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP", "display": "inpatient"}
        for patient in ("pat1", "pat2"):
            await built.put(
                resourceType="Encounter",
                id=f"visit-{patient}",
                status="in-progress",
                **{"class": coded},
                subject={"reference": f"Patient/{patient}"},
            )
        yield built


@pytest.fixture
def database(module_database: Database) -> Database:
    return module_database


def came_back(answer: httpx.Response) -> dict[str, str]:
    """What the app is told by where the browser is sent."""
    location = answer.headers["location"]
    assert answer.status_code == 303
    assert location.startswith(f"{BACK}?"), location
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


def ticked(page: httpx.Response) -> dict[str, str]:
    """The checkboxes that a browser would send along."""
    boxes = re.findall(r'<input type="checkbox" id="[^"]+" name="([^"]+)" value="([^"]+)"( checked)?', page.text)
    return {name: value for name, value, checked in boxes if checked}


async def choose(browser: httpx.AsyncClient, page: httpx.Response, name: str = "Doe", at: int = 0) -> httpx.Response:
    """Searches and takes a patient: the consent page."""
    found = await send(browser, page, f"{AUTHORIZE}/patient", name=name)
    forms = re.findall(r'action="/oauth/authorize/consent">(.*?)</form>', found.text, re.DOTALL)
    fields = dict(re.findall(r'name="([^"]+)" value="([^"]*)"', forms[at]))
    fields["request"] = hidden(found, f"{AUTHORIZE}/consent")["request"]
    return await browser.post(f"{AUTHORIZE}/consent", data=fields)


async def asked(browser: httpx.AsyncClient, app: App, pkce: Pkce, **changed: Any) -> httpx.Response:
    return await browser.get(AUTHORIZE, params=app.request(pkce, **changed))


async def signed_in(site: Site, *roles: str) -> tuple[httpx.AsyncClient, Signed]:
    cookie, signed = await site.person(*(roles or ("radiologist",)))
    return site.browser(cookie), signed


async def test_a_person_chooses_a_patient_and_lets_an_app_in(site: Site, database: Database) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, signed = await signed_in(site)
    picker = await asked(browser, app, pkce)
    assert "Choose a patient for Nodule viewer" in picker.text
    consent = await choose(browser, picker)
    assert "Doe" in consent.text
    assert "born 1970-01-02" in consent.text
    assert "Go on working for you for 90 days, also when you are signed out" in consent.text
    answer = await send(browser, consent, DECISION, decision="allow", **ticked(consent))
    told = came_back(answer)
    assert told["state"] == "a state/ü+&="
    body = (await app.exchange(told["code"], pkce)).json()
    assert body["patient"] == "pat1"
    scopes = body["scope"].split()
    assert {"launch/patient", "openid", "fhirUser", "offline_access", "patient/ImagingStudy.rs"} <= set(scopes)
    assert not [scope for scope in scopes if "AuditEvent" in scope or "*" in scope], "a radiologist has no such right"
    read = await site.http.get("/fhir/Patient/pat1", headers={"Authorization": f"Bearer {body['access_token']}"})
    assert read.status_code == 200
    async with database.transaction() as conn:
        rows = await (
            await conn.execute(
                "SELECT kind, outcome, patient_id FROM audit_event WHERE principal = %s ORDER BY position",
                (signed.account.name,),
            )
        ).fetchall()
    found = [(kind, patient) for kind, outcome, patient in rows if outcome == "0"]
    assert {("page-viewed", "pat1"), ("page-viewed", "pat2"), ("app-authorized", "pat1")} <= set(found)


async def test_what_is_unticked_is_not_given(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, _ = await signed_in(site)
    consent = await choose(
        browser, await asked(browser, app, pkce, scope="launch/patient openid user/*.rs patient/*.rs")
    )
    boxes = {name: word for name, word in ticked(consent).items() if word != "user/*.rs"}
    told = came_back(await send(browser, consent, DECISION, decision="allow", **boxes))
    body = (await app.exchange(told["code"], pkce)).json()
    assert "user/" not in body["scope"]
    assert "patient/Observation.rs" in body["scope"]


async def test_nothing_that_was_not_asked_can_be_ticked(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, _ = await signed_in(site)
    consent = await asked(browser, app, pkce, scope="user/Patient.rs")
    forged = {**ticked(consent), "allow.9": "user/*.cruds", "allow.10": "offline_access"}
    told = came_back(await send(browser, consent, DECISION, decision="allow", **forged))
    assert (await app.exchange(told["code"], pkce)).json()["scope"] == "user/Patient.rs"


async def test_who_says_no_is_sent_back_with_access_denied(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, _ = await signed_in(site)
    picker = await asked(browser, app, pkce)
    at_once = came_back(await send(browser, picker, f"{AUTHORIZE}/refusal"))
    consent = await choose(browser, picker)
    later = came_back(await send(browser, consent, DECISION, decision="deny", **ticked(consent)))
    nothing = came_back(await send(browser, consent, DECISION, decision="allow"))
    for told in (at_once, later, nothing):
        assert (told["error"], told["state"]) == ("access_denied", "a state/ü+&=")
        assert "code" not in told


async def test_who_is_not_signed_in_goes_to_the_door_and_comes_back(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser = site.browser()
    door = await asked(browser, app, pkce)
    assert door.status_code == 303
    goal = parse_qs(urlsplit(door.headers["location"]).query)["next"][0]
    assert goal.startswith(f"{AUTHORIZE}?response_type=code&client_id={app.client_id}")
    login = await browser.get(door.headers["location"])
    assert hidden(login, "/login")["next"] == goal


async def test_every_page_on_an_apps_way_keeps_the_window_that_opened_it(site: Site, database: Database) -> None:
    hashed = await Passwords(hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)).hashed(PASSWORD)
    async with database.transaction() as conn:
        await accounts.add(conn, "opened", "Ana Example", ["radiologist"])
        await passwords.keep(conn, "opened", hashed)
    app, browser = await site.register(), site.browser()
    door = await asked(browser, app, Pkce.new())
    login = await browser.get(door.headers["location"])
    wrong = await send(browser, login, "/login", name="opened", password="wrong horse battery")
    onward = await send(browser, login, "/login", name="opened", password=PASSWORD)
    goal = hidden(login, "/login")["next"]
    assert onward.headers["refresh"] == f"0; url={goal}"
    assert f'<a href="{escape(goal)}">' in onward.text
    picker = await browser.get(goal)
    consent = await choose(browser, picker)
    back = await send(browser, consent, DECISION, decision="allow", **ticked(consent))
    for page in (door, login, wrong, onward, picker, consent, back):
        assert "cross-origin-opener-policy" not in page.headers
    assert "code" in came_back(back)
    for path in ("/login", "/login?next=/worklist", "/account", "/worklist"):
        assert (await browser.get(path)).headers["cross-origin-opener-policy"] == "same-origin", path


async def test_a_request_by_post_is_the_same(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, _ = await signed_in(site)
    onward = await browser.post(AUTHORIZE, data=app.request(pkce))
    assert onward.status_code == 303
    assert "Choose a patient" in (await browser.get(onward.headers["location"])).text


async def test_a_parameter_that_comes_twice_by_post_is_refused_too(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, _ = await signed_in(site)
    body = urlencode([*app.request(pkce).items(), ("scope", "user/*.cruds")])
    onward = await browser.post(AUTHORIZE, content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert (await browser.get(onward.headers["location"])).status_code == 400


async def test_what_is_no_text_is_refused(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, _ = await signed_in(site)
    assert (await asked(browser, app, pkce, nonce="a\x00b")).status_code == 400
    picker = await asked(browser, app, pkce)
    for typed in ({"name": "a\x00b"}, {"identifier": "\x00"}):
        assert (await send(browser, picker, f"{AUTHORIZE}/patient", **typed)).status_code == 400
    wish = {"client_id": app.client_id, "fhirContext": [{"canonical": "\x00"}]}
    for changed in ({}, {"client_id": "\x00"}, {"user": "\x00"}):
        begun = await site.http.post("/oauth/launch", json={**wish, **changed}, headers=site.operator())
        assert begun.status_code == 400


async def test_a_wrong_request_is_told_to_the_app_only_where_its_address_is_trusted(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, _ = await signed_in(site)
    evil = await asked(browser, app, pkce, redirect_uri="https://evil.example/back")
    assert evil.status_code == 400
    assert "location" not in evil.headers
    assert "evil.example" not in evil.text
    twice = await browser.get(f"{AUTHORIZE}?{urlencode(app.request(pkce))}&redirect_uri={quote(BACK, safe='')}")
    assert (twice.status_code, "location" in twice.headers) == (400, False)
    assert came_back(await asked(browser, app, pkce, aud="https://evil.example"))["error"] == "invalid_request"
    assert came_back(await asked(browser, app, pkce, prompt="none"))["error"] == "consent_required"
    assert came_back(await asked(site.browser(), app, pkce, prompt="none"))["error"] == "login_required"


async def test_a_form_of_another_site_browser_or_request_gives_nothing(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, _ = await signed_in(site)
    consent = await asked(browser, app, pkce, scope="user/*.rs")
    form = {**hidden(consent, DECISION), **ticked(consent), "decision": "allow"}
    other_request = urlencode(app.request(pkce, scope="user/*.cruds"))
    victim, _ = await signed_in(site)
    for answer in (
        await browser.post(DECISION, data={**form, "form_token": "x"}),
        await browser.post(DECISION, data={name: value for name, value in form.items() if name != "form_token"}),
        await browser.post(DECISION, data={**form, "request": other_request}),
        await browser.post(DECISION, data={**form, "request": form["request"] + "&x=y"}),
        await browser.post(DECISION, data=form, headers={"Sec-Fetch-Site": "cross-site"}),
        await victim.post(DECISION, data=form),
    ):
        assert answer.status_code == 403
        assert "location" not in answer.headers
    nobody = await site.browser().post(DECISION, data=form)
    assert nobody.headers["location"] == "/login"


async def test_the_form_is_bound_to_the_patient_who_was_shown(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, _ = await signed_in(site)
    consent = await choose(browser, await asked(browser, app, pkce))
    form = {**hidden(consent, DECISION), **ticked(consent), "decision": "allow"}
    for patient in ("pat2", "nobody", "../x"):
        answer = await browser.post(DECISION, data={**form, "patient": patient})
        assert answer.status_code in (403, 404)
    without = await browser.post(DECISION, data={name: value for name, value in form.items() if name != "patient"})
    assert without.status_code == 403


async def test_a_visit_is_chosen_among_those_of_the_patient(site: Site) -> None:
    app = await site.register()
    browser, _ = await signed_in(site)
    scope = "launch/encounter launch/patient patient/*.rs"
    for chosen, told_encounter in (("visit-pat1", "visit-pat1"), ("", None)):
        pkce = Pkce.new()
        consent = await choose(browser, await asked(browser, app, pkce, scope=scope), "Jane")
        assert "visit-pat1" in consent.text
        assert "visit-pat2" not in consent.text
        answer = await send(browser, consent, DECISION, decision="allow", encounter=chosen, **ticked(consent))
        body = (await app.exchange(came_back(answer)["code"], pkce)).json()
        assert body.get("encounter") == told_encounter
        assert ("launch/encounter" in body["scope"].split()) == bool(chosen)
    foreign = await send(browser, consent, DECISION, decision="allow", encounter="visit-pat2", **ticked(consent))
    assert foreign.status_code == 404


async def test_who_may_see_no_patients_can_choose_none(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, _ = await signed_in(site, "physicist")
    picker = await asked(browser, app, pkce)
    assert (await send(browser, picker, f"{AUTHORIZE}/patient", name="Doe")).status_code == 403


async def test_the_search_takes_what_is_typed_as_text(site: Site) -> None:
    app, pkce = await site.register(), Pkce.new()
    browser, _ = await signed_in(site)
    picker = await asked(browser, app, pkce)
    for typed in ('<script>alert(1)</script>"', "Doe,Jane", "$|\\", "x" * 5000, "%"):
        found = await send(browser, picker, f"{AUTHORIZE}/patient", name=typed)
        assert found.status_code == 200
        assert "<script>alert" not in found.text
        assert "0 patients found" in found.text
    by_number = await send(browser, picker, f"{AUTHORIZE}/patient", identifier="M-17")
    assert "1 patient found" in by_number.text


async def test_an_ehr_launch_brings_its_context_and_works_once(site: Site) -> None:
    app = await site.register()
    browser, _ = await signed_in(site)
    begun = await site.http.post(
        "/oauth/launch",
        json={"client_id": app.client_id, "patient": "pat1", "encounter": "visit-pat1", "intent": "wet-read"},
        headers=site.operator(),
    )
    launch = begun.json()["launch"]
    assert begun.status_code == 201
    assert begun.json()["launch_url"].startswith(
        "https://app.example/launch?iss=https%3A%2F%2Fwetread.example%2Ffhir&launch="
    )
    pkce = Pkce.new()
    scope = "launch openid patient/*.rs"
    consent = await asked(browser, app, pkce, scope=scope, launch=launch)
    assert "Doe" in consent.text
    answer = await send(browser, consent, DECISION, decision="allow", **ticked(consent))
    body = (await app.exchange(came_back(answer)["code"], pkce)).json()
    assert (body["patient"], body["encounter"], body["intent"]) == ("pat1", "visit-pat1", "wet-read")
    again = await asked(browser, app, Pkce.new(), scope=scope, launch=launch)
    assert came_back(again)["error"] == "invalid_request"


async def test_a_launch_is_for_its_app_and_its_person(site: Site) -> None:
    app, other = await site.register(), await site.register()
    browser, signed = await signed_in(site)
    somebody, _ = await signed_in(site)
    launch = await app.launched(signed.account.name, patient="pat1")
    scope = "launch patient/*.rs"
    for who, which, value in (
        (browser, other, launch),
        (somebody, app, launch),
        (browser, app, "guessed"),
        (browser, app, None),
    ):
        answer = await asked(who, which, Pkce.new(), scope=scope, launch=value)
        assert came_back(answer)["error"] == "invalid_request"
    assert "Doe" in (await asked(browser, app, Pkce.new(), scope=scope, launch=launch)).text


async def test_the_pages_cannot_be_framed_and_lead_only_to_the_app(site: Site) -> None:
    app = await site.register()
    browser, _ = await signed_in(site)
    page = await asked(browser, app, Pkce.new(), scope="user/*.rs")
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' https://app.example;" in policy
    assert (page.headers["x-frame-options"], page.headers["cache-control"]) == ("DENY", "no-store")


async def test_every_box_and_field_has_a_label(site: Site) -> None:
    app = await site.register()
    browser, _ = await signed_in(site)
    picker = await asked(browser, app, Pkce.new())
    for page in (picker, await choose(browser, picker)):
        fields = re.findall(r'<input (?!type="hidden")[^>]*id="([^"]+)"', page.text)
        assert fields
        for name in fields:
            assert f'<label for="{name}">' in page.text


async def test_an_old_login_is_asked_again_where_the_app_wants_a_new_one(site: Site, database: Database) -> None:
    app = await site.register()
    browser, signed = await signed_in(site)
    fresh = await asked(browser, app, Pkce.new(), scope="user/*.rs", prompt="login", max_age="0")
    assert fresh.status_code == 200
    async with database.transaction() as conn:
        await conn.execute(
            "UPDATE login_session SET authenticated_at = authenticated_at - interval '1 h' WHERE digest = %s",
            (signed.digest,),
        )
    for wish in ({"prompt": "login"}, {"max_age": "600"}):
        answer = await asked(browser, app, Pkce.new(), scope="user/*.rs", **wish)
        assert answer.headers["location"].startswith("/login?next=")
    assert (await asked(browser, app, Pkce.new(), scope="user/*.rs", max_age="7200")).status_code == 200


async def test_a_person_sees_what_they_let_in_and_takes_it_back(site: Site) -> None:
    app = await site.register()
    cookie, signed = await site.person()
    browser = site.browser(cookie)
    body = await app.tokens(signed)
    mine = await browser.get("/account/apps")
    assert "Nodule viewer" in mine.text
    assert "Read everything in the record of the chosen patient" in mine.text
    other, _ = await signed_in(site)
    grant = hidden(mine, "/account/apps/withdraw")["grant"]
    assert "Nodule viewer" not in (await other.get("/account/apps")).text
    assert (await browser.post("/account/apps/withdraw", data={"grant": grant})).status_code == 403
    withdrawn = await send(browser, mine, "/account/apps/withdraw")
    assert withdrawn.headers["location"] == "/account/apps"
    assert "Nodule viewer" not in (await browser.get("/account/apps")).text
    read = await site.http.get("/fhir/Patient/pat1", headers={"Authorization": f"Bearer {body['access_token']}"})
    assert read.status_code == 401
    assert (await app.refreshed(body["refresh_token"])).json()["error"] == "invalid_grant"
