"""Ways out that an operator sets up - a mail relay, a broker, a key and a certificate for an endpoint - from a client's
request to what the receiver has, with real receivers."""

from __future__ import annotations

import asyncio
import base64
import email
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import nats
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, StreamConfig

from tests.certificates import Authority, Pair
from tests.flow.conftest import Hospital, Server, until
from tests.ports import free_port
from tests.subscriber import Subscriber, subscriber
from wetread.demo import peers
from wetread.outbound.endpoints import signature
from wetread.wire.tls import ServerTls, server_context

from .client import Client, Resource, extension

KEY = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
NATS = {"system": "https://wetread.org/fhir/CodeSystem/wetread", "code": "nats"}
SECRET_WORDS = "MRN 4711 Ana Müller, bleeding"


@dataclass
class Relay:
    """A mail server. `answer` is what it says to each recipient."""

    port: int
    answer: str = "250 OK"
    taken: list[tuple[EmailMessage, bytes]] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        letter = email.message_from_bytes(envelope.content, policy=default)
        self.taken.append((letter, envelope.content))
        return "250 OK"

    def to(self, recipient: str) -> list[EmailMessage]:
        return [letter for letter, _ in list(self.taken) if letter["To"] == recipient]


@dataclass
class Site:
    """A server with all of these set up, and who receives from it."""

    hospital: Hospital
    relay: Relay
    endpoint: Subscriber
    authority: Authority
    ours: Pair
    broker_url: str


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    port = free_port()
    program = shutil.which("nats-server") or "/usr/sbin/nats-server"
    command = [program, "-js", "-sd", str(folder), "-a", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("ways")
    authority = Authority(folder)
    theirs, ours = authority.issue("ehr"), authority.issue("wetread")
    asking = server_context(ServerTls(theirs.certificate, theirs.key, client_ca=authority.certificate))
    relay = Relay(free_port())
    mail = Controller(relay, "127.0.0.1", relay.port)
    mail.start()
    try:
        with broker(folder / "stream") as broker_url, subscriber(tls=asking) as endpoint:
            port = free_port()
            config = folder / "wetread.toml"
            config.write_text(
                f"""
profile = "demo"
[http]
port = {port}
[outbound.mail]
host = "127.0.0.1"
port = {relay.port}
sender = "wetread@hospital.example"
recipients = ["example.org"]
security = "none"
[outbound.nats]
servers = ["{broker_url}"]
subjects = ["wetread.>"]
[[outbound.endpoints]]
url = "{endpoint.endpoint("")}"
hmac_secret = "whsec_{base64.b64encode(KEY).decode()}"
[outbound.endpoints.tls]
authority = "{authority.certificate}"
certificate = "{ours.certificate}"
key = "{ours.key}"
[subscriptions]
refused_for_minutes = 0.02
"""
            )
            server = Server(config, folder / "data", {"http": port}, arguments=("--roles", "http,notify"))
            server.start()
            try:
                server.wait_ready()
                yield Site(Hospital(server, peers.Heard(), 9), relay, endpoint, authority, ours, broker_url)
            finally:
                server.stop()
    finally:
        mail.stop()


@pytest.fixture
def ehr(site: Site) -> Iterator[Client]:
    with site.hospital.client() as http:
        yield Client(http, site.endpoint)


def by_mail(ehr: Client, content: str, recipient: str) -> str:
    """The id of a subscription that is active."""
    form = ehr.form("mail", content=content, payload="text/plain")
    form["channel"] |= {"type": "email", "endpoint": f"mailto:{recipient}"}
    made = ehr.post(form)
    assert made.status_code == 201, made.text
    ehr.until_status(made.json()["id"], "active")
    return str(made.json()["id"])


def write_about_somebody(ehr: Client, task_id: str) -> None:
    task = {"resourceType": "Task", "id": task_id, "status": "requested", "intent": "order", "code": ehr.concept()}
    ehr.update(task | {"description": SECRET_WORDS, "for": {"display": SECRET_WORDS}})


@pytest.mark.parametrize("content", ["empty", "id-only"])
def test_mail_says_that_something_is_there_and_nothing_of_whom(site: Site, ehr: Client, content: str) -> None:
    recipient = f"{content}-{ehr.code[:8]}@example.org"
    subscription_id = by_mail(ehr, content, recipient)
    for n in range(2):
        write_about_somebody(ehr, f"m{ehr.code[:20]}-{n}")
    until("a handshake and two letters", lambda: len(site.relay.to(recipient)) >= 3)
    handshake, *letters = site.relay.to(recipient)
    assert "subscription" in handshake["Subject"]
    assert [letter["Message-ID"] for letter in letters] == [f"<{subscription_id}-{n}@hospital.example>" for n in (1, 2)]
    for n, letter in enumerate(letters):
        text = letter.get_content()
        assert f"Event {n + 1}, " in text
        assert (f"/fhir/Task/m{ehr.code[:20]}-{n}" in text) == (content == "id-only")
    sent = b"".join(raw for letter, raw in site.relay.taken if letter["To"] == recipient).decode().lower()
    assert not [
        word for word in ("4711", "müller", "bleeding", ehr.code) if word in sent.replace(f"m{ehr.code[:20]}", "")
    ]


def test_a_relay_that_refuses_ends_in_error_and_what_waited_comes_when_asked_again(site: Site, ehr: Client) -> None:
    recipient = f"refused-{ehr.code[:8]}@example.org"
    subscription_id = by_mail(ehr, "id-only", recipient)
    site.relay.answer = f"550 <{recipient}> is nobody here"
    try:
        ehr.write(2)
        ended = ehr.until_status(subscription_id, "error")
    finally:
        site.relay.answer = "250 OK"
    assert ended["error"] == "the mail relay answered 550"
    asked = ehr.http.put(f"/fhir/Subscription/{subscription_id}", json={**ended, "status": "requested"})
    assert asked.status_code == 200, asked.text
    until("a second handshake and two letters", lambda: len(site.relay.to(recipient)) >= 4)
    told = [line for letter in site.relay.to(recipient) for line in letter.get_content().splitlines()]
    assert [line[:8] for line in told if line.startswith("Event ")] == ["Event 1,", "Event 2,"]


def test_mail_goes_nowhere_that_the_operator_has_not_listed(site: Site, ehr: Client) -> None:
    form = ehr.form("mail", payload="text/plain")
    form["channel"] |= {"type": "email", "endpoint": "mailto:somebody@elsewhere.example"}
    made = ehr.post(form)
    assert made.status_code == 201, made.text
    ended = ehr.until_status(made.json()["id"], "error")
    assert "its operator can add it" in ended["error"]
    assert site.relay.to("somebody@elsewhere.example") == []


async def _with_stream(url: str, subject: str) -> None:
    client = await nats.connect(url)
    await client.jetstream().add_stream(StreamConfig(name=subject.replace(".", "-"), subjects=[subject]))
    await client.close()


async def _stored(url: str, subject: str) -> list[RawStreamMsg]:
    client = await nats.connect(url)
    jetstream: JetStreamContext = client.jetstream()
    name = subject.replace(".", "-")
    state = (await jetstream.stream_info(name)).state
    stored = [await jetstream.get_msg(name, n) for n in range(1, state.last_seq + 1)]
    await client.close()
    return stored


def test_a_stream_has_each_event_once_and_in_order_though_the_server_is_killed(site: Site, ehr: Client) -> None:
    subject = f"wetread.{ehr.code[:8]}"
    asyncio.run(_with_stream(site.broker_url, subject))
    form: Resource = ehr.form("stream", content="full-resource")
    form["channel"] |= {"_type": {"extension": [extension("channel-type", valueCoding=NATS)]}, "type": "message"}
    form["channel"]["endpoint"] = f"nats:{subject}"
    made = ehr.post(form)
    assert made.status_code == 201, made.text
    subscription_id = made.json()["id"]
    ehr.until_status(subscription_id, "active")
    ehr.write(30)
    site.hospital.server.kill()
    before = len(asyncio.run(_stored(site.broker_url, subject)))
    site.hospital.server.start()
    site.hospital.server.wait_ready()
    ehr.write(5)
    stored = until(
        "all events", lambda: (kept := asyncio.run(_stored(site.broker_url, subject)))[35:] and kept, timeout_s=60
    )
    assert before < 36, "it was killed after all had gone out"
    handshake, *events = [message.headers or {} for message in stored]
    assert handshake["Wetread-Notification"] == "handshake"
    assert [headers["Nats-Msg-Id"] for headers in events] == [f"{subscription_id}-{n}" for n in range(1, 36)]


def test_an_endpoint_sees_our_certificate_the_new_one_once_it_is_there_and_a_signature(site: Site, ehr: Client) -> None:
    name = f"signed-{ehr.code[:8]}"
    subscription_id = ehr.subscribed(name)
    ehr.write()
    site.endpoint.wait_for(name, [1])
    site.authority.issue("wetread", into=site.ours)
    ehr.write()
    site.endpoint.wait_for(name, [1, 2])
    first, second = site.endpoint.taken(name)
    assert "" != first.certificate != second.certificate != ""
    for told in (first, second):
        at = datetime.fromtimestamp(int(told.headers["webhook-timestamp"]), UTC)
        key = f"{subscription_id}-{told.numbers[0]}"
        assert dict(signature(KEY, key, at, told.body)).items() <= told.headers.items()


def test_no_key_no_address_and_nothing_of_a_patient_stands_in_the_log(site: Site, ehr: Client) -> None:
    recipient = f"log-{ehr.code[:8]}@example.org"
    by_mail(ehr, "id-only", recipient)
    ehr.subscribed(f"secret-{ehr.code[:8]}", headers=("Authorization: Bearer hush-hush",))
    write_about_somebody(ehr, f"m{ehr.code[:20]}")
    until("mail", lambda: len(site.relay.to(recipient)) >= 2)
    log = (site.hospital.server.config.parent / "server.log").read_text()
    assert "HTTP listens" in log
    hidden = ["hush-hush", "@example.org", f"secret-{ehr.code[:8]}", "4711", base64.b64encode(KEY).decode()]
    assert [word for word in hidden if word in log] == []
