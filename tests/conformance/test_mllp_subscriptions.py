"""Subscriptions by MLLP to HL7 engines that are not ours: what they read is what we meant, once each and in order."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.hl7_servers import SERVERS, Hearing, hearing

from conformance import supply
from wetread.access.owners import reader_now
from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.reader import Reader, Scope
from wetread.mapping import maps
from wetread.mapping.messages import datatypes
from wetread.mapping.messages.load import load
from wetread.outbound.deliverer import Deliverer
from wetread.outbound.endpoints import Endpoints
from wetread.outbound.mllp_channel import Messages, MllpChannel, control_id
from wetread.outbound.notify import Matcher
from wetread.record import lossless, resources
from wetread.record.events import Sequencer
from wetread.record.subscriptions import topics
from wetread.record.subscriptions.channel import HL7V2
from wetread.record.subscriptions.claims import Patience
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.store.database import Database
from wetread.wire import hl7
from wetread.wire.tls import ClientTls, client_contexts

pytestmark = pytest.mark.conformance

ROOT = Path(__file__).parents[2]
BASE = "https://wetread.example/fhir"
ALLOWED = AllowedEndpoints.parse(("127.0.0.0/8",))
OWNER = Reader("operator:tests", (Scope.parse("system/*.rs"), Scope.parse("system/Subscription.cud")))
B = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
CODES = maps.load(ROOT / "mappings", None).codes
FORMS = load(ROOT / "mappings", None)
MESSAGES = Messages(FORMS, datatypes.names({}, CODES["coding-system"].codes), ("WETREAD", "AI"), "P", BASE)
FINDINGS = 4


@pytest.fixture(scope="module")
def peers() -> Path:
    return supply.npm_peers()


@contextlib.asynccontextmanager
async def delivering(database: Database) -> AsyncIterator[Subscriptions]:
    """Wetread's notify role, with the MLLP channel as its only way out."""
    topics_here = topics.load(ROOT / "conformance" / "topics")
    subscriptions = Subscriptions(topics_here, ALLOWED, BASE, reader_now, {"mllp": frozenset(FORMS)})
    channel = MllpChannel(database, reader_now, MESSAGES, ALLOWED, client_contexts(ClientTls()), Endpoints())
    patience = Patience(timedelta(minutes=1), timedelta(minutes=1))
    stop = asyncio.Event()
    roles = [
        Sequencer(database).run(stop),
        Matcher(database, subscriptions).run(stop),
        Deliverer(database, subscriptions, {"mllp": channel}, patience).run(stop),
    ]
    tasks = [asyncio.create_task(role) for role in roles]
    try:
        yield subscriptions
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        await channel.close()


async def subscribed(database: Database, subscriptions: Subscriptions, port: int) -> str:
    coding = {"system": "https://wetread.org/fhir/CodeSystem/wetread", "code": "mllp"}
    form: dict[str, Any] = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "result feed",
        "criteria": "https://wetread.org/fhir/SubscriptionTopic/ai-observation",
        "channel": {
            "_type": {"extension": [{"url": f"{B}channel-type", "valueCoding": coding}]},
            "endpoint": f"mllp://127.0.0.1:{port}",
            "payload": HL7V2,
            "_payload": {"extension": [{"url": f"{B}payload-content", "valueCode": "full-resource"}]},
        },
    }
    async with database.transaction() as conn:
        version, _ = await resources.create(conn, form, reader=OWNER)
        await subscriptions.accept(conn, OWNER, version.resource())
    for _ in range(400):
        if await _status(database, version.id) == "active":
            return version.id
        await asyncio.sleep(0.05)
    raise AssertionError("the handshake did not succeed")


async def _status(database: Database, subscription_id: str) -> str:
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT status FROM subscription_state WHERE id = %s", (subscription_id,))
        row = await rows.fetchone()
    assert row is not None
    return str(row[0])


async def write_findings(database: Database) -> None:
    """The demonstration's patients, orders and studies, and its Observations, each as so many of its own."""
    examples = [lossless.parse(file.read_text()) for file in (ROOT / "conformance" / "examples").glob("*.json")]
    observation = next(one for one in examples if one["resourceType"] == "Observation" and "POS" in str(one))
    async with database.transaction() as conn:
        for one in examples:
            if one["resourceType"] in ("Patient", "ServiceRequest", "ImagingStudy", "Encounter"):
                await resources.put(conn, one)
    for number in range(FINDINGS):
        async with database.transaction() as conn:
            await resources.put(conn, {**observation, "id": f"finding-{number}"})


async def heard_all(heard: Hearing, subscription_id: str) -> list[dict[str, Any]]:
    """Each message once: an engine that answers wrongly is sent the same again."""
    last = control_id(subscription_id, FINDINGS)
    found: dict[str, dict[str, Any]] = {}
    while last not in found:
        message = await heard.next()
        found.setdefault(message["control_id"], message)
    return list(found.values())


@pytest.mark.parametrize("server", SERVERS)
async def test_an_engine_reads_every_event_as_it_was_meant(server: str, peers: Path, database: Database) -> None:
    async with hearing(peers, server) as heard, delivering(database) as subscriptions:
        subscription_id = await subscribed(database, subscriptions, heard.port)
        await write_findings(database)
        found = await heard_all(heard, subscription_id)
    assert [one["control_id"] for one in found] == [control_id(subscription_id, n) for n in range(1, FINDINGS + 1)]
    for one in found:
        assert one["type"][:7] == "ORU^R01"
        message = hl7.parse(one["text"].encode())
        pid, obr, obx = (message.first(name) for name in ("PID", "OBR", "OBX"))
        assert pid is not None
        assert re.fullmatch(r"DEMO-\d+\^\^\^DEMO-HOSPITAL(\^MR)?", pid.raw(3))
        assert obr is not None
        assert obr.raw(2).endswith("^DEMO-EHR")
        assert obx is not None
        assert (obx.raw(2), obx.value(5), obx.raw(11)) == ("CWE", "52101004", "P")


async def test_an_engine_that_refuses_leaves_the_subscription_in_trouble_and_loses_nothing(
    peers: Path, database: Database
) -> None:
    async with delivering(database) as subscriptions:
        async with hearing(peers, "simple-hl7", "AE") as heard:
            port = heard.port
            subscription_id = await subscribed(database, subscriptions, port)
            await write_findings(database)
            assert (await heard.next())["control_id"] == control_id(subscription_id, 1)
        async with hearing(peers, "simple-hl7", port=port) as heard:
            found = await heard_all(heard, subscription_id)
        assert [one["control_id"] for one in found] == [control_id(subscription_id, n) for n in range(1, FINDINGS + 1)]
        assert await _status(database, subscription_id) == "active"
