"""Subscriptions that leave by other ways than the rest-hook, from a client's request to what the receiver has."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import hl7
import pytest

from tests.flow.conftest import until
from tests.subscriber import Subscriber

from .client import Client, Resource, extension

MLLP = {"system": "https://wetread.org/fhir/CodeSystem/wetread", "code": "mllp"}
NATS = {**MLLP, "code": "nats"}


@dataclass
class Engine:
    """An integration engine. `answer` gives MSA-1 for each message; what it gave AA is `taken`."""

    port: int = 0
    answer: Callable[[hl7.Message], str] = lambda message: "AA"
    heard: list[hl7.Message] = field(default_factory=list)
    taken: list[hl7.Message] = field(default_factory=list)

    def control_ids(self) -> list[str]:
        return [str(message["MSH.F10"]) for message in self.taken]


@contextmanager
def running() -> Iterator[Engine]:
    engine = Engine()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            block = b""
            while data := self.connection.recv(65536):
                block += data
                while b"\x1c\r" in block:
                    framed, block = block.split(b"\x1c\r", 1)
                    self.connection.sendall(b"\x0b" + self._answer(framed.lstrip(b"\x0b").decode()) + b"\x1c\r")

        def _answer(self, text: str) -> bytes:
            message = hl7.parse(text)
            engine.heard.append(message)
            code = engine.answer(message)
            if code == "AA":
                engine.taken.append(message)
            return str(message.create_ack(code)).encode()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        engine.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield engine
        server.shutdown()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running() as engine:
        yield engine


def by_mllp(ehr: Client, engine: Engine, **more: Any) -> Resource:
    """By criteria on our own code, so that no other test's Observation comes."""
    channel = {
        "type": "message",
        "_type": {"extension": [extension("channel-type", valueCoding=MLLP)]},
        "endpoint": f"mllp://127.0.0.1:{engine.port}",
        "header": ["MSH-5: EHR", "MSH-6: HOSP"],
        "payload": "x-application/hl7-v2+er7",
    }
    criteria = f"Observation?code=urn:test|{ehr.code}"
    form = {"resourceType": "Subscription", "status": "requested", "reason": "engine", "criteria": criteria}
    return {**form, "channel": channel, **more}


def findings(ehr: Client, count: int) -> None:
    """A patient with so many results."""
    key = ehr.code[:20]
    number = {"system": "urn:oid:1.2.3.4.5", "value": f"MRN-{key}"}
    name = [{"family": "Müller|Søn", "given": ["Ana"]}]
    ehr.update({"resourceType": "Patient", "id": f"p{key}", "identifier": [number], "name": name})
    for n in range(count):
        ehr.update(
            {
                "resourceType": "Observation",
                "id": f"o{key}-{n}",
                "status": "final",
                "code": ehr.concept(),
                "subject": {"reference": f"Patient/p{key}"},
                "valueQuantity": {"value": n, "unit": "mm", "system": "http://unitsofmeasure.org", "code": "mm"},
            }
        )


def test_an_engine_has_each_event_as_a_message_in_order(ehr: Client, engine: Engine) -> None:
    made = ehr.post(by_mllp(ehr, engine))
    assert made.status_code == 201, made.text
    ehr.until_status(made.json()["id"], "active")
    findings(ehr, 5)
    until("five messages", lambda: len(engine.taken) >= 5)
    assert [str(message["OBX.F5"]) for message in engine.taken] == list("01234")
    assert [number.rpartition("-")[2] for number in engine.control_ids()] == list("12345")
    first = engine.taken[0]
    assert [str(first.segment("MSH")[n]) for n in (5, 6, 9)] == ["EHR", "HOSP", "ORU^R01^ORU_R01"]
    assert str(first.segment("PID")[3]).startswith(f"MRN-{ehr.code[:20]}^^^&1.2.3.4.5&ISO")
    assert first.unescape(str(first["PID.F5.R1.C1"])) == "Müller|Søn"


def test_an_engine_that_refuses_and_is_mended_gets_all_and_the_same_again(ehr: Client, engine: Engine) -> None:
    refused: list[str] = []

    def answer(message: hl7.Message) -> str:
        refused.append(str(message))
        return "AE" if len(refused) <= 2 else "AA"

    engine.answer = answer
    made = ehr.post(by_mllp(ehr, engine))
    ehr.until_status(made.json()["id"], "active")
    findings(ehr, 3)
    until("three messages", lambda: len(engine.taken) >= 3)
    assert refused[0] == refused[1] == refused[2], "the same bytes"
    assert [str(message["OBX.F5"]) for message in engine.taken] == list("012")
    assert ehr.read(made.json()["id"])["status"] == "active"


def test_what_no_message_is_made_of_is_refused(ehr: Client, engine: Engine) -> None:
    told = ehr.post(by_mllp(ehr, engine, criteria="Task?status=completed"))
    assert told.status_code == 422
    [issue] = told.json()["issue"]
    assert issue["expression"] == ["Subscription.channel.type"]
    assert "DiagnosticReport, ImagingStudy, Observation, Patient, ServiceRequest" in issue["diagnostics"]


def test_ways_that_the_operator_has_not_set_up_are_refused(ehr: Client) -> None:
    mail = ehr.form("mail", payload="text/plain")
    mail["channel"] |= {"type": "email", "endpoint": "mailto:ward@example.org"}
    stream = ehr.form("stream")
    stream["channel"]["_type"] = {"extension": [extension("channel-type", valueCoding=NATS)]}
    stream["channel"]["endpoint"] = "nats:wetread.tasks"
    for form, kind in ((mail, "email"), (stream, "nats")):
        told = ehr.post(form)
        assert told.status_code == 422, told.text
        assert f"not set up for the channel {kind}" in told.json()["issue"][0]["diagnostics"]


def test_a_fhir_message_holds_the_notification(ehr: Client, endpoint: Subscriber) -> None:
    form = ehr.form("other-server", content="full-resource")
    form["channel"]["type"] = "message"
    made = ehr.post(form)
    assert made.status_code == 201, made.text
    ehr.until_status(made.json()["id"], "active")
    [task_id] = ehr.write()
    inbox = endpoint.posted["other-server/$process-message"]
    until("handshake and event", lambda: len(inbox) >= 2)
    header, told = (entry["resource"] for entry in inbox[1].bundle["entry"])
    assert (inbox[1].bundle["type"], header["resourceType"], told["type"]) == ("message", "MessageHeader", "history")
    assert told["entry"][1]["resource"]["id"] == task_id
