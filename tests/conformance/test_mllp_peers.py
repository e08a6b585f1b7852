"""HL7 over MLLP with peers that are not ours: they send us orders, and take our alerts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from tests.hl7_servers import SERVERS, hearing

from conformance import supply
from wetread.domain.codes import SCT, Coded
from wetread.domain.finding import Finding, Measurement, ModelIdentity, Reading
from wetread.domain.identity import PatientIdentity
from wetread.domain.phase import Phase
from wetread.errors import PeerUnavailable
from wetread.inbound.mllp import MllpListener, Received
from wetread.mapping.maps import load
from wetread.mapping.site import Site
from wetread.outbound.mllp import MllpConnection, RefusedByPeer, send
from wetread.reading.intake import Intake, accepted
from wetread.results.context import ReadingContext
from wetread.results.oru import alert
from wetread.store.database import Database
from wetread.wire import hl7

pytestmark = pytest.mark.conformance

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "data" / "hl7v2"
TAKEN = [
    ROOT / "demo/orders/chest-film.hl7",
    ROOT / "demo/orders/head-ct.hl7",
    SAMPLES / "orm-o01-ris-new.hl7",
    SAMPLES / "omi-o23-basic.hl7",
    SAMPLES / "adt-a04-ris.hl7",
    SAMPLES / "orm-o01-epic-23.hl7",
    SAMPLES / "edge-utf8-names.hl7",
]
REFUSED = SAMPLES / "oru-r01-24.hl7"
CLIENTS = ("node-hl7-client", "@medplum/hl7", "simple-hl7")


@pytest.fixture(scope="module")
def peers() -> Path:
    return supply.npm_peers()


def lines(message: hl7.Message) -> list[str]:
    return [segment.text for segment in message.segments]


# Orders, from their clients.


@pytest.fixture
async def port(database: Database) -> AsyncIterator[int]:
    """Where Wetread takes orders, and stores them before it answers."""
    maps = load(ROOT / "mappings", None)
    site = Site(b"a site key of 32 bytes, for tests", maps.authorities, "urn:oid:1.2.3.4", ZoneInfo("Europe/Paris"))
    intake = Intake(database, site, accepted("DPT"), default_charset=None, oversize_quota_bytes=0)

    async def handle(received: Received) -> bytes | None:
        assert received.raw is not None
        at = datetime.now(UTC)
        return await intake.receive(received.raw, peer=received.peer, listener=received.listener, at=at)

    listener = MllpListener("127.0.0.1", 0, handle, limit_bytes=1_000_000, idle_timeout_s=60, max_connections=4)
    await listener.start()
    yield listener.port
    await listener.close(grace_s=1)


async def sent(peers: Path, client: str, port: int, *files: Path) -> list[dict[str, str]]:
    """What the client made of each answer."""
    process = await asyncio.create_subprocess_exec(
        supply.program("node", "nodejs"), "send.js", client, "127.0.0.1", str(port), *map(str, files),
        cwd=peers, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        said, complaints = await process.communicate()
    assert process.returncode == 0, (said + complaints).decode()[-2000:]
    return [json.loads(line) for line in said.splitlines()]


async def stored(database: Database) -> dict[str, tuple[str, bytes]]:
    """Verdict and bytes of every stored message by control id."""
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT control_id, verdict, raw FROM hl7_message")
        return {row[0]: (row[1], bytes(row[2])) async for row in rows}


@pytest.mark.parametrize("client", CLIENTS)
async def test_orders_of_a_foreign_client_are_acknowledged_and_stored(
    client: str, peers: Path, port: int, database: Database
) -> None:
    answers = await sent(peers, client, port, *TAKEN)
    messages = [hl7.parse(file.read_bytes()) for file in TAKEN]
    assert [(a["code"], a["of"]) for a in answers] == [("AA", m.control_id) for m in messages]
    kept = await stored(database)
    for file, message in zip(TAKEN, messages, strict=True):
        verdict, raw = kept[message.control_id]
        assert verdict == "AA"
        assert lines(hl7.parse(raw)) == lines(message), file.name


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_foreign_client_reads_our_refusal(client: str, peers: Path, port: int, database: Database) -> None:
    [answer] = await sent(peers, client, port, REFUSED)
    message = hl7.parse(REFUSED.read_bytes())
    assert (answer["code"], answer["of"]) == ("AR", message.control_id)
    assert "ERR|" in answer["ack"]
    assert (await stored(database))[message.control_id][0] == "AR"


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_resend_gets_the_same_answer_and_is_stored_once(
    client: str, peers: Path, port: int, database: Database
) -> None:
    [first], [again] = [await sent(peers, client, port, TAKEN[0]) for _ in range(2)]
    assert again["ack"] == first["ack"]
    assert len(await stored(database)) == 1


# Alerts, to their servers.


def critical_alert(control_id: str) -> bytes:
    """The alert of a bleed, for the demonstration's own order."""
    order = hl7.parse((ROOT / "demo/orders/head-ct.hl7").read_bytes())
    bleed = Coded("1386000", SCT, "Intracranial hemorrhage")
    volume = Measurement("volume", Coded("118565006", SCT, "Volume"), Decimal("12.40"), "mL", "mL")
    reading = Reading(
        run_id="run-1",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.4",
        revision=1,
        model=ModelIdentity("headct-bleed", "1.0.0", "d" * 64, "c" * 64, "Müller & Søn", synthetic=True),
        phase=Phase.ACTIVE,
        findings=(Finding("bleed", bleed, present=True, critical=True, measurements=(volume,)),),
        source_instances=("1.2.3.4.5",),
        read_at=datetime(2026, 3, 1, 23, 30, tzinfo=UTC),
        runtime="onnxruntime",
        duration_ms=812,
    )
    context = ReadingContext(
        base_url="https://wetread.example/fhir",
        patient_id="patient-1",
        imaging_study_id="study-1",
        service_request_id="order-1",
        encounter_id=None,
        device_id="device-1",
        task_id="task-1",
        study_instance_uid="1.2.3",
        accession=None,
        started=None,
        modality="CT",
        body_site=None,
        procedure=None,
        organization="Example Hospital",
        demo=True,
        previous_sr_uid=None,
    )
    return alert(
        reading, context, order, PatientIdentity(()), sending=("WETREAD", "AI"), receiving=("EHR", "HOSP"),
        processing_id="T", control_id=control_id, link="https://wetread.example/worklist?a=1&b=2",
    )  # fmt: skip


@pytest.mark.parametrize("server", SERVERS)
async def test_an_alert_is_read_by_a_foreign_server_as_it_was_meant(server: str, peers: Path) -> None:
    message = critical_alert("ALERT-1")
    async with hearing(peers, server) as heard:
        ack = await send("127.0.0.1", heard.port, message, timeout_s=20)
        assert (ack.code, ack.control_id) == ("AA", "ALERT-1")
        read = await heard.next()
    assert (read["type"][:7], read["control_id"]) == ("ORU^R01", "ALERT-1")
    assert lines(hl7.parse(read["text"].encode())) == lines(hl7.parse(message))


@pytest.mark.parametrize("server", ["@medplum/hl7", "simple-hl7"])
async def test_alerts_follow_each_other_on_one_connection(server: str, peers: Path) -> None:
    numbers = [f"ALERT-{n}" for n in range(10)]
    async with hearing(peers, server) as heard, kept_open(heard.port) as connection:
        for number in numbers:
            assert (await connection.exchange(critical_alert(number), timeout_s=20)).control_id == number
        assert [(await heard.next())["control_id"] for _ in numbers] == numbers


async def test_an_answer_given_twice_is_not_taken_for_the_next_alerts(peers: Path) -> None:
    """On a connection kept open, node-hl7-server 2.5.0 reads and answers the first message again with each other."""
    async with hearing(peers, "node-hl7-server") as heard, kept_open(heard.port) as connection:
        await connection.exchange(critical_alert("ALERT-1"), timeout_s=20)
        with pytest.raises(PeerUnavailable):
            await connection.exchange(critical_alert("ALERT-2"), timeout_s=20)
        assert (await connection.exchange(critical_alert("ALERT-2"), timeout_s=20)).control_id == "ALERT-2"


@asynccontextmanager
async def kept_open(port: int) -> AsyncIterator[MllpConnection]:
    connection = MllpConnection("127.0.0.1", port)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("code", ["AE", "AR"])
@pytest.mark.parametrize("server", SERVERS)
async def test_a_foreign_server_that_refuses_is_understood(server: str, code: str, peers: Path) -> None:
    async with hearing(peers, server, code) as heard:
        with pytest.raises(RefusedByPeer) as refused:
            await send("127.0.0.1", heard.port, critical_alert("ALERT-1"), timeout_s=20)
    assert (refused.value.ack.code, refused.value.ack.control_id) == (code, "ALERT-1")
