"""Which subscriptions an event finds, and what it costs to find them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from tests.conftest import BASES

from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.record import events, resources
from wetread.record.search.index import Extraction
from wetread.record.search.parameters import parameters_of
from wetread.record.subscriptions import form, keys, matching, rows
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.record.subscriptions.topics import of_criteria
from wetread.store.database import Connection, Database

BASE = "http://wetread.example/fhir"
OWNER = Reader("ehr", (Scope.parse("system/*.rs"),))
AT = datetime(2026, 1, 1, tzinfo=UTC)
CHANNEL = {"kind": "rest-hook", "endpoint": "http://127.0.0.1:9/", "content_type": "application/fhir+json"}
CHANNEL |= {"content": "id-only", "headers": [], "timeout_s": 10}


def _observation(patient: str, *, code: str = "1", status: str = "final", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": more.pop("id", f"of-{patient}-{code}"),
        "status": status,
        "code": {"coding": [{"system": "urn:codes", "code": code}]},
        "subject": {"reference": f"Patient/{patient}"},
        **more,
    }


def _keys(query: str) -> frozenset[str]:
    topic, filters = of_criteria(f"Observation?{query}" if query else "Observation")
    return keys.keys_of("", topic.resource_types, form.tests(filters, (BASE,)))


class TestKeys:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("", {"|Observation|"}),
            ("code=urn:codes|1", {"|Observation|code=1"}),
            ("code=1,2&status=final", {"|Observation|code=1", "|Observation|code=2"}),
            ("code=1&subject=Patient/p", {"|Observation|subject=Patient/p#"}),
            ("subject=p", {"|Observation|subject=/p"}),
            ("subject=Patient/p,Patient/q", {"|Observation|subject=Patient/p#", "|Observation|subject=Patient/q#"}),
            ("code:not=1", {"|Observation|"}),
            ("code=urn:codes|", {"|Observation|"}),
            ("date=ge2020", {"|Observation|"}),
            ("subject:missing=false", {"|Observation|"}),
        ],
    )
    def test_are_those_of_the_most_selective_filter(self, query: str, expected: set[str]) -> None:
        assert _keys(query) == expected

    @pytest.mark.parametrize(
        "query",
        [
            "code=1",
            "code=urn:codes|1",
            "code=9,1",
            "status=final",
            "subject=Patient/p1",
            "subject=p1",
            f"subject={BASE}/Patient/p1",
            "patient=Patient/p1",
            "patient=p1&code=1",
            "status:not=cancelled",
            "code:not=2",
            "performer=https://elsewhere.example/fhir/Practitioner/x",
            "category=imaging&subject=Patient/p1",
            "identifier=urn:ids|7",
            "_tag=urn:tags|a",
            "_id=seven",
        ],
    )
    def test_lead_from_every_resource_that_passes_to_the_subscription(self, query: str) -> None:
        resource = _observation(
            "p1",
            id="seven",
            performer=[{"reference": "https://elsewhere.example/fhir/Practitioner/x"}],
            category=[{"coding": [{"code": "imaging"}]}],
            identifier=[{"system": "urn:ids", "value": "7"}],
            meta={"tag": [{"system": "urn:tags", "code": "a"}]},
        )
        version = Extraction(resource)
        _, filters = of_criteria(f"Observation?{query}")
        tests = form.tests(filters, (BASE,))
        assert all(test.passes(version) for test in tests), "the example is wrong"
        everything = [code for code, p in parameters_of("Observation").items() if p.kind in ("token", "reference")]
        assert keys.keys_of_version("", "Observation", version, everything) & _keys(query)

    def test_of_one_topic_are_not_those_of_another(self) -> None:
        tests = form.tests([("Observation", "code=1")], (BASE,))
        assert keys.keys_of("urn:a", ["Observation"], tests).isdisjoint(keys.keys_of("urn:b", ["Observation"], tests))


async def _subscribe(conn: Connection, id_: str, query: str, **columns: Any) -> None:
    """A subscription by criteria, as one stands that is active."""
    criteria = f"Observation?{query}" if query else "Observation"
    topic, filters = of_criteria(criteria)
    given = {"status": "active", "started_seq": 0, "owner": Jsonb(rows.owner_row(OWNER)), "ends_at": None, **columns}
    await conn.execute(
        """INSERT INTO subscription_state (id, status, topic, criteria, filters, channel, owner, started_seq, ends_at)
           VALUES (%s, %s, '', %s, %s, %s, %s, %s, %s)""",
        (
            id_,
            given["status"],
            criteria,
            Jsonb(filters),
            Jsonb({**CHANNEL, **given.get("channel", {})}),
            given["owner"],
            given["started_seq"],
            given["ends_at"],
        ),
    )
    await keys.write(conn, {id_: keys.keys_of("", topic.resource_types, form.tests(filters, (BASE,)))})


async def _match(conn: Connection, *written: dict[str, Any]) -> int:
    before = await events.last(conn)
    for resource in written:
        await resources.put(conn, resource)
    await events.settle(conn)
    return await matching.match(conn, {}, BASE, await events.after(conn, before, 1000))


async def _numbered(conn: Connection) -> dict[str, list[tuple[int, str]]]:
    found = await conn.execute("SELECT subscription_id, number, resource_id FROM subscription_event ORDER BY 1, 2")
    return {
        id_: [(number, focus) for _, number, focus in group]
        for id_, group in itertools.groupby(await found.fetchall(), lambda row: row[0])
    }


@asynccontextmanager
async def _counting(conn: Connection) -> AsyncIterator[list[str]]:
    """The statements that are sent meanwhile."""
    sent: list[str] = []
    execute = psycopg.AsyncCursor.execute

    async def counted(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(str(query))
        return await execute(self, query, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.AsyncCursor, "execute", counted)
        yield sent


class TestMatching:
    async def test_gives_each_subscription_what_passes_its_filters_numbered_in_the_logs_order(
        self, database: Database
    ) -> None:
        async with database.transaction() as conn:
            await _subscribe(conn, "all", "")
            await _subscribe(conn, "p1", "subject=Patient/p1")
            await _subscribe(conn, "p1-final", "subject=Patient/p1&status=final")
            await _subscribe(conn, "coded", "code=2,3")
            await _subscribe(conn, "not-2", "code:not=2")
            made = await _match(
                conn,
                _observation("p1"),
                _observation("p2", code="2"),
                _observation("p1", code="3", status="preliminary"),
            )
            numbered = await _numbered(conn)
        assert made == 10
        assert numbered == {
            "all": [(1, "of-p1-1"), (2, "of-p2-2"), (3, "of-p1-3")],
            "coded": [(1, "of-p2-2"), (2, "of-p1-3")],
            "not-2": [(1, "of-p1-1"), (2, "of-p1-3")],
            "p1": [(1, "of-p1-1"), (2, "of-p1-3")],
            "p1-final": [(1, "of-p1-1")],
        }

    async def test_goes_on_counting_for_who_is_in_error_and_makes_only_the_active_due(self, database: Database) -> None:
        async with database.transaction() as conn:
            for status in ("active", "error", "requested", "off"):
                await _subscribe(conn, status, "", status=status)
            await _subscribe(conn, "socket", "", channel={"kind": "websocket"})
            await _subscribe(conn, "ended", "", ends_at=AT)
            await _subscribe(conn, "new", "", started_seq=None)
            assert await _match(conn, _observation("p1")) == 4
            found = await conn.execute(
                "SELECT id FROM subscription_state WHERE due_at IS NOT NULL AND events_since_start = 1"
            )
            assert await found.fetchall() == [("active",)]

    async def test_looks_at_no_subscription_that_it_does_not_concern(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held: list[str] = []
        hold = matching._hold

        async def watched(conn: Connection, ids: Any) -> Any:
            held.extend(ids)
            return await hold(conn, ids)

        monkeypatch.setattr(matching, "_hold", watched)
        statements = []
        async with database.transaction() as conn:
            for many in (1, 300):
                for n in range(many):
                    await _subscribe(conn, f"{many}-{n}", f"subject=Patient/p{n}&status=final")
                before = await events.last(conn)
                await resources.put(conn, _observation("p0", note=[{"text": str(many)}]))
                await events.settle(conn)
                found = await events.after(conn, before, 10)
                async with _counting(conn) as sent:
                    await matching.match(conn, {}, BASE, found)
                statements.append(len(sent))
        assert held == ["1-0", *sorted(["1-0", "300-0"])]
        assert statements[0] == statements[1], "the number of statements grows with that of subscriptions"

    async def test_reads_of_a_version_what_somebody_asks_for(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        rows_of = Extraction.rows

        def watched(version: Extraction, code: str) -> Any:
            asked.append(code)
            return rows_of(version, code)

        monkeypatch.setattr(Extraction, "rows", watched)
        async with database.transaction() as conn:
            await _subscribe(conn, "p1", "subject=Patient/p1&status=final")
            await _subscribe(conn, "dated", "code=7&date=ge2020")
            before = await events.last(conn)
            for patient in ("p1", "p2"):
                await resources.put(conn, _observation(patient))
                await events.settle(conn)
                [event] = await events.after(conn, before, 10)
                before = event.seq
                asked.clear()
                await matching.match(conn, {}, BASE, [event])
                if patient == "p1":
                    assert {"subject", "status"} <= set(asked)
                    assert set(asked).isdisjoint({"date", "category", "identifier"})
                else:
                    assert set(asked) == {"subject", "code"}

    @pytest.mark.parametrize("query", ["patient=Patient/p1", "subject:missing=false&subject=Patient/p1"])
    @pytest.mark.parametrize("base", [BASE, *BASES[1:]])
    async def test_knows_the_server_by_what_it_is_called_and_was_called_before(
        self, query: str, base: str, database: Database
    ) -> None:
        async with database.transaction() as conn:
            form_of = {
                "criteria": f"Observation?{query.replace('Patient/', f'{base}/Patient/')}",
                "channel": {"type": "rest-hook", "endpoint": "http://127.0.0.1:9/", "payload": "application/fhir+json"},
            }
            asked = {"resourceType": "Subscription", "id": "s1", "status": "requested", "reason": "r", **form_of}
            made, _ = await resources.update(conn, SYSTEM, asked)
            subscriptions = Subscriptions({}, AllowedEndpoints.parse(("127.0.0.0/8",)), BASE)
            await subscriptions.accept(conn, OWNER, made.resource())
            assert await subscriptions.activate(conn, "s1", 1)
            referring = _observation("p1", id="by-address") | {"subject": {"reference": f"{base}/Patient/p1"}}
            assert await _match(conn, _observation("p1"), referring, _observation("p2")) == 2
            await subscriptions.index_all(conn)
            assert await _match(conn, _observation("p1", code="2")) == 1

    async def test_notes_of_whom_each_version_tells(self, database: Database) -> None:
        async with database.transaction() as conn:
            await _subscribe(conn, "all", "")
            await _match(conn, _observation("p1", id="moves"), _observation("p2", id="moves"))
            found = await conn.execute("SELECT patient_ids FROM subscription_event ORDER BY number")
            assert await found.fetchall() == [(["p1"],), (["p2"],)]

    async def test_keeps_from_an_owner_that_it_may_not_see_the_number_too(self, database: Database) -> None:
        narrowed = replace(OWNER, scopes=(Scope.parse("system/Observation.rs?status=final"),))
        async with database.transaction() as conn:
            await _subscribe(conn, "narrow", "", owner=Jsonb(rows.owner_row(narrowed)))
            assert await _match(conn, _observation("p1", code="1"), _observation("p1", code="2", status="amended")) == 1
            assert await _numbered(conn) == {"narrow": [(1, "of-p1-1")]}

    async def test_keys_are_made_anew_for_what_an_older_version_kept(self, database: Database) -> None:
        async with database.transaction() as conn:
            await _subscribe(conn, "old", "subject=Patient/p1")
            await conn.execute("UPDATE subscription_key SET key = 'of before'")
            assert await _match(conn, _observation("p1")) == 0
            await Subscriptions({}, AllowedEndpoints.parse(()), BASE).index_all(conn)
            assert await _match(conn, _observation("p1", code="2")) == 1
