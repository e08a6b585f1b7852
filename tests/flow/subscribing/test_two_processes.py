"""Websockets at two processes of one database: each hears all in order, and what dies takes nothing with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.flow.conftest import Hospital, Server, until
from tests.ports import free_port
from tests.subscriber import parameters
from wetread.store import embedded

from .client import Client


@dataclass
class Viewer:
    """A client with one socket at a time; it keeps the numbers of all events that it has heard, in the order in which
    they came, and the count of each handshake."""

    numbers: list[int] = field(default_factory=list)
    handshakes: list[int] = field(default_factory=list)

    @contextmanager
    def at(self, port: int, token: str) -> Iterator[None]:
        """While it is connected to one process."""
        had = len(self.handshakes)
        with connect(f"ws://127.0.0.1:{port}/fhir/websocket", compression=None) as socket:
            socket.send(f"bind-with-token {token}")
            listening = threading.Thread(target=self._listen, args=(socket,), daemon=True)
            listening.start()
            until("the handshake", lambda: len(self.handshakes) > had)
            yield
        listening.join(5)

    def _listen(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                bundle = json.loads(socket.recv())
                status = parameters(bundle["entry"][0]["resource"])
                count = int(status["events-since-subscription-start"])
                if status["type"] == "handshake":
                    self.handshakes.append(count)
                else:
                    self.numbers.append(count)

    def until_heard(self, number: int) -> None:
        until(f"event {number}", lambda: number in self.numbers)


@pytest.fixture
def other(hospital: Hospital) -> Iterator[Server]:
    """A second process of the role http on the same database."""
    own, port = hospital.server, free_port()
    with embedded.borrowed(own.data_dir) as url:
        environment = {"WETREAD_DATABASE_URL": url, "WETREAD_HTTP__PORT": str(port)}
        server = Server(own.config, own.data_dir, {"http": port}, environment, ("--roles", "http"))
        server.start()
        try:
            server.wait_ready()
            yield server
        finally:
            server.kill()


def _by_websocket(ehr: Client) -> str:
    form = ehr.form("")
    form["channel"]["type"] = "websocket"
    del form["channel"]["endpoint"]
    made = ehr.post(form)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def _token(ehr: Client, subscription_id: str) -> str:
    answer = ehr.http.get(f"/fhir/Subscription/{subscription_id}/$get-ws-binding-token").json()
    return next(str(each["valueString"]) for each in answer["parameter"] if each["name"] == "token")


def test_each_socket_hears_each_event_once_whichever_process_holds_it(
    hospital: Hospital, ehr: Client, other: Server
) -> None:
    here, there = hospital.server.ports["http"], other.ports["http"]
    shared, own, theirs = (_by_websocket(ehr) for _ in range(3))
    viewers = [Viewer() for _ in range(4)]
    one, two, three, four = viewers
    with (
        one.at(here, _token(ehr, shared)),
        two.at(there, _token(ehr, shared)),
        three.at(here, _token(ehr, own)),
        four.at(there, _token(ehr, theirs)),
    ):
        ehr.write(20)
        for viewer in viewers:
            viewer.until_heard(20)
    assert [viewer.handshakes for viewer in viewers] == [[0]] * 4
    assert [viewer.numbers for viewer in viewers] == [list(range(1, 21))] * 4


def test_a_process_that_is_killed_loses_nothing_for_who_connects_to_the_other(
    hospital: Hospital, ehr: Client, other: Server
) -> None:
    here, there = hospital.server.ports["http"], other.ports["http"]
    shared, theirs = (_by_websocket(ehr) for _ in range(2))
    stays, moves, alone = Viewer(), Viewer(), Viewer()
    writer = threading.Thread(target=ehr.write, args=(60,), daemon=True)
    with stays.at(here, _token(ehr, shared)):
        with moves.at(there, _token(ehr, shared)), alone.at(there, _token(ehr, theirs)):
            writer.start()
            for viewer in (stays, moves, alone):
                viewer.until_heard(10)
            other.kill()
        with moves.at(here, _token(ehr, shared)), alone.at(here, _token(ehr, theirs)):
            writer.join(30)
            for viewer in (stays, alone):
                viewer.until_heard(60)
            # On a busy machine the other socket may have had all by the time of the handshake.
            until("the rest", lambda: 60 in (moves.handshakes[1], *moves.numbers[-1:]))
    assert stays.numbers == list(range(1, 61))
    # What nobody has told that it received came again.
    assert list(dict.fromkeys(alone.numbers)) == list(range(1, 61))
    # What the other socket of the subscription has had does not: the handshake tells up to where, `$events` what.
    told = moves.handshakes[1]
    known = max(number for number in moves.numbers if number <= told)
    missed = ehr.events(shared, eventsSinceNumber=known, eventsUntilNumber=told)["entry"][0]["resource"]
    numbers = [int(each["event-number"]) for each in parameters(missed)["notification-event"]]
    assert numbers == list(range(known, told + 1))
    assert sorted({*moves.numbers, *numbers}) == list(range(1, 61))
