"""$status, $events and $get-ws-binding-token (Subscriptions R5 Backport IG 1.1.0): what they tell, and to whom."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.parameters import Parameters

from wetread.domain.codes import WETREAD
from wetread.record.subscriptions import bindings, questions
from wetread.record.subscriptions.channel import HL7V2
from wetread.record.xml_form import to_json
from wetread.store.database import Database

from .subscribed import BASE, TOPIC, B, Site, subscription, task


@pytest.fixture
async def site(database: Database) -> Site:
    return Site(database)


async def asked(site: Site, who: str, path: str, **params: Any) -> httpx.Response:
    async with site.caller(who) as client:
        return await client.get(path, params=params)


def parameters(resource: dict[str, Any]) -> dict[str, Any]:
    """The values by name; of a repeated name the last."""
    Parameters.model_validate(resource)
    found = {}
    for parameter in resource["parameter"]:
        [value] = [v for k, v in parameter.items() if k.startswith(("value", "part"))]
        found[parameter["name"]] = value
    return found


def statuses(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    bundle = answer.json()
    Bundle.model_validate(bundle)
    assert bundle["type"] == "searchset"
    told = [parameters(entry["resource"]) for entry in bundle.get("entry", [])]
    assert all(each["type"] == "query-status" for each in told)
    assert bundle["total"] == len(told)
    return {each["subscription"]["reference"].removeprefix(f"{BASE}/Subscription/"): each["status"] for each in told}


def numbers(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [int(e["event-number"]) for e in told_events(answer.json())]


def told_events(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    Bundle.model_validate(bundle)
    assert bundle["type"] == "history"
    status = bundle["entry"][0]["resource"]
    assert parameters(status)["type"] == "query-event"
    found = []
    for event in (p for p in status["parameter"] if p["name"] == "notification-event"):
        parts = event["part"]
        found.append({p["name"]: next(v for k, v in p.items() if k.startswith("value")) for p in parts})
    return found


def issue(answer: httpx.Response) -> tuple[int, str, str]:
    [found] = answer.json()["issue"]
    return answer.status_code, found["code"], found.get("expression", [""])[0]


async def test_status_of_one_tells_its_state_and_count(site: Site) -> None:
    subscription_id = await site.subscribed("ehr", subscription())
    await site.happen(task("t1"), task("t2"))
    answer = await asked(site, "ehr", f"Subscription/{subscription_id}/$status")
    assert statuses(answer) == {subscription_id: "active"}
    told = parameters(answer.json()["entry"][0]["resource"])
    assert (told["events-since-subscription-start"], told["topic"]) == ("2", TOPIC)


async def test_status_at_instance_level_ignores_id_and_status(site: Site) -> None:
    one, other = [await site.subscribed("ehr", subscription()) for _ in range(2)]
    assert statuses(await asked(site, "ehr", f"Subscription/{one}/$status", id=other, status="off")) == {one: "active"}


async def test_status_of_the_type_joins_values_by_or(site: Site) -> None:
    on = await site.subscribed("ehr", subscription())
    waiting = await site.subscribed("ehr", subscription(), is_active=False)
    off = await site.subscribed("ehr", subscription(status="off"), is_active=False)
    every = {on: "active", waiting: "requested", off: "off"}
    assert statuses(await asked(site, "ehr", "Subscription/$status")) == every
    assert statuses(await asked(site, "ehr", "Subscription/$status", id=[on, off])) == {on: "active", off: "off"}
    by_status = await asked(site, "ehr", "Subscription/$status", status=["active", "requested"])
    assert statuses(by_status) == {on: "active", waiting: "requested"}
    assert statuses(await asked(site, "ehr", "Subscription/$status", status="active,off")) == {on: "active", off: "off"}
    assert statuses(await asked(site, "ehr", "Subscription/$status", id=[on, off], status="off")) == {off: "off"}
    assert statuses(await asked(site, "ehr", "Subscription/$status", id="none")) == {}


async def test_status_by_post_in_json_and_xml(site: Site) -> None:
    one, other = [await site.subscribed("ehr", subscription()) for _ in range(2)]
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": "id", "valueId": one}, {"name": "id", "valueString": f"Subscription/{other}"}],
    }
    async with site.caller("ehr") as client:
        assert len(statuses(await client.post("Subscription/$status", json=body))) == 2
        in_xml = (
            '<Parameters xmlns="http://hl7.org/fhir"><parameter><name value="id"/>'
            f'<valueId value="{one}"/></parameter></Parameters>'
        )
        headers = {"Content-Type": "application/fhir+xml", "Accept": "application/fhir+xml"}
        answer = await client.post("Subscription/$status", content=in_xml, headers=headers)
    assert answer.headers["content-type"].startswith("application/fhir+xml")
    assert json.loads(to_json(answer.text))["total"] == 1


async def test_what_is_asked_wrongly_is_refused_with_its_name(site: Site) -> None:
    subscription_id = await site.subscribed("ehr", subscription())
    path = f"Subscription/{subscription_id}"
    assert issue(await asked(site, "ehr", "Subscription/$status", status="asleep")) == (400, "invalid", "http.status")
    since = await asked(site, "ehr", f"{path}/$events", eventsSinceNumber="one")
    assert issue(since) == (400, "invalid", "http.eventsSinceNumber")
    content = await asked(site, "ehr", f"{path}/$events", content="everything")
    assert issue(content) == (400, "invalid", "http.content")
    assert issue(await asked(site, "ehr", f"{path}/$events", colour="red"))[0] == 400
    assert (await asked(site, "ehr", "Subscription/none/$status")).status_code == 404
    assert (await asked(site, "ehr", "Subscription/$events")).status_code == 404
    async with site.caller("ehr") as client:
        assert (await client.delete(f"Subscription/{subscription_id}")).status_code == 204
    assert (await asked(site, "ehr", f"{path}/$status")).status_code == 410
    assert statuses(await asked(site, "ehr", "Subscription/$status")) == {}


async def test_a_person_asks_about_its_own_and_who_looks_after_the_server_about_all(site: Site) -> None:
    of_ann = await site.subscribed("ann", subscription())
    of_ehr = await site.subscribed("ehr", subscription())
    both = {of_ann: "active", of_ehr: "active"}
    assert statuses(await asked(site, "ann", "Subscription/$status")) == {of_ann: "active"}
    assert statuses(await asked(site, "bob", "Subscription/$status")) == {}
    assert statuses(await asked(site, "engineer", "Subscription/$status")) == both
    assert statuses(await asked(site, "ehr", "Subscription/$status")) == both
    assert (await asked(site, "bob", f"Subscription/{of_ann}/$status")).status_code == 403
    assert (await asked(site, "bob", f"Subscription/{of_ann}/$events")).status_code == 403
    assert (await asked(site, "blind", "Subscription/$status")).status_code == 403
    assert (await asked(site, "nobody", "Subscription/$status")).status_code == 401


async def test_events_between_two_numbers_both_included(site: Site) -> None:
    subscription_id = await site.subscribed("ehr", subscription())
    await site.happen(*(task(f"t{n}") for n in range(1, 6)))
    path = f"Subscription/{subscription_id}/$events"
    assert numbers(await asked(site, "ehr", path)) == [1, 2, 3, 4, 5]
    assert numbers(await asked(site, "ehr", path, eventsSinceNumber="2", eventsUntilNumber="4")) == [2, 3, 4]
    assert numbers(await asked(site, "ehr", path, eventsSinceNumber="5")) == [5]
    assert numbers(await asked(site, "ehr", path, eventsSinceNumber="6")) == []
    body = {"resourceType": "Parameters", "parameter": [{"name": "eventsUntilNumber", "valueString": "1"}]}
    async with site.caller("ehr") as client:
        assert numbers(await client.post(path, json=body)) == [1]


@pytest.mark.parametrize(
    ("of_subscription", "asked_for", "told"),
    [
        ("id-only", "", (True, False)),
        ("empty", "", (False, False)),
        ("full-resource", "", (True, True)),
        ("empty", "full-resource", (True, True)),
        ("full-resource", "id-only", (True, False)),
        ("full-resource", "empty", (False, False)),
    ],
)
async def test_events_in_the_content_that_is_asked_for(
    site: Site, of_subscription: str, asked_for: str, told: tuple[bool, bool]
) -> None:
    subscription_id = await site.subscribed("ehr", subscription(of_subscription))
    await site.happen(task("t1"))
    params = {"content": asked_for} if asked_for else {}
    answer = await asked(site, "ehr", f"Subscription/{subscription_id}/$events", **params)
    [event] = told_events(answer.json())
    bodies = [entry["resource"] for entry in answer.json()["entry"][1:] if "resource" in entry]
    assert ("focus" in event, bool(bodies)) == told
    if bodies:
        assert [body["id"] for body in bodies] == ["t1"]


async def test_events_tell_nobody_more_than_its_own_rights(site: Site) -> None:
    subscription_id = await site.subscribed("ann", subscription("full-resource"))
    await site.happen(task("t1"))
    path = f"Subscription/{subscription_id}/$events"
    [event] = told_events((await asked(site, "ann", path)).json())
    assert event["focus"] == {"reference": f"{BASE}/Task/t1"}
    elsewhere = (await asked(site, "ann-elsewhere", path, content="full-resource")).json()
    [event] = told_events(elsewhere)
    assert "focus" not in event
    assert len(elsewhere["entry"]) == 1


async def test_events_show_a_narrowed_caller_what_it_may_see_then_and_now(site: Site) -> None:
    subscription_id = await site.subscribed("narrow", subscription("full-resource"))
    await site.happen(task("t1", "completed"), task("t2", "requested"), task("t3", "completed"))
    await site.happen(task("t3", "failed"))
    answer = await asked(site, "narrow", f"Subscription/{subscription_id}/$events")
    assert [event.get("focus", {}).get("reference") for event in told_events(answer.json())] == [
        f"{BASE}/Task/t1",
        None,  # seen when it happened, and not now
    ]
    as_operator = await asked(site, "all", f"Subscription/{subscription_id}/$events")
    assert all("focus" in event for event in told_events(as_operator.json()))


async def test_an_answer_of_too_many_events_says_where_it_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MOST_EVENTS", 100)
    subscription_id = await site.subscribed("ehr", subscription())
    await site.happen(*(task(f"t{n}") for n in range(1, 251)))
    url = f"{BASE}/Subscription/{subscription_id}/$events?eventsUntilNumber=220&content=empty"
    seen: list[int] = []
    pages = 0
    async with site.caller("ehr") as client:
        while url:
            answer = await client.get(url)
            seen += numbers(answer)
            [url] = [link["url"] for link in answer.json().get("link", [])] or [""]
            pages += 1
    assert (seen, pages) == (list(range(1, 221)), 3)


async def test_events_stop_at_the_size_of_an_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MOST_CHARACTERS", 1000)
    subscription_id = await site.subscribed("ehr", subscription("full-resource"))
    await site.happen(*(task(f"t{n}") for n in range(1, 151)))
    answer = await asked(site, "ehr", f"Subscription/{subscription_id}/$events")
    assert numbers(answer) == list(range(1, 101))
    assert answer.json()["link"][0]["url"].endswith("$events?eventsSinceNumber=101")


async def test_events_are_on_record_with_the_patients_of_whom_they_tell(site: Site) -> None:
    subscription_id = await site.subscribed("ehr", subscription("full-resource"))
    await site.happen(task("t1", patient="p1"), task("t2", patient="p2"))
    path = f"Subscription/{subscription_id}/$events"
    assert len(numbers(await asked(site, "ehr", path))) == 2
    assert len(numbers(await asked(site, "ehr", path, content="empty"))) == 2
    async with site.database.transaction() as conn:
        found = await conn.execute("SELECT patient_id FROM audit_event WHERE kind = 'operation' ORDER BY position")
        assert [row[0] for row in await found.fetchall()] == ["p1", "p2", None]


async def test_a_binding_token_is_random_short_lived_and_kept_as_a_digest(site: Site) -> None:
    subscription_id = await site.subscribed("ehr", subscription(kind="websocket"))
    tokens = set()
    for _ in range(2):
        answer = await asked(site, "ehr", f"Subscription/{subscription_id}/$get-ws-binding-token")
        assert answer.status_code == 200
        told = parameters(answer.json())
        tokens.add(told["token"])
        assert told["subscription"] == subscription_id
        assert told["websocket-url"] == "ws://wetread.example/fhir/websocket"
        left = datetime.fromisoformat(told["expiration"]) - datetime.now(UTC)
        assert timedelta(minutes=9) < left <= bindings.LIFETIME
    assert len(tokens) == 2
    async with site.database.transaction() as conn:
        rows = await (await conn.execute("SELECT token_digest FROM subscription_binding")).fetchall()
        assert {len(row[0]) for row in rows} == {32}
        for token in tokens:
            binding = await bindings.redeem(conn, token)
            assert binding is not None
            assert (binding.subscription_ids, binding.owner["principal"]) == ((subscription_id,), "ehr")
        assert await bindings.redeem(conn, "another") is None
        await conn.execute("UPDATE subscription_binding SET expires_at = now() - interval '1 second'")
        assert await bindings.redeem(conn, token) is None


async def test_a_binding_token_is_for_ones_own_websockets_that_are_on(site: Site) -> None:
    mine = await site.subscribed("ann", subscription(kind="websocket"))
    waiting = await site.subscribed("ann", subscription(kind="websocket"), is_active=False)
    hook = await site.subscribed("ann", subscription())
    off = await site.subscribed("ann", subscription(kind="websocket", status="off"), is_active=False)
    theirs = await site.subscribed("ehr", subscription(kind="websocket"))
    operation = "$get-ws-binding-token"
    answer = await asked(site, "ann", f"Subscription/{operation}")
    bound = [p["valueString"] for p in answer.json()["parameter"] if p["name"] == "subscription"]
    assert sorted(bound) == sorted([mine, waiting])
    one = await asked(site, "ann", f"Subscription/{operation}", id=[mine])
    assert parameters(one.json())["subscription"] == mine
    assert issue(await asked(site, "ann", f"Subscription/{hook}/{operation}"))[:2] == (422, "not-supported")
    assert issue(await asked(site, "ann", f"Subscription/{off}/{operation}"))[:2] == (422, "not-supported")
    assert (await asked(site, "ann", f"Subscription/{theirs}/{operation}")).status_code == 403
    assert (await asked(site, "all", f"Subscription/{mine}/{operation}")).status_code == 403
    assert (await asked(site, "ann", f"Subscription/{operation}", id=[mine, "none"])).status_code == 404
    assert issue(await asked(site, "bob", f"Subscription/{operation}"))[:2] == (422, "not-supported")


async def test_subscriptions_are_found_by_the_parameters_of_the_guide(site: Site) -> None:
    plain = await site.subscribed("ehr", subscription("id-only"))
    filtered = subscription("full-resource")
    filtered["_criteria"] = {"extension": [{"url": f"{B}filter-criteria", "valueString": "Task?status=completed"}]}
    filtered_id = await site.subscribed("ehr", filtered)
    engine = subscription("full-resource", kind="message")
    engine["channel"]["_type"] = {
        "extension": [{"url": f"{B}channel-type", "valueCoding": {"system": WETREAD, "code": "mllp"}}]
    }
    engine["channel"] |= {"endpoint": "mllp://127.0.0.1:9", "payload": HL7V2}
    engine_id = await site.subscribed("ehr", engine)
    found = {
        f"topic={TOPIC}": {plain, filtered_id, engine_id},
        "topic=https://elsewhere.example/topic": set(),
        "filter-criteria=Task?status": {filtered_id},
        f"custom-channel={WETREAD}|mllp": {engine_id},
        "payload-type=id-only": {plain},
        "payload-type=full-resource&type=rest-hook": {filtered_id},
    }
    async with site.caller("ehr") as client:
        for query, ids in found.items():
            answer = await client.get(f"Subscription?{query}")
            assert {entry["resource"]["id"] for entry in answer.json().get("entry", ())} == ids, query
