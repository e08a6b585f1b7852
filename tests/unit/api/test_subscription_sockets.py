"""Websockets of subscriptions on a real listener: tokens, handshakes, order, what was missed, rights, limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode

from wetread import app as composition
from wetread.api import subscription_sockets
from wetread.api.socket_hub import Hub
from wetread.api.subscription_sockets import Sockets
from wetread.api.turned_away import TurnedAway
from wetread.domain.reader import Reader
from wetread.inbound.http import HttpListener
from wetread.record.subscriptions.rows import reader_of
from wetread.settings import load
from wetread.store.database import Connection, Database

from .subscribed import BASE, READERS, Site, authenticate, subscription, task

Resource = dict[str, Any]


class Open(Site):
    """A site that listens. `shut` are the principals whose access has ended, `narrowed` the grants that open less."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.shut: set[str] = set()
        self.narrowed: dict[str, Reader] = {}
        self.subscriptions = self.with_owner(self._owner_now)
        self.turned_away = TurnedAway(database)
        self.hub = Hub(database, self.subscriptions, of_one_client=4)
        self.sockets = Sockets(database, self.hub, authenticate, self.turned_away, BASE)
        self.app.router.routes.insert(0, subscription_sockets.route(self.sockets))
        self.port = 0

    async def _owner_now(self, conn: Connection, owner: Mapping[str, Any]) -> Reader | None:
        if owner["principal"] in self.shut:
            return None
        return self.narrowed.get(str(owner["grant_id"])) or reader_of(owner)

    def connected(self, **named: Any) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}/fhir/websocket", compression=None, **named)

    async def token(self, who: str, *ids: str) -> str:
        async with self.caller(who) as client:
            answer = await client.get("Subscription/$get-ws-binding-token", params={"id": list(ids)})
        return next(str(p["valueString"]) for p in answer.json()["parameter"] if p["name"] == "token")

    async def delivered(self, subscription_id: str) -> int:
        async with self.database.transaction() as conn:
            found = await conn.execute("SELECT delivered FROM subscription_state WHERE id = %s", (subscription_id,))
            row = await found.fetchone()
            assert row is not None
            return int(row[0])

    async def delivered_is(self, subscription_id: str, number: int) -> None:
        for _ in range(150):
            if await self.delivered(subscription_id) == number:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{await self.delivered(subscription_id)} delivered, not {number}")


@contextlib.asynccontextmanager
async def serving(site: Open) -> AsyncIterator[Open]:
    stop = asyncio.Event()
    listener = HttpListener(site.app, "127.0.0.1", 0)
    await listener.start()
    site.port = listener.port
    follower = asyncio.create_task(site.hub.run(stop))
    try:
        yield site
    finally:
        stop.set()
        await follower
        await listener.close()


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Open]:
    async with serving(Open(database)) as running:
        yield running


async def heard(socket: ClientConnection, within_s: float = 20.0) -> Resource:
    async with asyncio.timeout(within_s):
        text = await socket.recv()
    assert isinstance(text, str)
    found: Resource = json.loads(text)
    return found


async def bundle(socket: ClientConnection) -> tuple[str, int, list[int]]:
    """Type, count and event numbers of the next notification."""
    found = await heard(socket)
    Bundle.model_validate(found)
    told = {p["name"]: p for p in found["entry"][0]["resource"]["parameter"]}
    parts = [p["part"] for p in found["entry"][0]["resource"]["parameter"] if p["name"] == "notification-event"]
    numbers = [int(next(x["valueString"] for x in part if x["name"] == "event-number")) for part in parts]
    return told["type"]["valueCode"], int(told["events-since-subscription-start"]["valueString"]), numbers


async def bound(site: Open, socket: ClientConnection, who: str, *ids: str) -> list[tuple[str, int, list[int]]]:
    """Binds, and gives the handshakes."""
    await socket.send(f"bind-with-token {await site.token(who, *ids)}")
    return [await bundle(socket) for _ in ids]


async def last(socket: ClientConnection, number: int) -> None:
    while (await bundle(socket))[1] < number:
        pass


async def refusal(socket: ClientConnection) -> str:
    found = await heard(socket)
    assert found["resourceType"] == "OperationOutcome", found
    return str(found["issue"][0]["code"])


async def closed(socket: ClientConnection, within_s: float = 20.0) -> int:
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(within_s):
            while True:
                await socket.recv()
    await socket.wait_closed()
    assert socket.close_code is not None
    return socket.close_code


def unanswering(socket: ClientConnection) -> ClientConnection:
    """A peer that reads, and answers no Ping from now on."""
    send_frame = socket.protocol.send_frame
    socket.protocol.send_frame = lambda frame: None if frame.opcode is Opcode.PONG else send_frame(frame)  # type: ignore[method-assign]
    return socket


async def silent(socket: ClientConnection, for_s: float = 0.4) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(for_s):
            await socket.recv()


SOCKET = subscription(kind="websocket")


class TestBinding:
    async def test_the_first_handshake_makes_the_subscription_active(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET, is_active=False)
        async with site.connected() as socket:
            assert await bound(site, socket, "ehr", subscription_id) == [("handshake", 0, [])]
            await site.happen(task("t1"))  # at once: who has the handshake misses nothing
            async with site.caller("ehr") as client:
                assert (await client.get(f"Subscription/{subscription_id}")).json()["status"] == "active"
            assert await bundle(socket) == ("event-notification", 1, [1])

    async def test_one_handshake_for_each_subscription_of_the_token(self, site: Open) -> None:
        ids = [await site.subscribed("ehr", SOCKET) for _ in range(3)]
        async with site.connected() as socket:
            assert len(await bound(site, socket, "ehr", *ids)) == 3
            await site.happen(task("t1"))
            assert [await bundle(socket) for _ in ids] == [("event-notification", 1, [1])] * 3

    async def test_a_connection_is_bound_again(self, site: Open) -> None:
        first, second = [await site.subscribed("ehr", SOCKET) for _ in range(2)]
        async with site.connected() as socket:
            await bound(site, socket, "ehr", first)
            await bound(site, socket, "ehr", second)
            await bound(site, socket, "ehr", first)
            await site.happen(task("t1"))
            assert [await bundle(socket) for _ in range(2)] == [("event-notification", 1, [1])] * 2
            await silent(socket)

    async def test_a_token_that_is_none_or_has_expired_is_refused(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        token = await site.token("ehr", subscription_id)
        async with site.database.transaction() as conn:
            await conn.execute("UPDATE subscription_binding SET expires_at = now() - interval '1 second'")
        async with site.connected() as socket:
            for frame in ("bind-with-token nonsense", f"bind-with-token {token}"):
                await socket.send(frame)
                assert await refusal(socket) == "login"

    async def test_a_token_whose_owner_is_disabled_is_refused(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        token = await site.token("ehr", subscription_id)
        site.shut.add("ehr")
        async with site.connected() as socket:
            await socket.send(f"bind-with-token {token}")
            assert await refusal(socket) == "forbidden"

    async def test_a_subscription_that_was_switched_off_since_is_refused(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        token = await site.token("ehr", subscription_id)
        async with site.caller("ehr") as client:
            await client.delete(f"Subscription/{subscription_id}")
        async with site.connected() as socket:
            await socket.send(f"bind-with-token {token}")
            assert await refusal(socket) == "conflict"

    async def test_no_more_sockets_of_one_client_than_it_may_have(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                socket = await stack.enter_async_context(site.connected())
                await bound(site, socket, "ehr", subscription_id)
            one_more = await stack.enter_async_context(site.connected())
            await one_more.send(f"bind-with-token {await site.token('ehr', subscription_id)}")
            assert await refusal(one_more) == "too-costly"


class TestFrames:
    async def test_what_is_no_frame_is_answered_and_closed_after_a_few(self, site: Open) -> None:
        async with site.connected() as socket:
            for frame in ("", "hello", "bind-with-token", '{"type": 1}'):
                await socket.send(frame)
                assert await refusal(socket) == "invalid"
            await socket.send("bind-with-token a b")
            assert await closed(socket) == 1008

    @pytest.mark.parametrize("frame", [b"bind-with-token x", "x" * 5000, "x" * 20_000])
    async def test_what_is_too_long_or_not_text_closes_the_socket(self, site: Open, frame: str | bytes) -> None:
        async with site.connected() as socket:
            await socket.send(frame)
            assert await closed(socket) == 1009

    async def test_a_socket_that_is_bound_to_nothing_is_closed(
        self, site: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscription_sockets, "_UNBOUND_S", 0.2)
        async with site.connected() as socket:
            assert await closed(socket) == 1008
        assert not site.sockets.unbound

    async def test_no_more_unbound_sockets_of_one_address_than_it_may_have(
        self, site: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscription_sockets, "_UNBOUND_OF_ONE", 1)
        async with site.connected():
            with pytest.raises(InvalidStatus) as refused:
                async with site.connected():
                    pass
        assert refused.value.response.status_code == 429

    async def test_a_cookie_is_no_credential_and_a_wrong_token_no_way_in(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        async with site.connected(additional_headers={"Cookie": "wetread_token=ehr"}) as socket:
            await socket.send(f"bind {subscription_id}")
            assert await refusal(socket) == "login"
        with pytest.raises(InvalidStatus) as refused:
            async with site.connected(additional_headers={"Authorization": "Bearer nobody"}):
                pass
        assert refused.value.response.status_code == 401


class TestEvents:
    async def test_they_come_in_order_and_are_delivered_when_received(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        async with site.connected() as socket:
            await bound(site, socket, "ehr", subscription_id)
            await site.happen(*(task(f"t{n}") for n in range(1, 61)))
            assert [(await bundle(socket))[2] for _ in range(60)] == [[n] for n in range(1, 61)]
        await site.delivered_is(subscription_id, 60)

    async def test_as_many_in_one_notification_as_the_client_asked_for(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", subscription(kind="websocket", max_count=8))
        async with site.connected() as socket:
            await bound(site, socket, "ehr", subscription_id)
            await site.happen(*(task(f"t{n}") for n in range(1, 21)))
            got = [await bundle(socket) for _ in range(3)]
        assert got == [
            ("event-notification", last, list(range(first, last + 1))) for first, last in ((1, 8), (9, 16), (17, 20))
        ]

    async def test_what_was_missed_comes_when_a_socket_is_bound(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        await site.happen(task("t1"), task("t2"))
        async with site.connected() as socket:
            assert await bound(site, socket, "ehr", subscription_id) == [("handshake", 0, [])]
            assert [await bundle(socket) for _ in range(2)] == [
                ("event-notification", 1, [1]),
                ("event-notification", 2, [2]),
            ]
        await site.delivered_is(subscription_id, 2)
        await site.happen(task("t3"))
        async with site.connected() as socket:
            assert await bound(site, socket, "ehr", subscription_id) == [("handshake", 2, [])]
            assert await bundle(socket) == ("event-notification", 3, [3])

    async def test_what_a_peer_did_not_receive_comes_again(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", subscription(kind="websocket", timeout=1))
        socket = await site.connected()
        await bound(site, socket, "ehr", subscription_id)
        socket.transport.pause_reading()  # the connection stands, and nobody reads
        await site.happen(task("t1"))
        await asyncio.sleep(1.3)
        socket.transport.abort()
        assert await site.delivered(subscription_id) == 0
        async with site.connected() as again:
            assert await bound(site, again, "ehr", subscription_id) == [("handshake", 0, [])]
            assert await bundle(again) == ("event-notification", 1, [1])

    async def test_every_socket_of_a_subscription_hears_of_it(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        async with site.connected() as one, site.connected() as other:
            await bound(site, one, "ehr", subscription_id)
            await site.happen(task("t1"))
            assert (await bundle(one))[2] == [1]
            assert await bound(site, other, "ehr", subscription_id) == [("handshake", 1, [])]
            await site.happen(task("t2"))
            assert [(await bundle(one))[2], (await bundle(other))[2]] == [[2], [2]]

    async def test_a_heartbeat_after_silence_where_one_was_asked_for(
        self, site: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("wetread.record.subscriptions.channel.LEAST_HEARTBEAT_S", 1)
        beating = await site.subscribed("ehr", subscription(kind="websocket", heartbeat_period=1))
        async with site.connected() as socket:
            await bound(site, socket, "ehr", beating)
            await site.happen(task("t1"))
            assert await bundle(socket) == ("event-notification", 1, [1])
            assert await bundle(socket) == ("heartbeat", 1, [])
            assert await bundle(socket) == ("heartbeat", 1, [])

    async def test_they_and_their_patients_are_on_record(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", subscription("full-resource", kind="websocket"))
        async with site.connected() as socket:
            await bound(site, socket, "ehr", subscription_id)
            await site.happen(task("t1", patient="p7"))
            got = await heard(socket)
            assert got["entry"][1]["resource"]["id"] == "t1"
        async with asyncio.timeout(20):
            while True:
                async with site.database.transaction() as conn:
                    found = await conn.execute(
                        """SELECT kind, principal, patient_id, body FROM audit_event
                           WHERE kind IN ('notification-sent', 'disclosure') ORDER BY position"""
                    )
                    rows = await found.fetchall()
                if len(rows) == 3:
                    break
                await asyncio.sleep(0.02)
        assert [row[:3] for row in rows] == [
            ("notification-sent", "ehr", None),
            ("notification-sent", "ehr", None),
            ("disclosure", "ehr", "p7"),
        ]
        assert all("127.0.0.1" in row[3] for row in rows)


class TestSlowPeers:
    """A peer that answers no Ping, or does not read, is waited for by itself alone."""

    @pytest.fixture(autouse=True)
    def roomy(self, site: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(site.hub, "_of_one_client", 20)

    async def test_they_delay_no_handshake(self, site: Open) -> None:
        ids = [await site.subscribed("ehr", SOCKET) for _ in range(2)]
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(6):
                deaf = unanswering(await stack.enter_async_context(site.connected()))
                await bound(site, deaf, "ehr", ids[0])
            for subscription_id in ids:
                socket = await stack.enter_async_context(site.connected())
                async with asyncio.timeout(5):
                    assert await bound(site, socket, "ehr", subscription_id) == [("handshake", 0, [])]

    @pytest.mark.parametrize("is_deaf", [True, False], ids=["answers no Ping", "does not read"])
    async def test_they_delay_no_event(self, site: Open, is_deaf: bool) -> None:
        ids = [await site.subscribed("ehr", SOCKET) for _ in range(2)]
        async with contextlib.AsyncExitStack() as stack:
            sockets = []
            for subscription_id in (*ids, ids[0]):
                sockets.append(await stack.enter_async_context(site.connected()))
                await bound(site, sockets[-1], "ehr", subscription_id)
            slow, *others = sockets
            if is_deaf:
                unanswering(slow)
            else:
                slow.transport.pause_reading()
                stack.callback(slow.transport.abort)
            async with asyncio.timeout(8):
                for n in (1, 2, 3):
                    await site.happen(task(f"t{n}"))
                    assert [await bundle(each) for each in others] == [("event-notification", n, [n])] * 2
                for subscription_id in ids:
                    await site.delivered_is(subscription_id, 3)

    async def test_each_goes_on_in_order_from_where_it_stands(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        async with site.connected() as slow, site.connected() as other:
            for socket in (slow, other):
                await bound(site, socket, "ehr", subscription_id)
            slow.transport.pause_reading()
            for n in range(1, 31):
                await site.happen(task(f"t{n}"))
                assert (await bundle(other))[2] == [n]
            slow.transport.resume_reading()
            assert [(await bundle(slow))[2] for _ in range(30)] == [[n] for n in range(1, 31)]

    async def test_they_are_closed_after_the_timeout_all_at_once(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", subscription(kind="websocket", timeout=1))
        async with contextlib.AsyncExitStack() as stack:
            deaf = [unanswering(await stack.enter_async_context(site.connected())) for _ in range(4)]
            for socket in deaf:
                await socket.send(f"bind-with-token {await site.token('ehr', subscription_id)}")
            assert await asyncio.gather(*(closed(socket, 3.5) for socket in deaf)) == [1013] * 4
        assert not site.sockets.open


class TestRights:
    async def test_a_socket_is_closed_when_the_access_of_its_owner_ends(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        async with site.connected() as socket:
            await bound(site, socket, "ehr", subscription_id)
            site.shut.add("ehr")
            assert await closed(socket) == 1008

    async def test_nothing_is_told_to_an_owner_whose_access_has_ended(
        self, site: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("wetread.api.socket_hub._LOOK_S", 60)
        subscription_id = await site.subscribed("ehr", SOCKET)
        async with site.connected() as socket:
            await bound(site, socket, "ehr", subscription_id)
            site.shut.add("ehr")
            await site.happen(task("t1"))
            with pytest.raises(ConnectionClosed):
                await heard(socket)
        assert await site.delivered(subscription_id) == 0

    async def test_what_the_owner_may_no_longer_see_is_dropped_on_record(self, site: Open) -> None:
        subscription_id = await site.subscribed("narrow", SOCKET)
        await site.happen(task("t1", "completed"))
        await site.happen(task("t1", "failed"), task("t2", "completed"))
        async with site.connected() as socket:
            await bound(site, socket, "narrow", subscription_id)
            assert await bundle(socket) == ("event-notification", 2, [2])
        await site.delivered_is(subscription_id, 2)
        async with site.database.transaction() as conn:
            found = await conn.execute("SELECT count(*) FROM audit_event WHERE kind = 'access-denied'")
            assert await found.fetchone() == (1,)

    async def test_a_token_that_opens_less_than_the_owner_may_read_takes_nothing_off_what_waits(
        self, site: Open
    ) -> None:
        subscription_id, own = [await site.subscribed("ann", SOCKET) for _ in range(2)]
        await site.happen(task("t1"))
        async with site.connected() as narrow, site.connected() as whole:
            await narrow.send(f"bind-with-token {await site.token('ann-elsewhere', subscription_id)}")
            assert await refusal(narrow) == "forbidden"
            assert await site.delivered(subscription_id) == 0
            await bound(site, whole, "ann", subscription_id)
            assert await bundle(whole) == ("event-notification", 1, [1])
            await narrow.send(f"bind-with-token {await site.token('ann', own)}")
            assert await bundle(narrow) == ("handshake", 0, [])

    async def test_a_socket_whose_token_opens_less_by_now_is_closed_and_takes_nothing(self, site: Open) -> None:
        subscription_id = await site.subscribed("ann", SOCKET)
        async with site.connected() as other, site.connected() as whole:
            await bound(site, other, "ann-as-well", subscription_id)
            site.narrowed["grant"] = READERS["ann-elsewhere"]
            await site.happen(task("t1"))
            assert await closed(other) == 1008
            assert await site.delivered(subscription_id) == 0
            await bound(site, whole, "ann", subscription_id)
            assert await bundle(whole) == ("event-notification", 1, [1])

    @pytest.mark.parametrize("who", ["narrow", "all-tasks-of-narrow"])
    async def test_what_is_dropped_is_on_record_once_whatever_the_sockets(self, site: Open, who: str) -> None:
        subscription_id = await site.subscribed("narrow", SOCKET)
        await site.happen(task("t1", "completed"))
        await site.happen(task("t1", "failed"), task("t2", "completed"))
        async with site.connected() as one, site.connected() as other:
            for socket, token in ((one, await site.token("narrow")), (other, await site.token(who))):
                await socket.send(f"bind-with-token {token}")
            await asyncio.gather(*(last(socket, 2) for socket in (one, other)))
        await site.delivered_is(subscription_id, 2)
        async with site.database.transaction() as conn:
            found = await conn.execute("SELECT count(*) FROM audit_event WHERE kind = 'access-denied'")
            assert await found.fetchone() == (1,)

    async def test_a_subscription_that_is_deleted_closes_a_socket_that_has_no_other(self, site: Open) -> None:
        gone, kept = [await site.subscribed("ehr", SOCKET) for _ in range(2)]
        async with site.connected() as one, site.connected() as two:
            await bound(site, one, "ehr", gone)
            await bound(site, two, "ehr", gone, kept)
            async with site.caller("ehr") as client:
                await client.delete(f"Subscription/{gone}")
            assert await refusal(one) == "conflict"
            assert await closed(one) == 1000
            assert await refusal(two) == "conflict"
            await site.happen(task("t1"))
            assert await bundle(two) == ("event-notification", 1, [1])

    async def test_a_subscription_that_is_replaced_shakes_hands_again(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        async with site.connected() as socket:
            await bound(site, socket, "ehr", subscription_id)
            changed = {**subscription("full-resource", kind="websocket"), "id": subscription_id}
            async with site.caller("ehr") as client:
                assert (await client.put(f"Subscription/{subscription_id}", json=changed)).status_code == 200
            assert await bundle(socket) == ("handshake", 0, [])
            await asyncio.sleep(0.3)
            await site.happen(task("t1"))
            assert (await heard(socket))["entry"][1]["resource"]["id"] == "t1"


class TestOtherForms:
    """R4's own websockets (subscription.html), and JSON as Medplum's clients send it."""

    async def test_r4_binds_by_id_and_is_pinged(self, site: Open) -> None:
        form = {
            "resourceType": "Subscription",
            "status": "requested",
            "reason": "test",
            "criteria": "Task?status=completed",
            "channel": {"type": "websocket"},
        }
        subscription_id = await site.subscribed("ehr", form)
        async with site.connected(additional_headers={"Authorization": "Bearer ehr"}) as socket:
            await socket.send(f"bind {subscription_id}")
            assert await socket.recv() == f"bound {subscription_id}"
            await site.happen(task("t1", "completed"), task("t2"), task("t3", "completed"))
            assert [await socket.recv() for _ in range(2)] == [f"ping {subscription_id}"] * 2
        theirs = await site.subscribed("ann", SOCKET)
        async with site.connected(additional_headers={"Authorization": "Bearer ehr"}) as socket:
            await socket.send(f"bind {theirs}")
            assert await refusal(socket) == "forbidden"

    async def test_frames_in_json_are_answered_with_the_status_of_r4b(self, site: Open) -> None:
        subscription_id = await site.subscribed("ehr", SOCKET)
        token = await site.token("ehr", subscription_id)
        async with site.connected() as socket:
            await socket.send(json.dumps({"type": "ping"}))
            assert await heard(socket) == {"type": "pong"}
            await socket.send(json.dumps({"type": "bind-with-token", "payload": {"token": token}}))
            status = (await heard(socket))["entry"][0]["resource"]
            assert (status["resourceType"], status["type"]) == ("SubscriptionStatus", "handshake")
            await site.happen(task("t1"))
            got = await heard(socket)
            Bundle.model_validate(got)
            status = got["entry"][0]["resource"]
            assert status["subscription"] == {"reference": f"Subscription/{subscription_id}"}
            [event] = status["notificationEvent"]
            assert (event["eventNumber"], event["focus"]) == ("1", {"reference": f"{BASE}/Task/t1"})
            await socket.send(json.dumps({"type": "unbind-from-token", "payload": {"token": token}}))
            await socket.send(json.dumps({"type": "ping"}))
            assert await heard(socket) == {"type": "pong"}
            await site.happen(task("t2"))
            await silent(socket)


class TestFront:
    """All that stands in front of the application lets websockets through, and counts how often they are opened."""

    @pytest.fixture
    async def url(self, database: Database, tmp_path: Path) -> AsyncIterator[str]:
        given: dict[str, Any] = {
            "data_dir": tmp_path,
            "http": {"limits": {"anonymous_per_minute": 3}, "trusted_proxies": ["127.0.0.1/32"]},
        }
        async with composition.house(load(None, given), database.url, ["http"]) as built:
            faces, stop = composition.front(built), asyncio.Event()
            running = asyncio.create_task(faces.run(stop))
            listener = HttpListener(faces.app, "127.0.0.1", 0)
            await listener.start()
            yield f"ws://127.0.0.1:{listener.port}/fhir/websocket"
            stop.set()
            await listener.close()
            await running

    async def test_a_socket_is_opened_and_counted_by_the_address_that_the_proxy_tells(self, url: str) -> None:
        for _ in range(3):
            async with connect(url, additional_headers={"X-Forwarded-For": "192.0.2.1"}) as socket:
                await socket.send("bind-with-token nonsense")
                assert await refusal(socket) == "login"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, additional_headers={"X-Forwarded-For": "192.0.2.1"}):
                pass
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["Retry-After"]
        async with connect(url, additional_headers={"X-Forwarded-For": "192.0.2.2"}) as socket:
            await socket.send("bind-with-token nonsense")
            assert await refusal(socket) == "login"

    async def test_there_is_no_socket_elsewhere(self, url: str) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"{url}/other"):
                pass
        assert refused.value.response.status_code == 403


async def test_the_server_says_goodbye_when_it_stops(database: Database) -> None:
    site = Open(database)
    async with serving(site):
        subscription_id = await site.subscribed("ehr", SOCKET)
        socket = await site.connected()
        await bound(site, socket, "ehr", subscription_id)
    assert await closed(socket) in (1001, 1012)


async def test_the_follower_outlives_the_loss_of_the_database(site: Open) -> None:
    subscription_id = await site.subscribed("ehr", SOCKET)
    async with site.connected() as socket:
        await bound(site, socket, "ehr", subscription_id)
        async with site.database.transaction() as conn:
            await conn.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()"""
            )
        await site.happen(task("t1"))
        assert await bundle(socket) == ("event-notification", 1, [1])
