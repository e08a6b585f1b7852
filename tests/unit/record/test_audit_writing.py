"""Audit rows: written with their effect, in the shape of IHE BALP, and never changed after."""

import base64
import json
from pathlib import Path

import psycopg
import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from wetread.record import events
from wetread.record.audit import audit, chain
from wetread.record.audit.audit import AuditEntry, Entity
from wetread.record.audit.kinds import KINDS
from wetread.store.database import Database, SyncDatabase

READ = AuditEntry(
    kind="read",
    action="R",
    outcome="0",
    principal="viewer",
    user="Practitioner/r1",
    network="192.0.2.7",
    patient_id="p1",
    entities=(Entity(what="ImagingStudy/s1", identifier="urn:oid:1.2.3"),),
    request_id="76d148b6",
)


async def _bodies(database: Database) -> list[dict]:
    async with database.transaction() as conn:
        rows = await (await conn.execute("SELECT body FROM audit_event ORDER BY position")).fetchall()
    return [json.loads(row[0]) for row in rows]


async def test_an_entry_commits_or_rolls_back_with_its_effect(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  (the fault has to come inside the transaction)
        async with database.transaction() as conn:
            await audit.write(conn, READ)
            raise ZeroDivisionError
    assert await _bodies(database) == []
    async with database.transaction() as conn:
        audit_id = await audit.write(conn, READ)
    assert [body["id"] for body in await _bodies(database)] == [audit_id]


async def test_a_read_has_the_agents_and_entities_of_balp_patient_read(database: Database) -> None:
    async with database.transaction() as conn:
        await audit.write(conn, READ)
    [body] = await _bodies(database)
    assert body["type"]["code"] == "rest"
    assert [coding["code"] for coding in body["subtype"]] == ["read"]
    agents = {agent["type"]["coding"][0]["code"]: agent for agent in body["agent"]}
    assert agents["110152"]["network"] == {"address": "192.0.2.7", "type": "2"}
    assert agents["110152"]["requestor"] is False
    assert agents["110153"]["who"] == body["source"]["observer"]
    assert agents["IRCP"]["who"] == {"reference": "Practitioner/r1"}
    assert agents["IRCP"]["requestor"] is True
    assert "network" not in agents["IRCP"]
    patient, data, request = body["entity"]
    assert (patient["type"]["code"], patient["role"]["code"]) == ("1", "1")
    assert patient["what"] == {"reference": "Patient/p1"}
    assert data["what"] == {"reference": "ImagingStudy/s1", "identifier": {"value": "urn:oid:1.2.3"}}
    assert request["type"]["code"] == "XrequestId"
    assert request["what"]["identifier"]["value"] == "76d148b6"


async def test_every_kind_makes_a_valid_r4_audit_event(database: Database) -> None:
    entries = [
        AuditEntry(
            kind=kind,
            action="E",
            outcome="8",
            outcome_text="the peer closed the connection",
            principal="Device/model",
            network="dicom://pacs:104",
            patient_id="p1",
            entities=(Entity(role_code="24", query=b"GET /fhir/Patient?name=\xff", description="search"),),
            detail={"model": "sha256:00", "runtime": ""},
            governance_only=True,
        )
        for kind in KINDS
    ]
    async with database.transaction() as conn:
        await audit.write_many(conn, entries)
    bodies = await _bodies(database)
    assert len(bodies) == len(KINDS)
    for body in bodies:
        AuditEvent.model_validate(body)


async def test_a_request_is_kept_byte_for_byte(database: Database) -> None:
    raw = b"GET /fhir/Patient?name=\x00\xff%27;DROP"
    entry = AuditEntry("search", "E", "0", "a", entities=(Entity(role_code="24", query=raw),))
    async with database.transaction() as conn:
        await audit.write(conn, entry)
    [body] = await _bodies(database)
    assert base64.b64decode(body["entity"][0]["query"]) == raw


async def test_what_a_peer_sent_can_always_be_recorded(database: Database) -> None:
    entry = AuditEntry(
        "message-refused", "C", "4", "EVIL\x00\ud800", outcome_text="nul \x00 \\u0000", request_id="\x00"
    )
    async with database.transaction() as conn:
        await audit.write(conn, entry)
    [body] = await _bodies(database)
    assert body["agent"][0]["who"]["identifier"]["value"] == "EVIL\ufffd\ufffd"
    assert body["outcomeDesc"] == "nul \ufffd \\u0000"


async def test_what_several_peers_sent_is_not_taken_for_each_other_s(database: Database) -> None:
    odd = ("a\x1eb", "c\nd", "\x1e", 'e"\\,{}', "")
    entries = [
        AuditEntry("read", "R", "0", text, user=text, request_id=text, outcome_text=text, entities=(Entity(text),))
        for text in odd
    ]
    async with database.transaction() as conn:
        await audit.write_many(conn, entries)
        rows = await conn.execute(
            "SELECT principal, acting_user, request_id, entities FROM audit_event ORDER BY position"
        )
        columns = await rows.fetchall()
    kept = [text.replace("\x1e", "\ufffd") for text in odd]
    assert columns == [(text, text, text, [text] if text else []) for text in kept]
    assert [body.get("outcomeDesc", "") for body in await _bodies(database)] == list(odd)


async def test_several_entries_keep_their_order(database: Database) -> None:
    entries = [AuditEntry("read", "R", "0", f"reader-{n}") for n in range(20)]
    async with database.transaction() as conn:
        ids = await audit.write_many(conn, entries)
    assert [body["id"] for body in await _bodies(database)] == ids


async def test_several_entries_are_written_as_each_alone_is_in_one_statement(database: Database) -> None:
    names = (Entity(what='Patient/"p,1"'), Entity(identifier="{x}\\"), Entity(identifier="NULL"))
    entries = [
        AuditEntry("read", "R", "0", "me", user="you", patient_id="p1", entities=names, request_id="r"),
        AuditEntry("read", "R", "12", "", governance_only=True),
    ]
    columns = "kind, action, outcome, principal, acting_user, patient_id, request_id, governance_only, entities"
    async with database.transaction() as conn:
        for entry in entries:
            await audit.write(conn, entry)
        async with conn.pipeline():
            await audit.write_many(conn, entries)
        rows = await (await conn.execute(f"SELECT {columns} FROM audit_event ORDER BY position")).fetchall()
        waiting = await (await conn.execute("SELECT count(*) FROM audit_unchained")).fetchone()
        assert await audit.write_many(conn, []) == []
    assert rows[2:] == rows[:2]
    assert waiting == (4,)


def test_a_thread_writes_the_same(sync_database: SyncDatabase) -> None:
    with sync_database.transaction() as conn:
        audit_id = audit.write_sync(conn, READ)
        row = conn.execute("SELECT body->>'id' FROM (SELECT body::jsonb FROM audit_event) b").fetchone()
    assert row == (audit_id,)


async def test_no_row_is_ever_changed_or_taken_away(database: Database) -> None:
    statements = (
        "UPDATE audit_event SET body = body || ' '",
        "DELETE FROM audit_event",
        "TRUNCATE audit_event",
        "UPDATE audit_chain SET hash = ''",
        "DELETE FROM audit_chain",
        "TRUNCATE audit_chain",
    )
    async with database.transaction() as conn:
        await audit.write(conn, READ)
    async with database.transaction() as conn:
        await chain.extend(conn)
    for statement in statements:
        with pytest.raises(psycopg.errors.RestrictViolation):
            async with database.transaction() as conn:
                await conn.execute(statement)


async def test_audit_events_are_no_events_of_the_log_that_subscriptions_and_exports_read(database: Database) -> None:
    async with database.transaction() as conn:
        await audit.write(conn, READ)
        await audit.write_many(conn, [READ, READ])
    async with database.transaction() as conn:
        await chain.extend(conn)
        await events.settle(conn)
        assert await events.after(conn, 0, 10) == []
        stored = await conn.execute("SELECT count(*) FROM resource WHERE resource_type = 'AuditEvent'")
        assert await stored.fetchone() == (0,)
    topics = Path(__file__).parents[3] / "conformance" / "topics"
    told = [json.loads(file.read_text()) for file in topics.glob("*.json")]
    assert told
    assert not any("AuditEvent" in trigger["resource"] for topic in told for trigger in topic["resourceTrigger"])


def test_a_kind_that_nobody_documented_is_refused() -> None:
    with pytest.raises(ValueError, match="audit/kinds"):
        AuditEntry("reed", "R", "0", "viewer")
