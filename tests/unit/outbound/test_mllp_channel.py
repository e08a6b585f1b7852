"""Events as HL7v2 messages to an engine: what it gets, what its answer means, and what it never gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server
from tests.certificates import Authority

from wetread.access.owners import reader_now
from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.reader import Reader, Scope
from wetread.errors import PeerUnavailable, Refused, Unsupported
from wetread.mapping import maps
from wetread.mapping.messages import datatypes
from wetread.mapping.messages.load import load
from wetread.outbound.endpoints import Endpoint, Endpoints
from wetread.outbound.mllp import RefusedByPeer
from wetread.outbound.mllp_channel import Messages, MllpChannel, control_id
from wetread.record import lossless, resources
from wetread.record.subscriptions import rows, topics
from wetread.record.subscriptions.channel import HL7V2, Channel
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.notifications import NotifiedEvent, StatusOf
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.store.database import Database
from wetread.wire import hl7
from wetread.wire.tls import ClientTls, ServerTls, client_contexts, server_context

ROOT = Path(__file__).parents[3]
BASE = "https://wetread.example/fhir"
ALLOWED = AllowedEndpoints.parse(("127.0.0.0/8", "engine.example"))
SHIPPED = maps.load(ROOT / "mappings", None)
FORMS = load(ROOT / "mappings", None)
NAMES = datatypes.names({}, SHIPPED.codes["coding-system"].codes)
MESSAGES = Messages(FORMS, NAMES, ("WETREAD", "AI"), "P", BASE)
TOPICS = topics.load(ROOT / "conformance" / "topics")
ALL = Reader("operator:tests", (Scope.parse("system/*.rs"), Scope.parse("system/Subscription.cud")))
AT = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
B = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
Resource = dict[str, Any]


@dataclass
class Engine:
    """An integration engine on python-hl7, which is not ours. `answer` makes MSA-1 and what follows it."""

    port: int = 0
    answer: Callable[[str], str] = lambda control: f"AA|{control}"
    got: list[str] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = await reader.readmessage()
                self.got.append(str(message))
                said = self.answer(str(message["MSH.F10"]))
                if not said:
                    break
                block = f"MSH|^~\\&|ENGINE|HOSP|WETREAD|AI|20261122||ACK|1|P|2.5.1\rMSA|{said}\r"
                writer.writeblock(block.encode())
                await writer.drain()
        writer.close()

    @property
    def url(self) -> str:
        return f"mllp://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def running(engine: Engine, **how: Any) -> AsyncIterator[Engine]:
    server = await start_hl7_server(engine.serve, host="127.0.0.1", port=0, encoding="utf-8", **how)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with running(Engine()) as engine:
        yield engine


@pytest.fixture(scope="module")
def examples() -> dict[str, Resource]:
    found = [lossless.parse(file.read_text()) for file in (ROOT / "conformance" / "examples").glob("*.json")]
    return {f"{one['resourceType']}/{one['id']}": one for one in found}


@pytest.fixture
async def stored(database: Database, examples: dict[str, Resource]) -> Database:
    async with database.transaction() as conn:
        for resource in examples.values():
            await resources.put(conn, resource)
    return database


def _subscription(url: str, topic: str = "ai-observation") -> Resource:
    coding = {"system": "https://wetread.org/fhir/CodeSystem/wetread", "code": "mllp"}
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "engine",
        "criteria": f"https://wetread.org/fhir/SubscriptionTopic/{topic}",
        "channel": {
            "_type": {"extension": [{"url": f"{B}channel-type", "valueCoding": coding}]},
            "endpoint": url,
            "payload": HL7V2,
            "_payload": {"extension": [{"url": f"{B}payload-content", "valueCode": "full-resource"}]},
            "header": ["MSH-5: EHR", "MSH-6: HOSP"],
        },
    }


async def _subscribed(database: Database, url: str, reader: Reader = ALL) -> tuple[str, Channel]:
    subscriptions = Subscriptions(TOPICS, ALLOWED, BASE, carried={"mllp": frozenset(FORMS)})
    async with database.transaction() as conn:
        version, _ = await resources.create(conn, _subscription(url), reader=reader)
        await subscriptions.accept(conn, reader, version.resource())
        state = await rows.state_of(conn, version.id)
    assert state is not None
    return version.id, state.out()


def _delivery(subscription_id: str, channel: Channel, resource: Resource | None = None, number: int = 7) -> Delivery:
    kind = "handshake" if resource is None else "event-notification"
    status = StatusOf(subscription_id, "topic", channel.content, "active", number)
    delivery = Delivery(subscription_id, kind, channel, status, AT, "ehr")
    if resource is None:
        return delivery
    body = lossless.dump(resource)
    return replace(
        delivery,
        events=(NotifiedEvent(number, AT, resource["resourceType"], resource["id"], "create", body=body),),
    )


def _observation(examples: Mapping[str, Resource]) -> Resource:
    return next(r for r in examples.values() if r["resourceType"] == "Observation" and "Pneumonia" in str(r["code"]))


@contextlib.asynccontextmanager
async def sending(database: Database, **how: Any) -> AsyncIterator[MllpChannel]:
    tls = how.pop("tls", client_contexts(ClientTls()))
    channel = MllpChannel(database, reader_now, MESSAGES, ALLOWED, tls, how.pop("endpoints", Endpoints()), **how)
    try:
        yield channel
    finally:
        await channel.close()


async def test_an_event_is_one_message_with_all_that_it_refers_to(
    stored: Database, engine: Engine, examples: dict[str, Resource]
) -> None:
    subscription_id, channel = await _subscribed(stored, engine.url)
    async with sending(stored) as sender:
        await sender.send(_delivery(subscription_id, channel, _observation(examples)))
    [text] = engine.got
    message = hl7.parse(text.encode())
    assert [message.header.raw(n) for n in (3, 4, 5, 6, 7, 9)] == [
        "WETREAD", "AI", "EHR", "HOSP", "20261122053000+0000", "ORU^R01^ORU_R01",
    ]  # fmt: skip
    pid, orc, obx = (message.first(name) for name in ("PID", "ORC", "OBX"))
    assert pid is not None
    assert pid.raw(3) == "DEMO-1001^^^DEMO-HOSPITAL"
    assert orc is not None
    assert orc.raw(2) == "DEMO-P1001^DEMO-EHR"
    assert obx is not None
    assert obx.value(3) == "233604007"


async def test_the_same_event_is_sent_again_with_the_same_bytes(
    stored: Database, engine: Engine, examples: dict[str, Resource]
) -> None:
    subscription_id, channel = await _subscribed(stored, engine.url)
    delivery = _delivery(subscription_id, channel, _observation(examples))
    async with sending(stored) as one, sending(stored) as another:
        for sender in (one, another):
            await sender.send(delivery)
        await one.send(_delivery(subscription_id, channel, _observation(examples), number=8))
    first, again, other = engine.got
    assert first == again
    assert f"|{control_id(subscription_id, 7)}|P|" in first
    assert f"|{control_id(subscription_id, 8)}|P|" in other
    assert len(control_id(subscription_id, 10**11 - 1)) == 20


async def test_a_handshake_opens_the_connection_and_says_nothing(stored: Database, engine: Engine) -> None:
    subscription_id, channel = await _subscribed(stored, engine.url)
    async with sending(stored) as sender:
        await sender.send(_delivery(subscription_id, channel))
        await asyncio.sleep(0.05)
        assert (engine.connections, engine.got) == (1, [])


async def test_one_connection_serves_all_messages_to_an_engine(
    stored: Database, engine: Engine, examples: dict[str, Resource]
) -> None:
    async with sending(stored) as sender:
        for _ in range(2):
            subscription_id, channel = await _subscribed(stored, engine.url)
            await sender.send(_delivery(subscription_id, channel))
            for number in (1, 2, 3):
                await sender.send(_delivery(subscription_id, channel, _observation(examples), number))
    assert (engine.connections, len(engine.got)) == (1, 6)


@pytest.mark.parametrize("code", ["AE", "AR", "CE", "CR"])
async def test_a_refusal_tells_code_and_place_and_no_more(
    code: str, stored: Database, engine: Engine, examples: dict[str, Resource]
) -> None:
    engine.answer = lambda control: f"{code}|{control}|ALVAREZ is unknown\rERR||PID^1^3|204|E|||ALVAREZ"
    subscription_id, channel = await _subscribed(stored, engine.url)
    async with sending(stored) as sender:
        with pytest.raises(RefusedByPeer, match=rf"answered {code} with error 204 at PID\^1\^3") as refused:
            await sender.send(_delivery(subscription_id, channel, _observation(examples)))
    assert "ALVAREZ" not in str(refused.value)


async def test_no_acknowledgement_is_worth_another_try(
    stored: Database, engine: Engine, examples: dict[str, Resource]
) -> None:
    engine.answer = lambda control: ""
    subscription_id, channel = await _subscribed(stored, engine.url)
    async with sending(stored) as sender:
        with pytest.raises(PeerUnavailable):
            await sender.send(_delivery(subscription_id, channel, _observation(examples)))
        engine.answer = lambda control: f"CA|{control}"
        await sender.send(_delivery(subscription_id, channel, _observation(examples)))


async def test_what_the_owner_may_not_read_does_not_go_along(
    stored: Database, engine: Engine, examples: dict[str, Resource]
) -> None:
    only = Reader("operator:tests", (Scope.parse("system/Observation.rs"), Scope.parse("system/Subscription.cud")))
    subscription_id, channel = await _subscribed(stored, engine.url, only)
    observation = _observation(examples)
    async with sending(stored) as sender:
        await sender.send(_delivery(subscription_id, channel, observation))
    message = hl7.parse(engine.got[0].encode())
    pid = message.first("PID")
    assert pid is not None
    assert pid.text == f"PID|1||{observation['subject']['reference']}"
    assert "DEMO-P1001" not in engine.got[0]


async def test_an_event_of_another_type_is_refused(stored: Database, engine: Engine) -> None:
    subscription_id, channel = await _subscribed(stored, engine.url)
    task = {"resourceType": "Task", "id": "t", "status": "requested", "intent": "order"}
    async with sending(stored) as sender:
        with pytest.raises(Refused, match="no HL7v2 message is made of Task"):
            await sender.send(_delivery(subscription_id, channel, task))
    assert engine.got == []


async def test_a_topic_without_a_message_is_refused_when_the_subscription_is_made(database: Database) -> None:
    subscriptions = Subscriptions(TOPICS, ALLOWED, BASE, carried={"mllp": frozenset(FORMS)})
    form = {**_subscription("mllp://127.0.0.1:2575", "task-status"), "id": "s"}
    async with database.transaction() as conn:
        with pytest.raises(Unsupported, match="no mllp message is made of Task, only of DiagnosticReport") as refused:
            await subscriptions.accept(conn, ALL, form)
    assert refused.value.location == "Subscription.channel.type"


# Where it may go.


def _resolving(*addresses: str) -> Callable[[str, int], Any]:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("mllp://169.254.169.254:2575", ("169.254.169.254",)),
        ("mllp://engine.example:2575", ("169.254.169.254",)),
        ("mllp://engine.example:2575", ("127.0.0.1", "fe80::1")),
        ("mllp://other.example:2575", ("127.0.0.1",)),
        ("mllp://10.9.9.9:2575", ("10.9.9.9",)),
        ("mllp://2130706433:2575", ("127.0.0.1",)),
    ],
)
async def test_an_address_that_is_not_allowed_is_never_connected_to(
    url: str, addresses: Sequence[str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(*args: Any, **more: Any) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(asyncio, "open_connection", connect)
    channel = Channel("mllp", url, HL7V2, "full-resource", (), 5)
    async with sending(database, resolve=_resolving(*addresses)) as sender:
        with pytest.raises(Unsupported):
            await sender.send(_delivery("s", channel))


async def test_a_listed_name_is_called_at_the_address_that_was_checked(database: Database, engine: Engine) -> None:
    channel = Channel("mllp", f"mllp://engine.example:{engine.port}", HL7V2, "full-resource", (), 5)
    async with sending(database, resolve=_resolving("127.0.0.1")) as sender:
        await sender.send(_delivery("s", channel))
        await asyncio.sleep(0.05)
    assert engine.connections == 1


async def test_a_name_without_an_address_is_worth_another_try(database: Database) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise OSError

    channel = Channel("mllp", "mllp://engine.example:2575", HL7V2, "full-resource", (), 5)
    async with sending(database, resolve=resolve) as sender:
        with pytest.raises(PeerUnavailable, match="has no address"):
            await sender.send(_delivery("s", channel))


# TLS.


async def test_tls_shows_our_certificate_where_the_operator_has_set_one(database: Database, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    theirs, ours = authority.issue("engine"), authority.issue("wetread")
    context = server_context(ServerTls(theirs.certificate, theirs.key, client_ca=authority.certificate))
    async with running(Engine(), ssl=context) as engine:
        url = f"mllps://127.0.0.1:{engine.port}"
        channel = Channel("mllp", url, HL7V2, "full-resource", (), 5)
        set_for_it = Endpoint(url, tls=client_contexts(ClientTls(authority.certificate, ours.certificate, ours.key)))
        async with sending(database, endpoints=Endpoints([set_for_it])) as sender:
            await sender.send(_delivery("s", channel))
            await asyncio.sleep(0.05)
        assert engine.connections == 1


@pytest.mark.parametrize("days", [1, -1])
async def test_a_certificate_of_nobody_we_know_or_that_is_over_is_worth_another_try(
    days: int, database: Database, tmp_path: Path
) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    theirs = authority.issue("engine", days=days)
    known = other.certificate if days > 0 else authority.certificate
    async with running(Engine(), ssl=server_context(ServerTls(theirs.certificate, theirs.key))) as engine:
        channel = Channel("mllp", f"mllps://127.0.0.1:{engine.port}", HL7V2, "full-resource", (), 5)
        async with sending(database, tls=client_contexts(ClientTls(known))) as sender:
            with pytest.raises(PeerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await sender.send(_delivery("s", channel))
        assert engine.connections == 0


def test_the_channel_of_a_subscription_is_what_the_client_asked_for() -> None:
    """The code that asks for it stands in a CodeSystem that we publish."""
    system = json.loads((ROOT / "conformance" / "codesystem-wetread.json").read_text())
    assert "mllp" in {concept["code"] for concept in system["concept"]}
