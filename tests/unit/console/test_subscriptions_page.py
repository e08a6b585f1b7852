"""Who looks after subscriptions sees what lags and why, and can switch them; nobody sees a secret."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.forms import hidden, send
from tests.read_studies import Site, audited
from tests.subscribers import SECRET, Subscriber, failed_criterion, subscribed

from wetread.domain.reader import SYSTEM
from wetread.record import resources
from wetread.store.database import Database

SLOW = Subscriber("slow", numbered=9, delivered=4, age_s=7200)
BROKEN = Subscriber("broken", "error", numbered=5, delivered=2, failures=12, error="the endpoint answered 410")


@pytest.fixture
async def engineer(console: Site) -> AsyncIterator[httpx.AsyncClient]:
    cookies = {"wetread_token": console.token("engineer", scope="user/Subscription.cruds", principal="eve")}
    transport = httpx.ASGITransport(console.app, client=("10.1.2.3", 50000))
    async with httpx.AsyncClient(transport=transport, base_url="http://wetread.test", cookies=cookies) as client:
        yield client


def rows(page: httpx.Response) -> list[str]:
    """Each row of the page's table, as its text."""
    found = re.findall(r"<tr.*?</tr>", page.text, re.DOTALL)[1:]
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in found]


class TestTheList:
    async def test_puts_the_worst_first_and_tells_lag_failures_and_error(
        self, engineer: httpx.AsyncClient, database: Database
    ) -> None:
        for one in (Subscriber("well", numbered=7, delivered=7), SLOW, BROKEN):
            await subscribed(database, one)
        page = await engineer.get("/subscriptions")
        assert page.status_code == 200
        broken, slow, well = rows(page)
        assert broken.startswith("broken ai-observation rest-hook ehr.example:8443 ehr ERROR since")
        assert broken.endswith("2 of 5 0 s 12 the endpoint answered 410")
        assert slow.endswith("4 of 9 2 h 0")
        assert well.endswith("7 of 7 none 0")
        assert "5 events wait in active subscriptions, the oldest for 2 h" in page.text

    async def test_names_a_topic_whose_criterion_failed(self, engineer: httpx.AsyncClient, database: Database) -> None:
        await failed_criterion(database, "https://hospital.example/topics/own", times=2)
        text = " ".join(re.sub(r"<[^>]+>", " ", (await engineer.get("/subscriptions")).text).split())
        assert "That of own could not be decided for 2 changes, which were no event; last" in text
        assert "for Task/t1, version 2: one item was expected." in text

    async def test_can_be_of_one_state(self, engineer: httpx.AsyncClient, database: Database) -> None:
        await subscribed(database, SLOW)
        await subscribed(database, BROKEN)
        page = await engineer.get("/subscriptions?state=error")
        assert [row.split()[0] for row in rows(page)] == ["broken"]
        assert '<a href="/subscriptions?state=error" aria-current="page">error (1)</a>' in page.text

    async def test_works_without_script_and_is_a_table_with_headers(
        self, engineer: httpx.AsyncClient, database: Database
    ) -> None:
        await subscribed(database, SLOW)
        page = (await engineer.get("/subscriptions")).text
        assert "<script" not in page
        assert page.count('<th scope="col">') == 9
        assert "<caption>" in page

    async def test_is_led_to_from_the_worklist_of_those_who_may(
        self, console: Site, visitor: httpx.AsyncClient, radiologist: httpx.AsyncClient
    ) -> None:
        visitor.cookies.set("wetread_token", console.token("administrator"))
        assert 'href="/subscriptions"' in (await visitor.get("/worklist")).text
        assert 'href="/subscriptions"' not in (await radiologist.get("/worklist")).text


class TestThePageOfOne:
    async def test_tells_how_far_it_has_come_and_what_became_of_the_last_events(
        self, engineer: httpx.AsyncClient, database: Database
    ) -> None:
        await subscribed(database, Subscriber("s1", numbered=4, delivered=2, failures=3, error="no answer"))
        page = await engineer.get("/subscriptions/s1")
        assert [(row.split()[0], row.rpartition("version 1 ")[2]) for row in rows(page)] == [
            ("4", "waiting"),
            ("3", "in trouble"),
            ("2", "done"),
            ("1", "done"),
        ]
        assert "FAILING</span> no answer. 3 attempts since" in page.text

    async def test_of_a_long_queue_shows_what_goes_out_next(
        self, engineer: httpx.AsyncClient, database: Database
    ) -> None:
        await subscribed(database, Subscriber("s1", numbered=500, delivered=300))
        shown = [int(row.split()[0]) for row in rows(await engineer.get("/subscriptions/s1"))]
        assert shown == list(range(325, 275, -1))

    async def test_neither_page_shows_a_header_a_password_or_a_query(
        self, engineer: httpx.AsyncClient, database: Database
    ) -> None:
        await subscribed(database, SLOW)
        for path in ("/subscriptions", "/subscriptions/slow"):
            page = (await engineer.get(path)).text
            assert "ehr.example" in page
            for secret in (SECRET, "4711", "password", "key=", "/hook"):
                assert secret not in page, path

    async def test_what_came_from_outside_is_escaped(self, engineer: httpx.AsyncClient, database: Database) -> None:
        hostile = '<script>alert("x")</script>'
        await subscribed(database, Subscriber("s1", "error", error=hostile, endpoint=f"https://{hostile}/"))
        for path in ("/subscriptions", "/subscriptions/s1"):
            assert hostile not in (await engineer.get(path)).text

    async def test_of_no_subscription_is_not_found(self, engineer: httpx.AsyncClient) -> None:
        assert (await engineer.get("/subscriptions/none")).status_code == 404


class TestWhoMay:
    @pytest.mark.parametrize("path", ["/subscriptions", "/subscriptions/slow"])
    async def test_others_are_refused_and_strangers_sent_to_the_door(
        self, path: str, visitor: httpx.AsyncClient, radiologist: httpx.AsyncClient, database: Database
    ) -> None:
        await subscribed(database, SLOW)
        assert (await radiologist.get(path)).status_code == 403
        assert (await visitor.get(path)).headers["location"].startswith("/login?next=%2Fsubscriptions")
        assert [row[:3] for row in await audited(database)] == [
            ("access-denied", "4", "dr-demo"),
            ("access-denied", "4", "anonymous"),
        ]

    async def test_each_look_is_on_record(self, engineer: httpx.AsyncClient, database: Database) -> None:
        await subscribed(database, SLOW)
        await engineer.get("/subscriptions")
        await engineer.get("/subscriptions/slow")
        assert [row[:3] for row in await audited(database)] == [("page-viewed", "0", "eve")] * 2

    async def test_a_form_that_is_not_of_this_browser_switches_nothing(
        self, engineer: httpx.AsyncClient, radiologist: httpx.AsyncClient, database: Database
    ) -> None:
        await subscribed(database, SLOW)
        own = hidden(await engineer.get("/subscriptions/slow"), "/subscriptions/slow/off")
        assert (await engineer.post("/subscriptions/slow/off", data={})).status_code == 403
        assert (await radiologist.post("/subscriptions/slow/off", data=own)).status_code == 403
        assert await state(database, "slow") == ("active", "active", 1)


class TestSwitching:
    async def test_off_ends_it_for_its_client_to_see(self, engineer: httpx.AsyncClient, database: Database) -> None:
        await subscribed(database, SLOW)
        answer = await send(engineer, await engineer.get("/subscriptions/slow"), "/subscriptions/slow/off")
        assert (answer.status_code, answer.headers["location"]) == (303, "/subscriptions/slow")
        assert await state(database, "slow") == ("off", "off", 1)
        assert "Switch it off" not in (await engineer.get("/subscriptions/slow")).text

    async def test_asking_again_leads_to_a_new_handshake_and_keeps_owner_and_numbers(
        self, engineer: httpx.AsyncClient, database: Database
    ) -> None:
        await subscribed(database, BROKEN)
        await send(engineer, await engineer.get("/subscriptions/broken"), "/subscriptions/broken/ask-again")
        assert await state(database, "broken") == ("requested", "requested", 2)
        async with database.transaction() as conn:
            row = await conn.execute(
                """SELECT owner ->> 'principal', events_since_start, delivered, failures, error, started_seq,
                       due_at <= now() FROM subscription_state"""
            )
            assert await row.fetchone() == ("ehr", 5, 2, 0, "", 0, True)

    async def test_after_off_only_what_happens_from_then_on_counts(
        self, engineer: httpx.AsyncClient, database: Database
    ) -> None:
        await subscribed(database, Subscriber("s1", "off", numbered=3, delivered=1))
        await send(engineer, await engineer.get("/subscriptions/s1"), "/subscriptions/s1/ask-again")
        async with database.transaction() as conn:
            row = await conn.execute("SELECT status, started_seq FROM subscription_state")
            assert await row.fetchone() == ("requested", None)

    async def test_what_its_client_has_ended_only_its_client_starts_again(
        self, engineer: httpx.AsyncClient, database: Database
    ) -> None:
        await subscribed(database, Subscriber("s1", "off", is_indexed=False))
        answer = await send(engineer, await engineer.get("/subscriptions/s1"), "/subscriptions/s1/ask-again")
        assert answer.status_code == 409
        assert await state(database, "s1") == ("off", "off", 1)

    async def test_is_on_record_with_who_and_what(self, engineer: httpx.AsyncClient, database: Database) -> None:
        await subscribed(database, SLOW)
        await send(engineer, await engineer.get("/subscriptions/slow"), "/subscriptions/slow/off")
        async with database.transaction() as conn:
            found = await conn.execute(
                "SELECT principal, entities, body FROM audit_event WHERE kind = 'subscription-changed'"
            )
            [(principal, entities, body)] = await found.fetchall()
        assert (principal, list(entities)) == ("eve", ["Subscription/slow"])
        assert '"valueString":"off"' in body

    async def test_of_one_that_its_client_deleted_is_refused(
        self, engineer: httpx.AsyncClient, database: Database
    ) -> None:
        await subscribed(database, Subscriber("s1", "off"))
        page = await engineer.get("/subscriptions/s1")
        async with database.transaction() as conn:
            await resources.delete(conn, SYSTEM, "Subscription", "s1")
        assert (await send(engineer, page, "/subscriptions/s1/ask-again")).status_code == 404


async def state(database: Database, subscription_id: str) -> tuple[str, str, int]:
    """The state, the resource's status that its client reads, and how often it was asked for."""
    async with database.transaction() as conn:
        row = await conn.execute("SELECT status, start FROM subscription_state WHERE id = %s", (subscription_id,))
        [(status, start)] = await row.fetchall()
        version = await resources.read(conn, SYSTEM, "Subscription", subscription_id)
    resource: dict[str, Any] = json.loads(version.body)
    return status, resource["status"], start
