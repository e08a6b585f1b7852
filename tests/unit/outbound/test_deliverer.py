"""Delivery by cursor: many subscriptions beside each other, any number of deliverers, whatever endpoints do."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from tests.certificates import Authority

from wetread.domain.reader import SYSTEM
from wetread.outbound import deliverer as deliverer_module
from wetread.outbound.http import HttpPoster
from wetread.outbound.rest_hook import RestHook
from wetread.record import resources
from wetread.record.subscriptions import claims
from wetread.record.subscriptions.claims import Failure, Patience
from wetread.record.subscriptions.keeping import remove_old
from wetread.record.subscriptions.rows import State, state_of
from wetread.wire.post import Post

from .conftest import HANG, Sink
from .subscribing import ALLOWED, BASE, CLIENT, Server, form, numbers, task, told_by, until, until_cursors, until_status

pytestmark = pytest.mark.usefixtures("short_grace")


async def _set(server: Server, assignments: str, *args: object) -> None:
    async with server.database.transaction() as conn:
        await conn.execute(f"UPDATE subscription_state SET {assignments}".encode(), args)


async def _state(server: Server, subscription_id: str) -> State:
    async with server.database.transaction() as conn:
        state = await state_of(conn, subscription_id)
    assert state is not None
    return state


async def _until_failures(server: Server, subscription_id: str, least: int = 1) -> State:
    async with asyncio.timeout(20):
        while (state := await _state(server, subscription_id)).failures < least:  # noqa: ASYNC110  (the database)
            await asyncio.sleep(0.02)
    return state


class TestOrderAndShare:
    async def test_as_many_events_as_are_asked_for_go_in_one_notification(self, server: Server, sink: Sink) -> None:
        subscription_id = await server.active(form(sink.url, most=4))
        assert await server.happen(*(task(f"t{n}") for n in range(10))) == 10
        async with server.delivering():
            await until_cursors(server, (10, 10))
        told = [told_by(received) for received in sink.received]
        assert [len(each["notification-event"]) for each in told] == [4, 4, 2]
        assert [each["events-since-subscription-start"] for each in told] == ["4", "8", "10"]
        assert numbers(sink) == [str(n) for n in range(1, 11)]
        keys = [received.headers["idempotency-key"] for received in sink.received]
        assert keys == [f"{subscription_id}-1-4", f"{subscription_id}-5-8", f"{subscription_id}-9-10"]

    async def test_deliverers_share_without_doubles(self, server: Server, sink: Sink) -> None:
        for n in range(8):
            await server.active(form(f"{sink.url}/{n}"))
        await server.happen(*(task(f"t{n}") for n in range(25)))
        async with server.delivering(places=2), server.delivering(places=2):
            await until_cursors(server, *[(25, 25)] * 8)
        for n in range(8):
            assert numbers(sink, f"/{n}") == [str(m) for m in range(1, 26)]

    async def test_what_a_dead_deliverer_had_in_hand_is_taken_over(self, server: Server, sink: Sink) -> None:
        subscription_id = await server.active(form(sink.url))
        await server.happen(task("a"))
        async with contextlib.AsyncExitStack() as dead:
            conn, worker = await dead.enter_async_context(claims.enlisted(server.database))
            [claimed] = await claims.claim(conn, worker, 1, 1)
            assert (claimed.id, claimed.worker) == (subscription_id, worker)
            async with server.delivering():
                await asyncio.sleep(1.5)
                assert numbers(sink) == [], "it was taken from one who lives"
                await dead.aclose()
                async with asyncio.timeout(20):
                    await until(lambda: numbers(sink) == ["1"])

    async def test_who_lost_its_lock_stops_and_comes_back_under_another_number(
        self, server: Server, sink: Sink, server_url: str
    ) -> None:
        subscription_id = await server.active(form(sink.url, timeout_s=60))
        sink.answer = lambda received: HANG
        await server.happen(task("a"))
        async with server.delivering():
            await until(lambda: len(sink.received) == 1)
            before = (await _state(server, subscription_id)).worker
            sink.answer = lambda received: 200
            await _terminate(server, "wetread-deliverer")
            await until_cursors(server, (1, 1))
        assert before is not None
        assert numbers(sink) == ["1", "1"]

    async def test_the_loss_of_all_connections_loses_no_event(self, server: Server, sink: Sink) -> None:
        await server.active(form(sink.url))
        async with server.running():
            for n in range(60):
                await server.put(task(f"t{n}"))
                if n % 20 == 10:
                    await _terminate(server, "wetread-%")
            await until_cursors(server, (60, 60))
        arrived = [int(number) for number in numbers(sink)]
        accepted = list(dict.fromkeys(arrived))
        assert accepted == list(range(1, 61))
        assert all(count <= 4 for count in Counter(arrived).values())

    async def test_a_backlog_leaves_the_others_their_turn(
        self, server: Server, sink: Sink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deliverer_module, "_TURN_S", 0.0)
        first, second = await server.active(form(f"{sink.url}/1")), await server.active(form(f"{sink.url}/2"))
        await server.happen(*(task(f"t{n}") for n in range(100)))
        await _set(server, "delivered = 99, due_at = now() + interval '1 second' WHERE id = %s", second)
        await _set(server, "due_at = now() - interval '1 minute' WHERE id = %s", first)
        await asyncio.sleep(1.0)
        async with server.delivering(places=1):
            await until(lambda: len(sink.received) == 101)
        paths = [received.path[-1] for received in sink.received]
        assert paths.index("2") < 60, "one event waited until another's backlog was gone"

    async def test_one_that_hangs_gives_its_place_up(self, server: Server, sink: Sink) -> None:
        await server.active(form(f"{sink.url}/hangs", timeout_s=60))
        sink.answer = lambda received: HANG if received.path.endswith("hangs") else 200
        await server.happen(task("a"))
        async with server.delivering(places=1):
            await until(lambda: len(sink.received) == 1)
            await server.active(form(f"{sink.url}/quick"))
            await server.happen(task("b"))
            await until(lambda: numbers(sink, "quick") == ["1"])
            assert len(sink.received) == 2

    async def test_those_in_trouble_have_places_of_their_own(self, server: Server, sink: Sink) -> None:
        for n in range(4):
            await server.active(form(f"{sink.url}/hangs/{n}", timeout_s=60))
        await server.active(form(f"{sink.url}/quick"))
        sink.answer = lambda received: HANG if "hangs" in received.path else 200
        await server.happen(task("a"))
        await _set(server, "failures = 1 WHERE channel ->> 'endpoint' LIKE '%%hangs%%'")
        async with server.delivering(places=2):
            await until(lambda: len(sink.received) == 3)
            await asyncio.sleep(0.3)
            assert Counter("hangs" in received.path for received in sink.received) == {True: 2, False: 1}


async def _terminate(server: Server, name: str) -> None:
    """Ends connections by the name of their application; those of the pool have none of their own."""
    async with await psycopg.AsyncConnection.connect(server.database.url, autocommit=True) as conn:
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE %s AND pid <> pg_backend_pid()",
            (name,),
        )


class TestEndpointsThatFail:
    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (500, "answered 500"),
            (429, "answered 429"),
            (0, "no answer"),
            (HANG, "no whole answer within 1 s"),
            (b"HTTP/1.1 nonsense\r\n\r\n", "no answer"),
            (401, "answered 401"),
            (307, "answered 307"),
        ],
    )
    async def test_are_tried_again_and_get_everything_in_order(
        self, server: Server, sink: Sink, answer: int | bytes, said: str
    ) -> None:
        subscription_id = await server.active(form(sink.url, timeout_s=1))
        sink.answer = lambda received: answer
        await server.happen(task("a"), task("b"))
        async with server.delivering():
            failing = await _until_failures(server, subscription_id)
            assert (failing.status, failing.delivered, failing.worker) == ("active", 0, None)
            told = await server.status(subscription_id)
            assert said in told["error"]["text"]
            sink.answer = lambda received: 200
            await until_cursors(server, (2, 2))
        assert list(dict.fromkeys(numbers(sink))) == ["1", "2"]
        assert "error" not in await server.status(subscription_id)
        recovered = await _state(server, subscription_id)
        assert (recovered.failures, recovered.failing_since, recovered.error) == (0, None, "")

    async def test_a_huge_answer_is_not_read_and_not_held_against_the_peer(self, server: Server, sink: Sink) -> None:
        await server.active(form(sink.url))
        length = 64 * 1024 * 1024
        sink.answer = lambda received: f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode() + bytes(1 << 20)
        await server.happen(task("a"), task("b"))
        async with server.delivering():
            await until_cursors(server, (2, 2))
        assert numbers(sink) == ["1", "2"]

    async def test_whose_name_has_no_address(self, server: Server, sink: Sink) -> None:
        async def resolve(host: str, port: int) -> Sequence[str]:
            raise OSError("no such name")

        nameless = Server(server.database, resolve)
        subscription_id = await nameless.active(form("http://localhost:9/hook"))
        await nameless.happen(task("a"))
        async with nameless.delivering():
            failing = await _until_failures(nameless, subscription_id)
        await nameless.peers.close()
        assert failing.status == "active"
        assert "no answer from the endpoint" in failing.error

    async def test_whose_certificate_is_over(self, server: Server, sink: Sink, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = authority.issue("endpoint", days=-1)
        theirs.load_cert_chain(pair.certificate, pair.key)
        ours = ssl.create_default_context(cafile=str(authority.certificate))
        server.senders["rest-hook"] = RestHook(HttpPoster(peers := Post(ALLOWED, lambda: ours)), BASE)
        async with await asyncio.start_server(sink.serve, "127.0.0.1", 0, ssl=theirs) as peer:
            port = peer.sockets[0].getsockname()[1]
            subscription_id = await server.active(form(f"https://127.0.0.1:{port}/hook"))
            await server.happen(task("a"))
            async with server.delivering():
                failing = await _until_failures(server, subscription_id)
                assert (failing.status, failing.delivered) == ("active", 0)
                renewed = authority.issue("endpoint", into=pair)
                theirs.load_cert_chain(renewed.certificate, renewed.key)
                await until_cursors(server, (1, 1))
            peer.close()
        await peers.close()
        assert numbers(sink) == ["1"]

    async def test_one_that_is_gone_is_not_tried_again(self, server: Server, sink: Sink) -> None:
        subscription_id = await server.active(form(sink.url))
        sink.answer = lambda received: 410
        await server.happen(task("a"))
        async with server.delivering():
            told = await until_status(server, subscription_id, "error")
        assert "410" in told["error"]["text"]
        assert len(sink.received) == 1
        [failed] = await server.audits("delivery-failed")
        assert failed["outcome"] == "8"
        assert await server.resource_status(subscription_id) == "error"
        assert await server.happen(task("b")) == 1, "events go on being counted"

    @pytest.mark.parametrize(("answer", "column"), [(503, "failing_since"), (404, "refused_since")])
    async def test_are_given_up_when_patience_is_over(
        self, server: Server, sink: Sink, answer: int, column: str
    ) -> None:
        subscription_id = await server.active(form(sink.url))
        sink.answer = lambda received: answer
        await server.happen(task("a"))
        patience = Patience(no_answer=timedelta(hours=24), refusal=timedelta(minutes=10))
        async with server.delivering(patience=patience):
            await _until_failures(server, subscription_id, 2)
            assert (await server.status(subscription_id))["status"] == "active"
            ago = timedelta(hours=25) if column == "failing_since" else timedelta(minutes=11)
            await _set(server, f"{column} = now() - %s, failures = 200", ago)
            told = await until_status(server, subscription_id, "error")
        assert str(answer) in told["error"]["text"]

    async def test_a_refusal_after_long_silence_is_not_the_end_yet(self, server: Server) -> None:
        subscription_id = await server.active(form("http://127.0.0.1:9/"))
        await _set(server, "failures = 9, failing_since = now() - interval '5 hours', worker = 7")
        state = await _state(server, subscription_id)
        async with server.database.transaction() as conn:
            assert await claims.put_off(conn, 7, state, 0, Failure("401", is_refusal=True), Patience()) is False

    @pytest.mark.parametrize(("failures", "least_s", "most_s"), [(0, 0.4, 0.6), (3, 3.2, 4.8), (30, 480, 720)])
    async def test_pauses_grow_up_to_ten_minutes(
        self, server: Server, failures: int, least_s: float, most_s: float
    ) -> None:
        subscription_id = await server.active(form("http://127.0.0.1:9/"))
        pauses = set()
        for _ in range(5):
            await _set(server, "failures = %s, worker = 7", failures)
            state = await _state(server, subscription_id)
            async with server.database.transaction() as conn:
                await claims.put_off(conn, 7, state, 0, Failure("503", is_refusal=False), Patience())
                found = await conn.execute("SELECT extract(epoch FROM due_at - now()) FROM subscription_state")
                row = await found.fetchone()
            assert row is not None
            assert least_s <= row[0] <= most_s
            pauses.add(row[0])
        assert len(pauses) > 1, "all that failed together would come back together"


class TestInMidFlight:
    @pytest.fixture
    async def sending(self, server: Server, sink: Sink) -> AsyncIterator[str]:
        """A subscription whose first of two events is with the peer, which answers when the test is done."""
        subscription_id = await server.active(form(sink.url, timeout_s=2))
        sink.answer = lambda received: HANG
        await server.happen(task("a"), task("b"))
        async with server.delivering():
            await until(lambda: len(sink.received) == 1)
            sink.answer = lambda received: 200
            yield subscription_id
            async with asyncio.timeout(10):
                while (await _state(server, subscription_id)).worker is not None:  # noqa: ASYNC110  (the database)
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.8)
        assert numbers(sink) == ["1"], "something was sent after the end"

    async def test_a_subscription_is_deleted(self, server: Server, sending: str) -> None:
        async with server.database.transaction() as conn:
            await resources.delete(conn, SYSTEM, "Subscription", sending)
            await server.subscriptions.withdraw(conn, sending)

    async def test_a_subscription_is_switched_off(self, server: Server, sending: str) -> None:
        async with server.database.transaction() as conn:
            version = await resources.read(conn, SYSTEM, "Subscription", sending)
            off = await resources.put(conn, {**version.resource(), "status": "off"})
            await server.subscriptions.accept(conn, CLIENT, off.resource())

    async def test_a_subscription_ends(self, server: Server, sending: str) -> None:
        await _set(server, "ends_at = now()")
        async with server.database.transaction() as conn:
            await server.subscriptions.end(conn, sending)
        assert await server.resource_status(sending) == "off"


class TestTimes:
    async def test_a_heartbeat_goes_out_after_silence_and_never_beside_events(self, server: Server, sink: Sink) -> None:
        asked = form(sink.url)
        asked["channel"]["extension"].append(
            {
                "url": "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-heartbeat-period",
                "valueUnsignedInt": 10,
            }
        )
        subscription_id = await server.active(asked)
        async with server.delivering():
            await _set(server, "last_sent_at = now() - interval '9 seconds', due_at = now()")
            await until(lambda: len(sink.received) == 1)
            beat = told_by(sink.received[0])
            assert (beat["type"], beat["status"]) == ("heartbeat", "active")
            assert "notification-event" not in beat
            async with asyncio.timeout(20):
                while (await _state(server, subscription_id)).worker is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            async with server.database.transaction() as conn:
                found = await conn.execute("SELECT due_at - last_sent_at FROM subscription_state")
                assert await found.fetchone() == (timedelta(seconds=10),)
            await _set(server, "last_sent_at = now() - interval '1 minute'")
            await server.happen(task("a"))
            await until_cursors(server, (1, 1))
        assert [told_by(r)["type"] for r in sink.received] == ["heartbeat", "event-notification"]

    async def test_what_a_wrong_clock_put_off_is_due_now(self, server: Server, sink: Sink) -> None:
        await server.active(form(sink.url))
        await server.happen(task("a"))
        await _set(server, "due_at = now() + interval '3 years'")
        async with server.delivering():
            await until_cursors(server, (1, 1))
        assert numbers(sink) == ["1"]

    async def test_what_is_too_old_goes_and_it_is_told(self, server: Server, sink: Sink) -> None:
        subscription_id = await server.active(form(sink.url))
        await server.happen(*(task(f"t{n}") for n in range(5)))
        async with server.database.transaction() as conn:
            await conn.execute("UPDATE subscription_event SET at = now() - interval '31 days' WHERE number <= 3")
            assert await remove_old(conn, timedelta(days=30)) == 3
            assert await remove_old(conn, timedelta(days=30)) == 0
        assert "up to number 3" in (await server.status(subscription_id))["error"]["text"]
        async with server.delivering():
            await until_cursors(server, (5, 5))
        assert numbers(sink) == ["4", "5"]
        [lost] = await server.audits("delivery-failed")
        assert "number 3" in lost["outcomeDesc"]
