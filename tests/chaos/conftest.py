"""A hospital that goes on sending while its Wetread is killed, and remembers every copy of what it gets."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import psycopg
import pytest

from tests.flow.conftest import Hospital, Server, Story, configuration, overlay, until
from tests.flow.conftest import cases as cases
from tests.flow.conftest import peer_ports as peer_ports
from tests.flow.conftest import story as story
from tests.fork_server import fork_server_of
from tests.ports import free_port
from wetread.demo import peers
from wetread.errors import Unreachable
from wetread.store import embedded

_TOPICS = "https://wetread.org/fhir/SubscriptionTopic/"
_CONTENT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content"
_INSTANCES_AT_ONCE = 8


class Copies(dict[str, bytes]):
    """The archive's objects by SOP Instance UID, with every copy that came."""

    def __init__(self) -> None:
        super().__init__()
        self.all: dict[str, list[bytes]] = defaultdict(list)

    def __setitem__(self, uid: str, content: bytes) -> None:
        self.all[uid].append(content)
        super().__setitem__(uid, content)


@pytest.fixture(scope="session")
def heard() -> peers.Heard:
    return peers.Heard(objects=Copies())


@dataclass
class Senders:
    """A RIS and a modality, each a thread. What is not acknowledged is sent again, the same bytes, until it is."""

    hospital: Hospital
    orders: list[Story] = field(default_factory=list)
    """Acknowledged with AA."""
    studies: list[Story] = field(default_factory=list)
    """Every instance acknowledged with 0000."""
    refusals: list[str] = field(default_factory=list)
    resent: int = 0

    def run(self, stories: list[Story], pause_s: float) -> list[threading.Thread]:
        """One thread sends the orders, another the studies, with a pause between two."""
        threads = [
            threading.Thread(target=self._each, args=(stories, pause_s, send), daemon=True)
            for send in (self._order, self._study)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _each(self, stories: list[Story], pause_s: float, send: Callable[[Story], None]) -> None:
        for told in stories:
            try:
                send(told)
            except Exception as error:
                self.refusals.append(f"{send.__name__} {told.case.name}: {error!r}")
            time.sleep(pause_s)

    def _order(self, told: Story) -> None:
        ack = self._until_acknowledged(lambda: self.hospital.order(told.message))
        assert ack.code == "AA", ack.code
        self.orders.append(told)

    def _study(self, told: Story) -> None:
        for start in range(0, len(told.datasets), _INSTANCES_AT_ONCE):
            part = told.datasets[start : start + _INSTANCES_AT_ONCE]
            self._until_acknowledged(lambda part=part: self.hospital.store(part))
        self.studies.append(told)

    def _until_acknowledged(self, send: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 120
        while True:
            try:
                return send()
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
                self.resent += 1
                time.sleep(0.2)


ROLES_OF = {
    "front": "http,mllp",
    "work": "work,notify",
    "dicom": "dicom",
    "infer": "infer",
    "fork server": "work,notify",  # it is missed only when somebody must be started again
}
VICTIMS = ("group", "front", "work", "dicom", "infer", "postgres", "parent", "fork server")


@dataclass
class Killer:
    """Kills with SIGKILL, starts again what a site's supervisor would, and takes the time until the server is ready."""

    server: Server
    random: random.Random
    recoveries_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def strike(self, victim: str) -> None:
        process = self.server.process
        assert process is not None
        if victim == "group":
            self.server.kill()
        elif victim == "parent":
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
        elif victim in ("postgres", "postgres-restart"):
            postmaster = int((self.server.data_dir / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
            if victim == "postgres":
                _kill(postmaster, *(each.pid for each in psutil.Process(postmaster).children()))
            else:
                os.kill(postmaster, signal.SIGINT)  # as `pg_ctl restart` does: it sends all clients away
        else:
            if victim == "fork server":
                _kill(fork_server_of(process.pid))
            role = ROLES_OF[victim]
            # One that was just killed may be in the pause before its next start.
            _kill(*until(f"a process of {role}", lambda: self._of(role), 120))
        struck = time.monotonic()
        if victim in ("group", "parent"):
            time.sleep(self.random.uniform(0.0, 1.0))
        self._bring_back(within_s=120)
        self.recoveries_s[victim].append(time.monotonic() - struck)

    def _of(self, roles: str) -> list[int]:
        return [pid for pid, served in self.server.processes().items() if served == roles]

    def _bring_back(self, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while True:
            process = self.server.process
            assert process is not None
            if process.poll() is not None:
                self.server.start()
            try:
                self.server.wait_ready(within_s)
                return
            except AssertionError:
                # It ended again, for instance since the ports were not free yet; a supervisor tries on.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)


def _kill(*pids: int) -> None:
    assert pids, "there is nobody to kill"
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass
class Besieged:
    hospital: Hospital
    senders: Senders
    killer: Killer

    def database(self) -> psycopg.Connection:
        with embedded.borrowed(self.hospital.server.data_dir) as url:
            return psycopg.connect(url, autocommit=True)


@pytest.fixture
def besieged(
    tmp_path_factory: pytest.TempPathFactory,
    heard: peers.Heard,
    peer_ports: dict[str, int],
    seed: int,
) -> Iterator[Besieged]:
    """A server of its own, with subscriptions to its results."""
    folder = tmp_path_factory.mktemp("chaos")
    heard.objects = Copies()
    heard.alerts.clear()
    heard.notifications.clear()
    ports = {name: free_port() for name in ("http", "mllp", "dicom")}
    config = folder / "wetread.toml"
    config.write_text(configuration(ports, peer_ports, overlay_dir=overlay(folder)))
    server = Server(config, folder / "data", ports)
    server.start()
    try:
        server.wait_ready()
        hospital = Hospital(server, heard, peer_ports["subscriber"])
        for topic, content in (("imagingstudy-available", "id-only"), ("ai-observation", "full-resource")):
            _subscribe(hospital, topic, content)
        yield Besieged(hospital, Senders(hospital), Killer(server, random.Random(seed)))
    finally:
        server.stop()


def _subscribe(hospital: Hospital, topic: str, content: str) -> None:
    subscription = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "chaos",
        "criteria": _TOPICS + topic,
        "channel": {
            "type": "rest-hook",
            "endpoint": f"http://127.0.0.1:{hospital.subscriber_port}/notifications",
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": _CONTENT, "valueCode": content}]},
        },
    }
    with hospital.client() as client:
        made = client.post("/fhir/Subscription", json=subscription)
        assert made.status_code == 201, made.text
        path = f"/fhir/Subscription/{made.json()['id']}"
        deadline = time.monotonic() + 20
        while client.get(path).json()["status"] != "active":
            assert time.monotonic() < deadline, "the subscription does not become active"
            time.sleep(0.1)
